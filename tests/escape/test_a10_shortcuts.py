"""A10: what a server hands from one run to the next: the root, the network namespace, itself. Nothing of the last run, and no way from one run to another.

Each attack is made under the whole plan, where it must fail, and with the layer taken out that stops it, where it must succeed: a step of the plan, or a check
of the executor, which is then built without it. docs/explanation/launching.md has the argument of each shortcut.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from escape.support import drop, no_filter, one_user_namespace, payload_files
from kernel.served import Alteration, Resident, prepare_for

from sandbox.abi import uapi
from sandbox.kernel.probe import probe_host
from sandbox.launch import spawn
from sandbox.plan.codec import Kind
from sandbox.plan.steps import (
    CloexecFrom,
    DropCapabilities,
    ForbidNamespaces,
    LimitWatches,
    MaskProc,
    MountTmpfs,
    Plan,
    ReportStarted,
    RootReadOnly,
)
from sandbox.plan.template import may_recycle_network
from sandbox.policy.profile import LandlockMode, NetworkMode, ProcMode
from sandbox.record import replace

pytestmark = pytest.mark.skipif(len(spawn.executor_command()) > 1, reason="the native executor is not built")

SOURCE = Path(spawn.__file__).parent
EXECUTORS = ("native", "python")
NO_LANDLOCK: dict[str, Any] = {"landlock": LandlockMode.OFF}
SCOPES = probe_host().landlock_abi >= 6
keep_capabilities = drop(("payload", DropCapabilities))


def resident(
    what: str, *arguments: str, profile: str = "python", executor: str = "native", alter_server: Alteration | None = None, **changes: Any
) -> Resident:
    """Start a server whose runs execute the payload, with profile `python` (unix sockets) unless another is named."""
    argv, files = payload_files("a10_shortcuts.py")
    prepared = prepare_for((*argv, what, *arguments), profile, files=files, **changes)
    return Resident(prepared, executor=executor, **({"alter_server": alter_server} if alter_server else {}))


def argv(what: str, *arguments: str) -> tuple[str, ...]:
    """Return another command for the same server."""
    return (*payload_files("a10_shortcuts.py")[0], what, *arguments)


def both(*alterations: Alteration) -> Alteration:
    """Return several alterations as one."""

    def alter(plan: Plan) -> Plan:
        for alteration in alterations:
            plan = alteration(plan)
        return plan

    return alter


@contextlib.contextmanager
def built_without(executor: str, directory: Path, native: tuple[str, str], reference: tuple[str, str]) -> Iterator[None]:
    """Use an executor from which a check was taken out: (text, text in its place) of either source."""
    name, (old, new) = ("init.c", native) if executor == "native" else ("executor.py", reference)
    text = (SOURCE / "native" / name if executor == "native" else SOURCE / name).read_text()
    assert text.count(old) == 1, f"`{old}` is in {name} {text.count(old)} times"
    changed = directory / name
    changed.write_text(text.replace(old, new).replace("os.path.abspath(__file__)", repr(str(SOURCE / name))))
    with pytest.MonkeyPatch.context() as patch:
        if executor == "native":
            spec = importlib.util.spec_from_file_location("build_init", SOURCE.parents[1] / "scripts" / "build_init.py")
            assert spec is not None and spec.loader is not None
            builder = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(builder)
            patch.setattr(spawn, "NATIVE", str(builder.build_init(directory / "sandbox-init", source=changed)))
        else:
            patch.setattr(spawn, "REFERENCE", str(changed))
        yield


# ---- the root ------------------------------------------------------------------------------------------------------------


def tmp_of_the_server(plan: Plan) -> Plan:
    """The server mounts /tmp, once for all runs."""
    step = MountTmpfs(path="/tmp", size_bytes=1 << 20, inodes=100, mode=0o1777, executable=True)
    place = next(index for index, other in enumerate(plan.init) if isinstance(other, RootReadOnly))
    return replace(plan, init=(*plan.init[:place], step, *plan.init[place:]))


def no_own_tmp(plan: Plan) -> Plan:
    """The run mounts none over it."""
    return replace(plan, init=tuple(step for step in plan.init if not (isinstance(step, MountTmpfs) and step.path == "/tmp")))


def test_no_file_of_the_last_run() -> None:
    """Rule: the server's root is read-only and what can be written is mounted by the run. Removed: either; then the next run reads what this one wrote."""
    with resident("leave-files") as whole:
        left, seen = whole.run().facts, whole.run(argv("look-files")).facts
        assert (left["tmp"], left["dev_shm"], left["home_user"]) == ("ok", "ok", "ok") and left["run"] != "ok" and left["etc"] != "ok"
        assert set(seen.values()) == {"ENOENT"}
    # Landlock is another wall around the root, and so out of the way here.
    with resident("leave-files", alter_server=drop(RootReadOnly), **NO_LANDLOCK) as open_root:
        open_root.run()
        assert (seen := open_root.run(argv("look-files")).facts)["run"] == "ok" and seen["etc"] == "ok" and seen["tmp"] == "ENOENT"
    with resident("leave-files", alter_server=tmp_of_the_server) as one_tmp:
        one_tmp.run(alter=no_own_tmp)
        assert one_tmp.run(argv("look-files"), alter=no_own_tmp).facts["tmp"] == "ok"


