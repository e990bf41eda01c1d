"""A4, named volumes: what a program leaves in one harms neither the next run nor whoever looks at it; nobody gets at another volume, at a lock, or past a size.

Each wall is shown with the attack, and with the attack succeeding where it is taken away.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from escape.support import ENVIRON, drop, in_child, neighbour, no_filter, run_payload
from escape.test_a4_shares import no_landlock

import sandbox
from sandbox.api import prepare as preparing
from sandbox.errors import PolicyError, SetupError
from sandbox.plan import lower_mounts
from sandbox.plan.steps import CloexecFrom, CloseFrom
from sandbox.rootfs.volumes import parse_tmpfs
from sandbox.volumes.opening import Opened, open_volumes
from sandbox.volumes.trees import remove_tree


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SANDBOX_DATA_DIR", str(tmp_path / "data"))
    yield tmp_path / "data/volumes"
    fd = os.open(tmp_path, os.O_RDONLY)  # what is nested so deep nobody else's `rm` takes away
    try:
        remove_tree(fd, "data")
    finally:
        os.close(fd)


def volumes_of(store: Path) -> dict[str, str]:
    return {**ENVIRON, "SANDBOX_DATA_DIR": str(store.parent)}


def test_what_is_left_in_a_volume_harms_nobody(store: Path, tmp_path: Path, sandbox_cli: Any) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("host")
    environ = volumes_of(store)
    first = run_payload("a4_volume_litter.py", "/v", str(outside), volumes=["v:/v"], environ=environ, alter=no_filter)
    assert first["done"] == "yes" and first["set-id"] == "ok" and first["link"] == "ok" and first["nest"] == "ok" and first["closed"] == "ok"
    assert first["device"] in ("EPERM", "EACCES") and first["hard"] == "EXDEV"
    assert first["escape"] in ("EBUSY", "EACCES", "EPERM", "EROFS") and first["above"] == "ENOENT"
    if os.geteuid():
        assert sandbox.volumes.find("v").measure() == (0, 0, False)  # even that it may not be looked at
    second = run_payload("a4_volume_next.py", "/v", volumes=["v:/v"], environ=environ, alter=no_filter)
    assert second["set-id-uid"] == second["uid"] and second["read-link"] == second["read-up"] == "ENOENT" and second["connect"] == "ECONNREFUSED"
    # The host's side: nothing is followed, nothing of theirs reaches a terminal, and all of it can be removed.
    found = sandbox.volumes.find("v")
    size, count, whole = found.measure()
    assert not whole and count > 250 and size > 0  # too deep to be counted, and said
    done = sandbox_cli("volume", "show", "v")
    assert done.returncode == 0 and b"\x1b" not in done.stdout and b"and more that could not be counted" in done.stdout
    sandbox.volumes.remove("v")
    assert ((outside / "secret").read_text() == "host" and os.listdir(store) == [".tmp", ".lock"]) or sorted(os.listdir(store)) == [".lock", ".tmp"]
    assert os.listdir(store / ".tmp") == []


@pytest.mark.root
@pytest.mark.parametrize("closed", [True, False], ids=["whole", "store open to others"])
def test_a_set_id_file_in_a_volume_is_out_of_reach_of_other_users(closed: bool, store: Path, tmp_path: Path) -> None:
    """On the disk it has its bits: who could get there would run it as its owner. The directory of volumes is 0700."""
    run_payload("a4_volume_litter.py", "/v", "/x", volumes=["v:/v"], environ=volumes_of(store), alter=no_filter)
    program = store / "v/data/set-id"
    (store / "v/data").chmod(0o755)
    above = [tmp_path, *tmp_path.parents[:3]]
    for path in [*above, *([] if closed else [store.parent, store, store / "v"])]:
        if path != Path("/"):
            path.chmod(path.stat().st_mode | 0o755)

    def other() -> tuple[int, str]:
        os.setgroups([])
        os.setgid(12345)
        os.setuid(12345)
        try:
            done = subprocess.run([str(program), "-u"], capture_output=True, text=True, check=False)
        except OSError as error:
            return error.errno or 0, ""
        return 0, done.stdout.strip()

    assert in_child(other) == ((13, "") if closed else (0, str(0x6FFFFFFF)))


@pytest.mark.parametrize("walled", [True, False], ids=["whole", "nothing hidden"])
def test_no_volume_is_seen_through_a_shared_directory(walled: bool, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: the directory of volumes is covered in whatever is shared; and it cannot be shared itself, nor anything in it."""
    sandbox.volumes.create("secret")
    (store / "secret/data/key").write_text("key")
    for path in (tmp_path, store.parent, store, store / "secret"):
        path.chmod(0o755)  # as if every other wall were down
    store.chmod(0o700 if os.geteuid() else 0o755)
    if not walled:
        monkeypatch.setattr(preparing, "hidden_paths", lambda environ: ())
    script = "ls -A /x/volumes 2>/dev/null | grep -c secret; cat /x/volumes/secret/data/key 2>/dev/null"
    store.parent.chmod(0o755)
    result = sandbox.run(["sh", "-c", script], volumes=[f"{store.parent}:/x"])
    assert (result.stdout or b"").split() == ([b"0"] if walled else [b"1", b"key"])
    for path in (store, store / "secret", store / "secret/data", store / "secret/data/key"):
        if walled:
            with pytest.raises(PolicyError, match="volumes are there") as caught:
                sandbox.run(["true"], volumes=[f"{path}:/x"])
            assert caught.value.hint == "`-v NAME:/PATH` mounts a volume"
    with pytest.raises(PolicyError, match="the sandbox's data directory"):
        sandbox.run(["true"], volumes=[f"{store.parent}:/x:rw"])


