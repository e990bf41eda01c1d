"""A8, network and IPC: what belongs to the host's namespaces, and to another run's, cannot be reached.

Abstract unix sockets and loopback services live in the network namespace, SysV and POSIX queues in the IPC namespace; a namespace of one's own is the wall,
and before it strict's filter, behind it Landlock's scope for abstract sockets.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from escape.support import Alteration, Run, drop, neighbour, no_filter, run_payload, same_namespaces

from sandbox.abi import uapi
from sandbox.kernel.probe import probe_host
from sandbox.plan.steps import LoopbackUp, RestrictLandlock
from sandbox.policy.profile import LandlockMode, NetworkMode

IPC_CREAT, IPC_RMID = 0o1000, 0
LANDLOCK_ABI = probe_host().landlock_abi
NO_LANDLOCK: dict[str, Any] = {"landlock": LandlockMode.OFF}
host_network: tuple[Alteration, ...] = (same_namespaces(uapi.CLONE_NEWNET), drop(LoopbackUp))
host_ipc: Alteration = same_namespaces(uapi.CLONE_NEWIPC)
libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Offered:
    """What the host offers: names that a payload may know."""

    name: str
    port: int
    key: int

    @property
    def words(self) -> tuple[str, ...]:
        return ("connect", self.name, str(self.port), str(self.key))


@pytest.fixture
def offered() -> Iterator[Offered]:
    """Listen on an abstract name and on loopback, and make a shared memory segment and a queue, as the host's services do."""
    name, key = f"a8-{os.getpid()}", 0x5A000000 | (os.getpid() & 0xFFFFFF)
    with socket.socket(socket.AF_UNIX) as unix, socket.socket(socket.AF_INET) as tcp:
        unix.bind("\0" + name)
        unix.listen()
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        segment = libc.shmget(key, 4096, 0o666 | IPC_CREAT)
        assert segment >= 0
        mask = os.umask(0)
        queue = libc.mq_open(f"/{name}".encode(), os.O_CREAT | os.O_RDWR, 0o666, None)
        os.umask(mask)
        try:
            yield Offered(name, tcp.getsockname()[1], key)
        finally:
            libc.shmctl(segment, IPC_RMID, None)
            if queue >= 0:
                libc.mq_unlink(f"/{name}".encode())
                os.close(queue)


def reach(offered: Offered, *alter: Alteration, profile: str = "default", **how: Any) -> Run:
    return run_payload("a8_reach.py", *offered.words, profile=profile, alter=alter, **how)


@pytest.mark.parametrize("profile", ["default", "build", "shell"])
def test_services_of_the_host(offered: Offered, profile: str) -> None:
    """Rule: own network and IPC namespaces, lo up inside or not. Everything the host offers is tried by its right name."""
    run = reach(offered, profile=profile)
    # EPERM: no such family in `build`; EACCES: Landlock knows no path of a queue.
    assert run["abstract"] in ("ECONNREFUSED", "EPERM")
    assert run["tcp"] in ("ECONNREFUSED", "ENETUNREACH", "EPERM")
    assert run["sysv"] in ("ENOENT", "EPERM") and run["queue"] in ("ENOENT", "EACCES", "EPERM")
    assert {run["outside"], run["metadata"]} <= {"ENETUNREACH", "EPERM"} and run["names"] == "gaierror"


@pytest.mark.parametrize("profile", ["strict", "python"])
def test_services_of_the_host_by_the_filter(offered: Offered, profile: str) -> None:
    """Rule: strict has no sockets, no SysV and no queues; python has unix sockets. Removed: the filter; then the namespaces still hold."""
    run = reach(offered, profile=profile)
    assert run["abstract"] == ("EPERM" if profile == "strict" else "ECONNREFUSED")
    assert run["tcp"] == run["sysv"] == run["outside"] == "EPERM" and run["queue"] in ("EPERM", "ENOSYS")
    run = reach(offered, no_filter, profile=profile)
    assert (run["abstract"], run["sysv"]) == ("ECONNREFUSED", "ENOENT") and run["tcp"] == run["outside"] == "ENETUNREACH"


def test_without_a_network_namespace(offered: Offered) -> None:
    """Removed: the network namespace; then the host's loopback services answer. Landlock's scope (ABI 6) keeps abstract sockets; removed, too, they answer."""
    run = reach(offered, *host_network)
    assert run["tcp"] == "ok" and run["abstract"] == ("EPERM" if LANDLOCK_ABI >= 6 else "ok")
    run = reach(offered, *host_network, profile_changes=NO_LANDLOCK)
    assert run["tcp"] == "ok" and run["abstract"] == "ok"
    # And the scope alone, with the namespace, is the second of two.
    run = reach(offered, profile_changes=NO_LANDLOCK)
    assert run["abstract"] == "ECONNREFUSED"