def test_what_lies_under_the_runs_own_proc() -> None:
    """Rule: the server's /proc, in which every run's processes are, is under the run's own, in a mount namespace over which the payload has no right.

    Removed: filter, capabilities and the user namespace, one after the other; only with all three gone a neighbour is seen.
    """
    how: dict[str, Any] = {"profile": "default", "uid": 0, "gid": 0, **NO_LANDLOCK}
    with resident("look-proc", **how) as server, server.start(("/bin/sleep", "900")) as other:
        other.go()
        for alter in (drop(MaskProc), both(drop(MaskProc), no_filter), both(drop(MaskProc), no_filter, keep_capabilities)):
            run = server.run(alter=alter)
            assert run.facts["umount"] == "EPERM" and run.facts["neighbour"] == "none", run.out
        run = server.run(alter=both(drop(MaskProc), no_filter, keep_capabilities, one_user_namespace))
        assert run.facts["umount"] == "ok" and run.facts["neighbour"] == "seen", run.out


# ---- the network namespace -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_socket_that_outlives_its_run(executor: str, tmp_path: Path) -> None:
    """Rule: `sockets: used 0`, or the namespace is thrown away. The run's socket lies in a queue outside of the sandbox, with its abstract name.

    Removed: the check; then the next run connects to the name that the last one has left.
    """
    native = ("        if (got != sizeof text || text[i] != empty[i])\n            return 0;", "        (void)empty;")
    reference = ('return os.read(fd, 16) == b"sockets: used 0\\n"', "return True")

    def leave_and_look(**changes: Any) -> str:
        ours, theirs = socket.socketpair()
        with ours, theirs, resident("listen", "outside", executor=executor, **changes) as server:
            first = server.run(stdin=theirs.fileno(), recycle=True)
            assert first.facts == {"bound": "ok", "sent": "ok"}, first.out
            return server.run(argv("connect"), recycle=True).facts["connected"]

    assert leave_and_look() == leave_and_look(**NO_LANDLOCK) == "ECONNREFUSED"
    with built_without(executor, tmp_path, native, reference):
        assert leave_and_look() == ("EPERM" if SCOPES else "ok"), "Landlock's scope is the second wall"
        assert leave_and_look(**NO_LANDLOCK) == "ok"


@pytest.mark.parametrize("executor", EXECUTORS)
def test_sockets_in_a_cycle(executor: str) -> None:
    """Two sockets that lie in each other's queues live until the kernel's collector finds them; until then the namespace is not handed out."""
    with resident("listen", "cycle", executor=executor) as server:
        for _ in range(5):
            assert server.run(recycle=True).facts == {"bound": "ok", "sent": "ok"}
            assert server.run(argv("connect"), recycle=True).facts["connected"] == "ECONNREFUSED"