@pytest.mark.parametrize("walled", [True, False], ids=["whole", "with the descriptors"])
def test_a_program_cannot_let_go_of_the_lock(walled: bool, store: Path) -> None:
    """Rule: the lock is the janitor's and ours. Removed: closing on execve, and it is taken from init's copies by a simple flock."""
    alter = [] if walled else [drop(CloexecFrom), drop(CloseFrom)]
    paths = ("/v/../runs", "/v/../lock", f"{store}/v/runs", f"{store}/v/lock")
    with neighbour(
        "a4_volume_unlock.py", *paths, volumes=["v:/v:lock"], environ=volumes_of(store), alter=[no_filter, *alter]
    ) as program:  # fmt: skip
        program.wait_for("ready")
        facts = program.facts
        assert (int(facts["descriptors"]) == 0) == walled
        assert {facts[name] for name in facts if name.startswith("path")} == {"ENOENT"}
        if walled:
            with pytest.raises(sandbox.volumes.VolumeInUse):
                sandbox.run(["true"], volumes=["v:/v"])
        else:
            assert sandbox.run(["true"], volumes=["v:/v"]).ok
        program.end()
    assert sandbox.run(["true"], volumes=["v:/v"]).ok


@pytest.mark.parametrize("walled", [True, False], ids=["whole", "links followed"])
def test_a_subpath_that_becomes_a_link_leads_nowhere(walled: bool, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule: openat2(RESOLVE_NO_SYMLINKS): another run that has the volume swaps the directory for a link when it has been looked at."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    outside.chmod(0o755)
    tmp_path.chmod(0o755)
    (outside / "secret").write_text("host")
    sandbox.volumes.create("v")
    (store / "v/data/sub").mkdir()

    def swap(*words: Any, **named: Any) -> Opened:
        opened = open_volumes(*words, **named)
        (store / "v/data/sub").rmdir()
        (store / "v/data/sub").symlink_to(outside)
        return opened

    monkeypatch.setattr("sandbox.volumes.opening.open_volumes", swap)
    if not walled:
        monkeypatch.setattr(lower_mounts.uapi, "RESOLVE_NO_SYMLINKS", 0)
        if os.geteuid() == 0:
            from sandbox.plan import build

            monkeypatch.setattr(build, "_mapped", lambda request, root: root.trees)
    if walled:
        with pytest.raises(SetupError, match="Too many levels of symbolic links"):
            sandbox.run(["cat", "/v/secret"], volumes=["v:/v:subpath=sub"])
    else:
        assert sandbox.run(["cat", "/v/secret"], volumes=["v:/v:subpath=sub"]).stdout == b"host"


@pytest.mark.parametrize("walled", [True, False], ids=["whole", "a larger one"])
def test_a_tmpfs_holds_no_more_than_its_size(walled: bool) -> None:
    limit = 1 << 20
    place = parse_tmpfs("/t:size=1M")
    if not walled:
        place = replace_size(place, 64 << 20)
    run = run_payload("a4_fill_up.py", "/t", str(limit), volumes=[place], alter=[no_filter, no_landlock], limits={"file-size": "none"})
    if walled:
        assert {run[name] for name in ("one", "many", "names", "ahead")} == {"ENOSPC"} and run["mapped"] == "killed"
        assert int(run["blocks"]) <= limit
    else:
        assert run["one"] == "never" and int(run["blocks"]) > limit


def replace_size(volume: Any, size: int) -> Any:
    from sandbox.record import replace as changed

    return changed(volume, size_bytes=size)


def test_the_volumes_of_another_user_are_refused(store: Path) -> None:
    """Whoever can write to the directory of volumes chooses what a run gets."""
    store.mkdir(parents=True)
    store.chmod(0o777)
    with pytest.raises(sandbox.SandboxError, match="has mode 0777: others could look in"):
        sandbox.run(["true"], volumes=["v:/v"])
    store.chmod(0o700)  # the control
    assert sandbox.run(["true"], volumes=["v:/v"]).ok