def test_without_an_ipc_namespace(offered: Offered) -> None:
    """Removed: the IPC namespace; then the host's segment and queue are found."""
    run = reach(offered, profile_changes=NO_LANDLOCK)
    assert (run["sysv"], run["queue"]) == ("ENOENT", "ENOENT")
    run = reach(offered, host_ipc, profile_changes=NO_LANDLOCK)
    assert (run["sysv"], run["queue"]) == ("ok", "ok")


def test_two_runs_share_nothing() -> None:
    """Rule: the same between two runs of one user. Removed: both namespaces of both; then the second finds everything of the first."""
    walls: list[tuple[tuple[Alteration, ...], dict[str, Any]]] = [((), {}), ((*host_network, host_ipc), {"profile_changes": NO_LANDLOCK})]
    for alter, how in walls:
        name, key = f"a8-run-{os.getpid()}", 0x5B000000 | (os.getpid() & 0xFFFFFF)
        with _segment_removed(key), neighbour("a8_reach.py", "offer", name, str(key), profile="default", alter=alter, **how) as beside:
            port = int(beside.wait_for("port"))
            assert beside.facts["sysv"] == "ok"
            run = reach(Offered(name, port, key), *alter, **how)
            beside.end()
        found = {run["abstract"], run["tcp"], run["sysv"]}
        assert found == {"ok"} if alter else "ok" not in found, run.facts


def test_nothing_of_it_outlives_the_run() -> None:
    """Rule: SysV objects outlive their process; they die with their namespace. Removed: the namespace; then the segment is the host's to clean up."""
    for alter, left in (((), False), ((host_ipc,), True)):
        key = 0x5C000000 | (os.getpid() & 0xFFFFFF)
        with _segment_removed(key):
            run = run_payload("a8_reach.py", "offer", f"a8-left-{os.getpid()}", str(key), profile="default", alter=alter)
            assert run["sysv"] == "ok"
            assert (libc.shmget(key, 0, 0) >= 0) is left


@contextlib.contextmanager
def _segment_removed(key: int) -> Iterator[None]:
    try:
        yield
    finally:
        segment = libc.shmget(key, 0, 0)
        if segment >= 0:
            libc.shmctl(segment, IPC_RMID, None)


def test_loopback_is_the_runs_own() -> None:
    """Rule: lo may be up inside; strict's is not even that. A server and its client within one run, and the interfaces it sees. Removed: LoopbackUp."""
    code = (
        "import socket,threading\ns=socket.create_server(('127.0.0.1',0));"
        "threading.Thread(target=lambda: s.accept()[0].sendall(b'hello=yes')).start();print(socket.create_connection(s.getsockname()).recv(99).decode())"
    )
    command = ("python3", "-S", "-B", "-c", code)
    assert run_payload(command, profile="default")["hello"] == "yes"
    assert "hello" not in run_payload(command, profile="default", without=[LoopbackUp], limits={"wall": 1}).facts
    for mode, state in ((NetworkMode.LOOPBACK, "up"), (NetworkMode.NONE, "down")):
        run = run_payload("a8_interfaces.py", profile="default", profile_changes={"network": mode})
        assert (run["interfaces"], run["lo"]) == ("lo", state)
    before = set(os.listdir("/sys/class/net"))
    run = run_payload("a8_interfaces.py", profile="default", alter=host_network)
    seen, after = set(run["interfaces"].split(",")), set(os.listdir("/sys/class/net"))
    assert (before & after) - {"bonding_masters"} <= seen <= before | after  # somebody else's may come and go meanwhile


def test_a_socket_file_in_a_share(tmp_path: Path) -> None:
    """Rule: exposed host sockets are escapes, and read-only does not stop connect(). Sharing one is refused."""
    from sandbox.errors import SandboxError

    path = tmp_path / "service"
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(str(path))
        service.listen()
        with pytest.raises(SandboxError, match="socket"):
            run_payload(("true",), profile="default", volumes=[f"{path}:/service"])


def test_landlock_scope_is_in_the_plan() -> None:
    """The scope that `test_without_a_network_namespace` relies on is asked for wherever the kernel has it."""
    run = run_payload(("true",))
    steps = [step for step in run.plan.payload if isinstance(step, RestrictLandlock)]
    assert [step.scoped for step in steps] == ([3] if LANDLOCK_ABI >= 6 else [0] if LANDLOCK_ABI else [])