@pytest.mark.parametrize("executor", EXECUTORS)
def test_no_two_runs_in_one_network(executor: str, tmp_path: Path) -> None:
    """Rule: a namespace is handed out only after its run is gone. Removed: that the server notes who has it; then a neighbour connects."""
    native = ("if (!members[i].pid && members[i].net >= 0 && !warm)", "if (members[i].net >= 0 && !warm)")
    reference = ("            net = self._idle.pop()\n            return net,", "            net = self._idle[-1]\n            return net,")

    def meet(**changes: Any) -> str:
        read_end, write_end = os.pipe()
        try:
            with resident("listen", "hold", executor=executor, **changes) as server:
                server.run(("/bin/true",), recycle=True)  # so that there is one to be handed out
                with server.start(stdin=read_end, recycle=True) as holder:
                    holder.go()
                    holder.read_until(b"bound=ok\n")
                    return server.run(argv("connect"), recycle=True).facts["connected"]
        finally:
            os.close(read_end)
            os.close(write_end)

    assert meet() == meet(**NO_LANDLOCK) == "ECONNREFUSED"
    with built_without(executor, tmp_path, native, reference):
        assert meet() == ("EPERM" if SCOPES else "ok")
        assert meet(**NO_LANDLOCK) == "ok"


def test_only_who_has_local_sockets_gets_a_used_one() -> None:
    """Rule: `may_recycle_network`, a proof about the filter. Without it: a flow label of IPv6 stays for a minute after its socket, and no count shows it.

    Even then no address, no sysctl and no loopback: the namespace is owned by the server's user namespace, in which the payload has nothing.
    """
    with resident("leave-network", profile="default", network=NetworkMode.NONE, proc=ProcMode.FULL) as server:
        assert not may_recycle_network(server.request)
    with resident("leave-network", "sysctl", profile="python", proc=ProcMode.FULL) as server:
        assert may_recycle_network(server.request)
        left = server.run(recycle=True).facts
        assert left["label"] == left["address"] == "EPERM" and left["sysctl"] != "ok"
        left = server.run(recycle=True, alter=both(no_filter, drop(MaskProc))).facts
        assert left == {"label": "ok", "address": "EPERM", "sysctl": "EACCES"}
        seen = server.run(argv("look-network"), recycle=True, alter=both(no_filter, drop(MaskProc))).facts
        assert (seen["label"], seen["address"], seen["loopback"]) == ("ok", "none", "ENETUNREACH") and seen["sockets"] == "sockets: used 0"
        assert seen["sysctl"] != "77"


def test_a_payload_with_rights_over_the_network() -> None:
    """Rule: the payload's user namespace is a child of the one that owns the network. Removed: that, and all before it; then an address and a sysctl stay."""
    bare = both(no_filter, drop(MaskProc), keep_capabilities)
    shared = both(one_user_namespace, drop(ForbidNamespaces))  # that limit would be the server's own
    how: dict[str, Any] = {"profile": "python", "proc": ProcMode.FULL, "uid": 0, "gid": 0, **NO_LANDLOCK}
    with resident("set-sysctl", **how) as server:
        assert server.run(recycle=True, alter=bare).facts.get("sysctl") != "ok"
        assert server.run(recycle=True, alter=both(bare, shared)).facts["sysctl"] == "ok"
        assert server.run(argv("look-network"), recycle=True, alter=bare).facts["sysctl"] == "77"
    with resident("leave-network", **how) as server:
        assert server.run(recycle=True, alter=bare).facts["address"] == "EPERM"
        assert server.run(recycle=True, alter=both(bare, shared)).facts["address"] == "ok"
        assert server.run(argv("look-network"), recycle=True, alter=bare).facts["address"] == "ok"


