"""A3, what belongs to others: sandboxes of the same user, and our own code, profiles and state."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from escape.support import (
    Alteration,
    Run,
    drop,
    insert,
    namespace_members,
    neighbour,
    no_filter,
    run_payload,
    run_plain,
    shared_directory,
)

import sandbox
from sandbox.errors import PolicyError
from sandbox.plan.root import Bind
from sandbox.plan.steps import (
    AttachTree,
    CloneDevice,
    CloneTree,
    MountProc,
    NewSession,
    NotDumpable,
    Plan,
    RestrictLandlock,
)
from sandbox.policy.locate import data_dir
from sandbox.policy.profile import CwdMode, ProcMode

no_session: Alteration = drop(NewSession)
no_landlock: Alteration = drop(RestrictLandlock)
dumpable: Alteration = drop(NotDumpable)
NO_PROC = {"proc": ProcMode.NONE}


def host_proc(plan: Plan) -> Plan:
    """Take the own /proc away: the host's is bound in its place, as it is outside."""
    tree = CloneTree(bind=Bind(path="/proc", source="/proc", directory=True, writable=True), key="host:proc")
    plan = insert("janitor" if os.geteuid() == 0 else "init", CloneDevice, tree)(plan)
    return replace(
        plan, init=tuple(AttachTree(path="/proc", key="host:proc") if isinstance(step, MountProc) else step for step in plan.init)
    )


# ---- neighbours ------------------------------------------------------------------------------------------------------

SECRET = "neighbours-secret-4711"


@pytest.fixture
def victim() -> Iterator[list[int]]:
    """A second sandbox of the same user with a secret; the host's numbers of its processes."""
    with neighbour("a3_neighbour.py", SECRET, same_user=True) as beside:
        yield namespace_members(beside.wait_for("ready"))


def look(pids: Sequence[int], **options: Any) -> Run:
    return run_payload("a3_look.py", SECRET[::-1], *map(str, pids), same_user=True, **options)


def test_two_sandboxes_do_not_see_each_other(victim: list[int]) -> None:
    """Rule: a pid namespace and a /proc of its own for every run, fresh tmpfs, nothing joined. The attacker even knows the numbers."""
    assert victim
    run = look(victim)
    assert (run["others"], run["found"]) == ("0", "nothing")
    for index in range(len(victim)):
        assert run[f"enter-{index}"] != "ok" and run[f"pidfd-{index}"] != "ok"
    assert run["left-tmp"] != "ok" and run["left-dev"] != "ok"


def test_with_the_hosts_proc_a_neighbour_is_seen(victim: list[int]) -> None:
    """Removed: the own /proc; then the neighbour's arguments are read. Its memory and namespaces are still held by the user namespaces."""
    run = look(victim, alter=(host_proc, no_filter, no_landlock))
    assert "cmdline" in run["found"] and int(run["others"]) > 0
    assert "environ" not in run["found"] and "root/tmp/secret" not in run["found"]
    assert all(run[f"enter-{index}"] != "ok" for index in range(len(victim)))


def test_a_neighbour_can_be_entered_by_its_user_from_outside(victim: list[int]) -> None:
    """Removed: everything. The same attack by a plain process of the same user joins the neighbour's namespaces and reads its tmpfs."""
    run = run_plain("a3_look.py", SECRET[::-1], *map(str, victim), as_caller=True)
    assert f"={SECRET}" in run.out.decode() and "root/tmp/secret" in run["found"]


def test_scratch_is_new_for_every_run() -> None:
    """Rule: /tmp and /dev/shm are per run (isolate shared /dev/shm until 2.6): the second run finds nothing of the first."""
    run_payload("a3_neighbour.py", SECRET)
    run = run_payload("a3_look.py", SECRET[::-1])
    assert run["left-tmp"] != "ok" and run["left-dev"] != "ok"


# ---- our own files ---------------------------------------------------------------------------------------------------

PACKAGE = Path(sandbox.__file__).resolve().parent


def own_files() -> dict[str, str]:
    """Return digests of the launcher, the package's modules, the shipped profiles and policies."""
    trees = (PACKAGE, Path(str(data_dir("profiles"))), Path(str(data_dir("policies"))))
    paths = [path for tree in trees for pattern in ("*.py", "*.toml", "sandbox-init") for path in tree.rglob(pattern)]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def fake_home(tmp_path: Path) -> Path:
    """Make a home directory of the caller without any file of ours in it."""
    home = shared_directory(tmp_path / "home")
    shared_directory(home / "work")
    return home


@pytest.mark.parametrize(
    "place",
    [
        "package",
        "checkout",
        "profiles",
        "policies",
        "interpreter",
        "home",
        ".config",
        ".config/sandbox",
        ".cache",
        ".local",
        ".local/state/sandbox",
    ],
)
def test_what_decides_the_next_run_is_never_shared_writable(tmp_path: Path, place: str) -> None:
    """CVE-2019-5736; firejail #7154, #7132. Rule: own code, profiles, state and caches, present or *absent*, are never writable inside."""
    home = fake_home(tmp_path)
    places = {
        "package": PACKAGE,
        "checkout": PACKAGE.parent,
        "profiles": Path(str(data_dir("profiles"))),
        "policies": Path(str(data_dir("policies"))),
        "interpreter": Path(sys.prefix),
        "home": home,
    }
    path = places.get(place) or home / place
    path.mkdir(parents=True, exist_ok=True)
    before = own_files()
    with pytest.raises(PolicyError, match="writable"):
        run_payload(["/bin/true"], volumes=[f"{path}:/shared:rw"], environ={"HOME": str(home), "PATH": "/usr/bin:/bin"})
    assert own_files() == before


def test_a_home_as_writable_working_directory_is_not_shared(tmp_path: Path) -> None:
    """Rule: as above, by the other way in: `cwd = "rw"` in the caller's home shares nothing; in a directory of it, that directory only."""
    home = fake_home(tmp_path)
    script = 'mkdir -p .config/sandbox/profiles && echo "[limits]" >.config/sandbox/profiles/strict.toml && echo made=$PWD'
    environ = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    for place in (home, home / "work"):
        run_payload(["/bin/sh", "-c", script], cwd=place, environ=environ, profile_changes={"cwd": CwdMode.WRITABLE}, same_user=True)
    assert not (home / ".config").exists()


def test_without_the_refusal_a_payload_writes_its_own_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removed: the list of protected paths; then the next run's profile is the payload's own work."""
    home = fake_home(tmp_path)
    monkeypatch.setattr("sandbox.rootfs.host.protected_paths", lambda *arguments: {})
    script = "mkdir -p /shared/.config/sandbox/profiles && echo hostile >/shared/.config/sandbox/profiles/strict.toml"
    run = run_payload(
        ["/bin/sh", "-c", script], volumes=[f"{home}:/shared:rw"], environ={"HOME": str(home), "PATH": "/usr/bin:/bin"}, same_user=True
    )
    assert run.result.ok
    assert (home / ".config/sandbox/profiles/strict.toml").read_text() == "hostile\n"
