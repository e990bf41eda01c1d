"""The store of volumes: made and removed whole, safe under crashes and others at work; who uses one, and whether one more may."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import sandbox
from sandbox.errors import PolicyError, SandboxError, UnsupportedError
from sandbox.plan.root import VolumeUse
from sandbox.volumes import quota
from sandbox.volumes.manage import create, find, find_all, prune, remove
from sandbox.volumes.opening import Opened, open_volumes
from sandbox.volumes.place import Facts, encode_facts, new_facts, open_store, read_facts
from sandbox.volumes.trees import measure_tree, remove_tree
from sandbox.volumes.uses import Use, VolumeInUse, conflicts, take_mutex

S = 1_000_000_000


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SANDBOX_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data/volumes"


def use(store: Path, name: str = "v", **fields: object) -> VolumeUse:
    return VolumeUse(name=name, store=str(store), **{"target": "/v", "writable": True, **fields})  # type: ignore[arg-type]


def opening(store: Path, *uses: VolumeUse, run: str = "r1") -> Opened:
    return open_volumes(uses or (use(store),), run_id=run, name=f"name-{run}")


# ---- making, finding, removing


def test_a_volume_is_made_found_and_removed(store: Path) -> None:
    assert find_all() == () and prune(every=True) == ()
    assert not store.exists()  # looking makes nothing
    made = create("v", labels={"a": "b=c", "\u00e9": ""})
    assert made == find("v") and [made] == list(find_all())
    assert (made.name, made.path, made.made, dict(made.labels), made.limit_bytes, made.uses) == (
        "v", f"{store}/v/data", "create", {"a": "b=c", "\u00e9": ""}, None, (),
    )  # fmt: skip
    assert made.measure() == (0, 0, True)
    for path in (store, store / "v", store / "v/runs", store / ".tmp"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    (store / "v/data/x").write_text("x" * 5000)
    assert find("v").measure()[0] >= 5000 and find("v").measure()[1:] == (1, True)
    with pytest.raises(PolicyError, match="there is a volume `v`"):
        create("v")
    remove("v")
    assert find_all() == () and sorted(os.listdir(store)) == [".lock", ".tmp"] and os.listdir(store / ".tmp") == []
    with pytest.raises(PolicyError, match="there is no volume `v`"):
        remove("v")


@pytest.mark.parametrize("name", ["", ".x", "a/b", "..", "-a", "a b", "a\n", "x" * 64, "\u00e9"])
def test_bad_names_make_and_find_nothing(name: str, store: Path) -> None:
    with pytest.raises(PolicyError, match=r"volume name|control character"):
        create(name)
    create("other")
    (store / ".x").mkdir()  # were it looked up as a path, this would be there
    for act in (find, remove):
        with pytest.raises(PolicyError, match="there is no volume"):
            act(name)
    assert (store / ".x").exists() and [each.name for each in find_all()] == ["other"]


@pytest.mark.parametrize("label", [{"": "x"}, {"a=b": "x"}, {"a": "x\ny"}, {"a": "\x1b[2J"}, {"a": "x" * 1025}])
def test_bad_labels_are_refused(label: dict[str, str], store: Path) -> None:
    with pytest.raises(PolicyError, match="label"):
        create("v", labels=label)
    assert find_all() == ()


def test_the_nearest_name_is_suggested(store: Path) -> None:
    create("cache")
    with pytest.raises(PolicyError) as caught:
        find("cahce")
    assert caught.value.hint == "did you mean `cache`?"


def test_a_store_of_somebody_else_is_not_used(store: Path, tmp_path: Path) -> None:
    store.mkdir(parents=True)
    store.chmod(0o755)
    with pytest.raises(SandboxError, match="has mode 0755: others could look in"):
        find_all()
    store.chmod(0o700)
    assert find_all() == ()
    real = tmp_path / "elsewhere"
    store.rename(real)
    store.symlink_to(real)
    with pytest.raises(SandboxError, match=r"ELOOP|ENOTDIR"):
        open_store(str(store), make=False)


@pytest.mark.root
def test_root_makes_no_store_in_a_users_directory(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(SandboxError, match="Operation not permitted"):
        open_store(f"{tmp_path}/theirs/volumes", make=True)
    (tmp_path / "theirs/volumes").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs/volumes", 12345, 12345)
    with pytest.raises(SandboxError, match="belongs to uid 12345"):
        open_store(f"{tmp_path}/theirs/volumes", make=True)


def test_facts_come_back_and_damage_is_told(store: Path) -> None:
    facts = Facts(created_ns=1, owner=2, made="run", size_bytes=3, project=4, labels=(("a", "b c"), ("d", "")))
    create("v")
    (store / "v/volume").write_bytes(encode_facts(facts) + b"later 1\n")
    fd = os.open(store / "v", os.O_RDONLY)
    try:
        assert read_facts(fd) == facts
        for damage in (b"", b"sandbox-volume 2\n", b"sandbox-volume 1\ncreated x\n", b"\xff" * 100):
            (store / "v/volume").write_bytes(damage)
            with pytest.raises(SandboxError, match="damaged"):
                read_facts(fd)
    finally:
        os.close(fd)
    with pytest.raises(SandboxError, match=r"volume `v`: .* damaged"):
        find_all()


def test_prune_removes_only_what_is_meant(store: Path) -> None:
    for name, labels in (("a", {"k": "1"}), ("b", {"k": "2"}), ("c", {}), ("d", {"k": "1", "l": ""})):
        create(name, labels=labels)
    assert prune() == () and prune(unused_ns=3600 * S) == ()
    assert [each.name for each in prune(labels={"k": "1"}, dry_run=True)] == ["a", "d"] and len(find_all()) == 4
    with opening(store, use(store, "d")):
        assert [each.name for each in prune(labels={"k": "1"})] == ["a"]  # d is in use
    os.utime(store / "c/runs", ns=(0, 0))  # used long ago, but made just now
    assert prune(unused_ns=3600 * S) == ()
    facts = (store / "c/volume").read_text().split("\n")
    (store / "c/volume").write_text("\n".join([facts[0], "created 5", *facts[2:]]))
    assert [each.name for each in prune(unused_ns=3600 * S)] == ["c"]
    assert [each.name for each in prune(labels={"l": None})] == ["d"]
    assert [each.name for each in prune(every=True)] == ["b"] and find_all() == ()


# ---- crashes


def crash(act: Callable[[], object], left: int) -> bool:
    """Do it in a process that is killed before one of its calls; return whether it was."""
    pid = os.fork()
    if pid:
        status = os.waitpid(pid, 0)[1]
        assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
        return status != 0

    def counting(function: Callable[..., object]) -> Callable[..., object]:
        def call(*words: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*words, **named)

        return call

    try:
        for name in ("mkdir", "rename", "rmdir", "unlink", "chmod", "open"):
            setattr(os, name, counting(getattr(os, name)))
        act()
        os._exit(0)
    except BaseException:
        os._exit(1)


def test_a_sigkill_at_any_call_of_a_creation_leaves_all_or_nothing(store: Path) -> None:
    seen = set()
    for left in range(100):
        killed = crash(lambda: create("v", labels={"a": "b"}), left)
        found = {each.name for each in find_all()}
        seen.add(bool(found))
        if found:
            assert find("v").labels == {"a": "b"} and find("v").measure() == (0, 0, True)
            remove("v")
        assert not store.exists() or os.listdir(store / ".tmp" if (store / ".tmp").exists() else store) in ([], [".lock"])
        if not killed:
            break
    assert not killed and seen == {True, False}


def test_a_sigkill_at_any_call_of_a_removal_leaves_all_or_nothing(store: Path) -> None:
    for left in range(200):
        if not store.exists() or not find_all():
            create("v")
        data = store / "v/data"
        if not (data / "a/b/c").exists():
            (data / "a/b/c").mkdir(parents=True)
            (data / "a/x").touch()
        killed = crash(lambda: remove("v"), left)
        whole = store / "v/data/a/b/c"
        assert whole.exists() == (store / "v").exists()
        find_all()  # the next command
        assert os.listdir(store / ".tmp" if (store / ".tmp").exists() else store / "v/runs") == []
        if not killed:
            break
    assert not killed and not (store / "v").exists()


def test_what_somebody_is_making_is_not_swept(store: Path) -> None:
    create("v")
    (store / ".tmp/half").mkdir()
    fd = os.open(store / ".lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_SH)
    find_all()
    assert (store / ".tmp/half").exists()
    os.close(fd)
    find_all()  # the control: nobody is at work
    assert not (store / ".tmp/half").exists()


def test_a_killed_fill_is_removed_by_the_next_look(store: Path) -> None:
    create("v")
    (store / "v/fill/half").mkdir(parents=True)
    find("v")
    assert not (store / "v/fill").exists()


def test_many_make_one_volume_at_once(store: Path) -> None:
    def go() -> None:
        with opening(store, run=f"r{threading.get_ident()}"):
            barrier.wait()

    barrier = threading.Barrier(9)
    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    barrier.wait()
    for thread in threads:
        thread.join()
    assert [each.name for each in find_all()] == ["v"] and find("v").uses == () and find("v").made == "run"


# ---- who uses it

WRITES, READS = {"writable": True}, {"writable": False}
LOCKS_WRITING, LOCKS_READING = {"writable": True, "lock": True}, {"writable": False, "lock": True}


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (READS, READS, True),
        (READS, WRITES, True),
        (WRITES, WRITES, True),
        (READS, LOCKS_READING, True),
        (READS, LOCKS_WRITING, True),
        (WRITES, LOCKS_READING, False),
        (WRITES, LOCKS_WRITING, False),
        (LOCKS_READING, LOCKS_READING, True),
        (LOCKS_READING, LOCKS_WRITING, False),
        (LOCKS_WRITING, LOCKS_WRITING, False),
    ],
)
def test_who_may_use_a_volume_beside_whom(first: dict[str, object], second: dict[str, object], together: bool, store: Path) -> None:
    for one, other in ((first, second), (second, first)):
        with opening(store, use(store, **one)):
            if together:
                with opening(store, use(store, **other), run="r2"):
                    assert {each.run_id for each in find("v").uses} == {"r1", "r2"}
                continue
            with pytest.raises(VolumeInUse) as caught:
                opening(store, use(store, origin="option `-v v:/v`", **other), run="r2")
            assert [each.run_id for each in caught.value.uses] == ["r1"] and "run `r1` (`name-r1`)" in caught.value.message
            assert caught.value.origin == "option `-v v:/v`"
            assert [each.run_id for each in find("v").uses] == ["r1"]  # who was refused holds nothing
        opening(store, use(store, **other), run="r2").close()  # the control: it is free


def test_waiting_for_a_lock_is_bounded_and_ends_with_the_lock(store: Path) -> None:
    locked = use(store, lock=True)
    waiting = use(store, lock=True, wait_ns=30 * S)
    first = opening(store, locked)
    with pytest.raises(VolumeInUse, match=r"lock volume `v`: taken after 0.01 s by run `r1`"):
        opening(store, use(store, lock=True, wait_ns=S // 100), run="r2")
    got: list[Opened] = []
    thread = threading.Thread(target=lambda: got.append(opening(store, waiting, run="r3")))
    thread.start()
    assert not got
    first.close()
    thread.join(60)
    assert [each.run_id for each in find("v").uses] == ["r3"]
    got[0].close()


def test_waiting_ends_when_nobody_wants_it_any_more(store: Path) -> None:
    wake = os.eventfd(0)
    try:
        with opening(store, use(store, lock=True)):
            os.eventfd_write(wake, 1)
            with pytest.raises(SandboxError, match="the run was ended while it waited for a volume"):
                open_volumes([use(store, lock=True, wait_ns=3600 * S)], run_id="r2", wakes=[wake])
    finally:
        os.close(wake)


def test_an_entry_is_made_where_a_file_cannot_be_nameless(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def without(path: str, flags: int, *words: int, **named: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *words, **named)

    monkeypatch.setattr(os, "open", without)
    with opening(store, use(store, lock=True)):
        assert [each.run_id for each in find("v").uses] == ["r1"]
        with pytest.raises(VolumeInUse):
            opening(store, run="r2")
    assert find("v").uses == ()


def test_a_lock_lives_as_long_as_one_of_its_holders(store: Path) -> None:
    """The janitor has a copy of the description, so the end of the caller alone frees nothing."""
    opened = opening(store, use(store, lock=True))
    keeper = os.dup(opened.locks[0])  # what a janitor has
    (held,) = opened._held
    os.close(held[1])  # the caller dies: nobody removes the entry
    os.close(held[0])
    opened._held.clear()
    assert [each.run_id for each in find("v").uses] == ["r1"]
    with pytest.raises(VolumeInUse):
        remove("v")
    os.close(keeper)
    assert find("v").uses == () and os.listdir(store / "v/runs") == []
    remove("v")


def test_a_volume_in_use_is_not_removed(store: Path) -> None:
    with opening(store, use(store, writable=False)), pytest.raises(VolumeInUse, match=r"remove volume `v`: run `r1` .*, which uses it and only reads"):
        remove("v")
    remove("v")


def test_a_removal_waits_for_whoever_decides_and_a_run_sees_that_it_was_removed(store: Path) -> None:
    create("v")
    (store / "v/data/old").touch()
    fd = os.open(store / "v", os.O_RDONLY)
    mutex = take_mutex(fd)
    got: list[Opened] = []
    thread = threading.Thread(target=lambda: got.append(opening(store)))
    thread.start()  # it has opened the volume that is there now, or will open what takes its name
    with open_store(str(store), make=False) as place:  # type: ignore[union-attr]
        place.take_away("v")
    os.close(mutex)
    os.close(fd)
    thread.join(60)
    assert not (store / "v/data/old").exists() and [each.run_id for each in find("v").uses] == ["r1"]
    got[0].close()


def test_a_look_does_not_wait_for_whoever_fills(store: Path) -> None:
    with opening(store):
        fd = os.open(store / "v", os.O_RDONLY)
        mutex = take_mutex(fd)
        (store / "v/fill").mkdir()
        assert [each.run_id for each in find("v").uses] == ["r1"] and (store / "v/fill").exists()
        os.close(mutex)
        os.close(fd)
        assert find("v") and not (store / "v/fill").exists()  # the control: nobody fills it


def test_an_entry_that_says_nothing_known_is_taken_for_the_strictest(store: Path) -> None:
    with opening(store, use(store, writable=False)):
        (entry,) = (store / "v/runs").iterdir()
        entry.write_bytes(b"later version\n")
        (found,) = find("v").uses
        assert found.writable and found.locked
        with pytest.raises(VolumeInUse):
            opening(store, run="r2")


def test_conflicts_are_symmetric() -> None:
    kinds = [Use(run_id="r", writable=writable, locked=locked) for writable in (False, True) for locked in (False, True)]
    for one in kinds:
        for other in kinds:
            assert bool(conflicts(one, [other])) == bool(conflicts(other, [one]))


def test_nothing_is_held_after_a_refusal_of_the_second_of_two(store: Path) -> None:
    with opening(store, use(store, "b", lock=True)):
        with pytest.raises(VolumeInUse):
            opening(store, use(store, "a"), use(store, "b"), run="r2")
        assert find("a").uses == ()


def test_the_same_volume_twice_is_one_use(store: Path) -> None:
    with opening(store, use(store, writable=False), use(store, target="/w")):
        (found,) = find("v").uses
        assert found.writable


# ---- opening


def test_a_file_beside_refuses_to_make_but_not_to_use(store: Path) -> None:
    with pytest.raises(PolicyError, match="volume `v`: there is none of that name, but `/here/v`"):
        opening(store, use(store, beside="/here/v"))
    assert not (store / "v").exists()
    create("v")
    opening(store, use(store, beside="/here/v")).close()


def test_a_subpath_must_be_there_and_no_link(store: Path) -> None:
    create("v")
    with pytest.raises(PolicyError, match="volume `v` has no directory `a/b`") as caught:
        opening(store, use(store, subpath="a/b"))
    assert caught.value.hint == "`sandbox exec -v v:/v -- mkdir -p /v/a/b` makes it"
    (store / "v/data/a").symlink_to("/etc")
    for subpath in ("a", "a/ssl"):
        with pytest.raises(PolicyError, match="is no directory, or has a symbolic link in it"):
            opening(store, use(store, subpath=subpath))
    (store / "v/data/a").unlink()
    (store / "v/data/a/b").mkdir(parents=True)
    opening(store, use(store, subpath="a/b")).close()


def test_mount_points_are_made_in_the_volume_through_no_link(store: Path, tmp_path: Path) -> None:
    opening(store, use(store, points=(("a/b", True), ("f", False)))).close()
    assert (store / "v/data/a/b").is_dir() and (store / "v/data/f").is_file()
    with pytest.raises(PolicyError, match="mount on `/v/new`: volume `v` has nothing there and is read-only"):
        opening(store, use(store, writable=False, points=(("new", True),)))
    opening(store, use(store, writable=False, points=(("a/b", True),))).close()
    (tmp_path / "outside").mkdir()
    (store / "v/data/link").symlink_to(tmp_path / "outside")
    with pytest.raises(SandboxError, match=r"mount on `/v/link/x`: in volume `v`: (Not a directory|Too many levels)"):
        opening(store, use(store, points=(("link/x", True),)))
    assert os.listdir(tmp_path / "outside") == []


def test_filling_respects_what_is_there_and_who_uses_it(store: Path, tmp_path: Path) -> None:
    (tmp_path / "image/d").mkdir(parents=True)
    (tmp_path / "image/d/x").write_text("image")
    filled = use(store, sources=(f"{tmp_path}/image",), inside="/d")
    with opening(store):
        with opening(store, filled, run="r2") as second:
            assert second.notes == ["volume `v` is empty and was not filled: run `r1` (`name-r1`), which uses it and writes to it"]
        assert os.listdir(store / "v/data") == []
    opening(store, filled).close()
    assert (store / "v/data/x").read_text() == "image"
    (store / "v/data/x").write_text("mine")
    opening(store, filled).close()
    assert (store / "v/data/x").read_text() == "mine"
    from sandbox.record import replace

    opening(store, replace(filled, name="w", copy=False)).close()
    assert os.listdir(store / "w/data") == []
    (store / "w/data/sub").mkdir()
    opening(store, replace(filled, name="w", subpath="sub", writable=False)).close()
    assert os.listdir(store / "w/data/sub") == ["x"]  # of a read-only mount, too


# ---- trees of strangers


def _deep(top: Path, depth: int) -> None:
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def test_any_tree_can_be_removed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    top = tmp_path / "top"
    top.mkdir()
    _deep(top, 1500)
    (top / "closed").mkdir()
    (top / "closed/sub").mkdir()
    (top / "closed/sub/x").touch()
    (top / "link").symlink_to(outside)
    os.mkfifo(top / "fifo")
    (top / "closed/sub").chmod(0)
    (top / "closed").chmod(0)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        remove_tree(fd, "top")
        remove_tree(fd, "top")  # nothing there is no error
    finally:
        os.close(fd)
    assert not top.exists() and (outside / "kept").exists()


def test_measuring_says_when_it_did_not_see_all(tmp_path: Path) -> None:
    _deep(tmp_path, 300)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        used, count, whole = measure_tree(fd)
        assert used > 0 and count == 257 and not whole
        remove_tree(fd, "d")
        (tmp_path / "a").write_bytes(b"x" * 8192)
        os.link(tmp_path / "a", tmp_path / "b")
        used, count, whole = measure_tree(fd)
        assert 8192 <= used < 16384 and (count, whole) == (2, True)  # one file with two names
    finally:
        os.close(fd)


# ---- size


def test_a_size_that_nothing_enforces_is_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "only root may set a quota" if os.geteuid() else "is not mounted with `prjquota`"
    with pytest.raises(UnsupportedError, match=reason) as caught:
        create("v", size="1G")
    assert "--tmpfs" in str(caught.value.hint) and find_all() == ()
    with pytest.raises(PolicyError, match="must be at least 64 KiB"):
        create("v", size=5)
    # Counting without a limit is no limit.
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(quota, "_mount_options", lambda device: ("rw", "pqnoenforce"))
    with pytest.raises(UnsupportedError, match="is not mounted with `prjquota`"):
        quota.check_quota(0, "/x", "size")


def test_the_front_door() -> None:
    assert set(sandbox.volumes.__all__) == {"NamedVolume", "Use", "VolumeInUse", "create", "find", "find_all", "prune", "remove"}
    for name in sandbox.volumes.__all__:
        assert getattr(sandbox.volumes, name).__module__.startswith("sandbox.volumes.")
    with pytest.raises(AttributeError):
        sandbox.volumes.nothing  # noqa: B018
    assert issubclass(sandbox.volumes.VolumeInUse, SandboxError)


def test_new_facts_name_the_owner() -> None:
    assert new_facts("run").owner == (os.geteuid() or 0x6FFFFFFF)