# ---- the server and other runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", EXECUTORS)
def test_no_descriptor_of_the_server(executor: str, tmp_path: Path) -> None:
    """Rule: the server's child closes everything but its own before its first row, init everything but two, execve the rest. Removed: all three; then
    the payload has the server's socket of requests and may ask for runs itself."""
    native = ("CALL(close_range, passed, proc < 0 ? ~0u : (u32)proc - 1, 0, 0, 0);", ";")
    reference = ("                _call(_CLOSE_RANGE, passed, self._proc - 1, 0)", "                pass")
    leaky = drop(("payload", CloexecFrom))

    def look(alter: Alteration) -> dict[str, str]:
        with resident("descriptors", executor=executor) as server, server.start(("/bin/sleep", "900")) as other:
            other.go()
            return server.run(alter=alter).facts

    assert look(lambda plan: plan) == {"found": "none"}
    # The descriptors 4 to 6 and the host's /proc are the run's own until execve.
    assert "96" not in look(leaky)["found"].split()
    with built_without(executor, tmp_path, native, reference):
        assert look(lambda plan: plan)["found"].split() in (["96"], ["none"]), "close-on-exec is the second wall"
        facts = look(leaky)
        assert "96" in facts["found"].split() and facts["request"] == "ok"


def test_no_signal_reaches_another_run() -> None:
    """Rule: a pid namespace of its own. Removed: that; then kill(-1) ends the neighbour (it cannot reach out of the server's own pid namespace)."""

    def in_the_servers(plan: Plan) -> Plan:
        return replace(plan, init=tuple(replace(step, pid_one=False) if isinstance(step, ReportStarted) else step for step in plan.init))

    for flags, expected in ((None, True), (uapi.CLONE_NEWNS | uapi.CLONE_NEWIPC | uapi.CLONE_NEWUTS | uapi.CLONE_NEWNET, False)):
        with resident("kill") as server, server.start(("/bin/sleep", "900")) as other:
            other.go()
            watch = os.pidfd_open(other.pids[Kind.READY])
            run = server.run(flags=flags, alter=in_the_servers if flags else lambda plan: plan)
            if flags is None:
                # From its own init a signal comes back by Landlock's scope, or is not taken: it is pid 1.
                assert run.facts == {"kill": "ESRCH", "signal-1": "EPERM" if SCOPES else "ok", "after": "alive"}
            ready, _, _ = select.select([watch], [], [], 0 if expected else 60)
            assert bool(ready) is not expected
            os.close(watch)
            assert server.server.alive and server.run(("/bin/true",)).status == 0


def test_one_run_does_not_use_up_the_watches_of_another() -> None:
    """Rule: the limit is that of the payload's own user namespace. Removed: the step; then one run takes what the user has."""
    read_end, write_end = os.pipe()
    try:
        with resident("watches", profile="default") as server, server.start(stdin=read_end) as first:
            first.go()
            assert first.read_until(b"made=").partition(b"made=")[2] == b"32\n"
            assert server.run().facts["made"] == "32"
            greedy = server.run(alter=drop(LimitWatches)).facts
            assert int(greedy["made"]) > 32
    finally:
        os.close(read_end)
        os.close(write_end)


def test_strict_needs_no_limit_of_watches() -> None:
    """The shortcut: a filter that refuses inotify altogether stands in for the limit. Removed: the filter; then there is none."""
    with resident("watches", profile="strict") as server:
        assert not any(isinstance(step, LimitWatches) for step in _payload(server))
        assert server.run().facts == {"error": "EPERM", "made": "0"}
        assert int(server.run(alter=no_filter).facts["made"]) > 32


def _payload(server: Resident) -> tuple[Any, ...]:
    from sandbox.plan.template import build_run_plan

    return build_run_plan(server.request, template=True).payload


def test_locks_on_the_servers_root_are_like_locks_on_shared_files() -> None:
    """Said, not stopped: locks of runs that live at once meet on files of the root, as on those of /usr in any tier. They die with their run."""
    read_end, write_end = os.pipe()
    try:
        with resident("lock", "/etc/passwd") as server:
            with server.start(stdin=read_end) as first:
                first.go()
                first.read_until(b"lock=ok\n")
                assert server.run().facts["lock"] == "EAGAIN"
            assert server.run().facts["lock"] == "ok"
    finally:
        os.close(read_end)
        os.close(write_end)
