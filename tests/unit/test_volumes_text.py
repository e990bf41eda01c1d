"""Named volumes and tmpfs as texts: of `-v`, of `--tmpfs` and of a profile; which names there may be, and what they become in the new root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.errors import PolicyError
from sandbox.plan.root import Bind, Directory, Overlay, Tmpfs, VolumeUse
from sandbox.policy.profile import IdMode, Volume, VolumeKind
from sandbox.policy.profile_load import load_profile
from sandbox.policy.profile_volumes import check_volume_targets
from sandbox.rootfs.named import check_named, fill_source, tmpfs_entry, with_points
from sandbox.rootfs.view import View
from sandbox.rootfs.volumes import parse_tmpfs, parse_volume

S = 1_000_000_000


def named(source: str = "x", target: str = "/x", **fields: object) -> Volume:
    return Volume(kind=VolumeKind.NAMED, source=source, target=target, **{"writable": True, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("x:/x", named()),
        ("Big_1.2-z:/a//b/", named("Big_1.2-z", "/a/b")),
        ("x:/x:ro", named(writable=False)),
        ("x:/x:rw", named()),
        ("x:/x:nocopy", named(copy=False)),
        ("x:/x:ro,nocopy", named(writable=False, copy=False)),
        ("x:/x:lock", named(lock=True)),
        ("x:/x:lock,wait=1.5s", named(lock=True, wait_ns=3 * S // 2)),
        ("x:/x:subpath=a/b", named(subpath="a/b")),
        ("rw:/x", named("rw")),
        ("a" * 63 + ":/x", named("a" * 63)),
    ],
)
def test_a_word_without_a_slash_is_a_volume(text: str, volume: Volume, tmp_path: Path) -> None:
    from sandbox.record import replace

    assert parse_volume(text, str(tmp_path)) == replace(volume, origin=f"option `-v {text}`")


@pytest.mark.parametrize("text", ["./x:/x", "a/x:/x", "/x:/x", ".:/x", "..:/x", "~:/x", "~/x:/x", ".x:/x", "../x:/x:rw"])
def test_what_is_written_as_a_path_is_never_a_volume(text: str, tmp_path: Path) -> None:
    volume = parse_volume(text, str(tmp_path))
    assert volume.kind is VolumeKind.PATH and volume.source.startswith("/")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("x", "named volume `x` needs a target", "`-v x:/PATH`; a relative path begins with `./`"),
        ("here", "named volume `here` needs a target", "the directory is `./here`"),
        ("x:ro", "named volume `x` needs a target", "`-v x:/PATH`; a relative path begins with `./`"),
        ("x:", "volume `x:` is not of the form NAME:DST[:OPTION,...]", None),
        ("x:y", "path `y` must be absolute", None),
        ("x:/x:/y", "unknown option `/y` of a named volume", "one of ro, rw, nocopy, lock, wait, subpath"),
        ("x:/x:lok", "unknown option `lok` of a named volume", "did you mean `lock`?"),
        ("x:/x:ro,rw", "`ro` and `rw` exclude each other", None),
        ("x:/x:ro,ro", "option `ro` of a named volume is given twice", None),
        ("x:/x:lock=1", "option `lock=1` of a named volume: `lock` takes no value", None),
        ("x:/x:wait", "option `wait` of a named volume: `wait` needs a value", None),
        ("x:/x:wait=1s", "`wait` without `lock`: there is nothing to wait for", None),
        ("x:/x:lock,wait=soon", "duration `soon` is not a number with an optional unit ns, us, ms, s, m or h", None),
        ("x:/x:subpath=../y", "subpath `../y` is not a relative path without `.` and `..`", None),
        ("x:/x:subpath=/y", "subpath `/y` is not a relative path without `.` and `..`", None),
        ("x:/x:subpath=a/../b", "subpath `a/../b` is not a relative path without `.` and `..`", None),
        ("x:/x:subpath=" + "a/" * 64 + "b", "subpath `" + "a/" * 64 + "b` is too long", None),
        ("x:/proc/x", "`/proc/x` cannot be a mount target: the sandbox makes it itself", None),
        ("-x:/x", "volume name `-x` is not made of letters, digits, `_`, `.` and `-`, the first a letter or digit, 63 at most", "for a path write"),
        ("x y:/x", "volume name `x y` is not made of letters, digits, `_`, `.` and `-`, the first a letter or digit, 63 at most", "for a path write"),
        ("a" * 64 + ":/x", "volume name `" + "a" * 64 + "` is not made of", "for a path write"),
        ("\u00e9:/x", "volume name `\u00e9` is not made of", "for a path write"),
        ("x\n:/x", "`option `-v x\n:/x`` contains a control character", None),
    ],
)
def test_bad_texts_are_refused_with_their_place(text: str, message: str, hint: str | None, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with pytest.raises(PolicyError) as caught:
        parse_volume(text, str(tmp_path))
    assert caught.value.message.startswith(message), caught.value.message
    assert caught.value.hint == hint or (hint is not None and str(caught.value.hint).startswith(hint))
    assert caught.value.origin == f"option `-v {text}`"


def test_a_file_of_the_same_name_is_remembered(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("nowhere")  # a broken link is there, too
    assert parse_volume("x:/x", str(tmp_path)).beside == f"{tmp_path}/x"
    assert parse_volume("y:/x", str(tmp_path)).beside == ""


def test_tmpfs_texts() -> None:
    found = parse_tmpfs("/scratch:size=1M,mode=0755,exec")
    assert (found.kind, found.target, found.size_bytes, found.mode, found.executable) == (VolumeKind.TMPFS, "/scratch", 1 << 20, 0o755, True)
    assert tmpfs_entry(parse_tmpfs("/s")) == Tmpfs(path="/s", size_bytes=64 << 20, inodes=(64 << 20) // 4096, mode=0o1777, executable=False)
    assert tmpfs_entry(parse_tmpfs("/s:size=4096")).inodes == 64 and tmpfs_entry(parse_tmpfs("/s:size=1T")).inodes == 1 << 20
    for text, message in (
        ("", "tmpfs `` is not of the form DST[:OPTION,...]"),
        ("/s:", "tmpfs `/s:` is not of the form DST[:OPTION,...]"),
        ("/s:ro", "unknown option `ro` of a tmpfs"),
        ("/s:size=1", "`option `--tmpfs /s:size=1`` must be at least 4 KiB, not `1`"),
        ("/s:mode=4755", "mode `4755` is not an octal text such as `1777`"),
        ("/dev/shm", "`/dev/shm` cannot be a mount target: the sandbox makes it itself"),
    ):
        with pytest.raises(PolicyError) as caught:
            parse_tmpfs(text)
        assert caught.value.message == message and caught.value.origin == f"option `--tmpfs {text}`"


def test_a_profile_has_all_three_kinds(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(
        'description = "d"\npolicy = "strict"\n[[mounts.volumes]]\nsource = "in"\n'
        '[[mounts.volumes]]\nname = "cache"\ntarget = "/cache"\nlock = true\nwait = "5s"\n'
        '[[mounts.volumes]]\nname = "seed"\ntarget = "/seed"\nwritable = false\ncopy = false\nsubpath = "a"\n'
        '[[mounts.volumes]]\ntype = "tmpfs"\ntarget = "/scratch"\nsize = "1M"\nexecutable = true\n'
    )
    path_volume, cache, seed, scratch = load_profile(str(path)).volumes
    assert path_volume == Volume(source=f"{tmp_path}/in", target=f"{tmp_path}/in", origin=f"{path}:3, mounts.volumes[0]")
    assert cache == named("cache", "/cache", lock=True, wait_ns=5 * S, origin=f"{path}:5, mounts.volumes[1]")
    assert seed == named("seed", "/seed", writable=False, copy=False, subpath="a", origin=f"{path}:10, mounts.volumes[2]")
    assert (scratch.kind, scratch.size_bytes, scratch.executable) == (VolumeKind.TMPFS, 1 << 20, True)


@pytest.mark.parametrize(
    ("table", "message", "line"),
    [
        ('name = "v"', "`mounts.volumes[0]` has no `target`", 3),
        ('name = "a/b"\ntarget = "/v"', "volume name `a/b` is not made of letters", 4),
        ('name = 3\ntarget = "/v"', "`mounts.volumes[0].name` must be text, not `3`", 4),
        ('name = "v"\ntarget = "/v"\nsource = "/v"', "`mounts.volumes[0].source` is a key of a host path (`source`), and this is a named volume (`name`)", 6),
        ('name = "v"\ntarget = "/v"\nsize = "1G"', "`mounts.volumes[0].size` is a key of a tmpfs (`type`), and this is a named volume (`name`)", 6),
        ('source = "/v"\nlock = true', "`mounts.volumes[0].lock` is a key of a named volume (`name`), and this is a host path (`source`)", 5),
        ('name = "v"\ntarget = "/v"\nlok = true', "unknown key `mounts.volumes[0].lok`", 6),
        ('name = "v"\ntarget = "/v"\nwait = "1s"', "`wait` without `lock`: there is nothing to wait for", 6),
        ('type = "bind"\ntarget = "/v"', "`mounts.volumes[0].type` must be `tmpfs`, not `bind`", 4),
        ('type = "tmpfs"\ntarget = "/v"\nmode = 511', "mode `511` is not an octal text such as `1777`", 6),
        ('type = "tmpfs"\ntarget = "/v"\nsize = 0', "`mounts.volumes[0].size` must be at least 4 KiB, not `0`", 6),
    ],
)
def test_a_bad_table_is_refused_with_its_line(table: str, message: str, line: int, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(f'description = "d"\npolicy = "strict"\n[[mounts.volumes]]\n{table}\n')
    with pytest.raises(PolicyError) as caught:
        load_profile(str(path))
    assert caught.value.message.startswith(message), caught.value.message
    assert str(caught.value.origin).startswith(f"{path}:{line}")


def test_two_mounts_at_one_place_and_one_volume_with_two_locks_are_refused() -> None:
    with pytest.raises(PolicyError, match="two volumes have the target `/x`"):
        check_volume_targets([named("a", "/x"), named("b", "/x")])
    with pytest.raises(PolicyError, match="volume `a` is mounted twice, once with `lock` and once without"):
        check_volume_targets([named("a", "/x", lock=True), named("a", "/y")])
    check_volume_targets([named("a", "/x"), named("a", "/y", writable=False)])


# ---- in the new root


def test_the_mount_of_a_volume_is_a_place_below_the_data_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    bind, use = check_named(named(subpath="a/b", origin="here"), {"SANDBOX_DATA_DIR": f"{tmp_path}/link"})
    store = f"{tmp_path}/real/volumes"
    assert bind == Bind(path="/x", source=f"{store}/x/data/a/b", directory=True, writable=True, why="here", mapped="x")
    assert use == VolumeUse(name="x", store=store, target="/x", writable=True, subpath="a/b", origin="here")
    assert not os.path.exists(store)  # to look is not to make
    with pytest.raises(PolicyError, match="there is no place for volumes"):
        check_named(named(), {})


def test_a_range_of_ids_writes_to_no_volume() -> None:
    with pytest.raises(PolicyError, match="files of other ids than the caller's could not be removed again"):
        check_named(named(), {"HOME": "/h"}, IdMode.RANGE)
    check_named(named(writable=False), {"HOME": "/h"}, IdMode.RANGE)


def test_what_a_volume_is_filled_from() -> None:
    view = View()
    view.add(Bind(path="/usr", source="/usr", directory=True))
    view.add(Directory(path="/run"))
    use = VolumeUse(name="x", store="/s", target="/usr/share/doc", writable=True)
    found = fill_source(view, use, public=True)
    assert (found.sources, found.inside, found.public) == (("/usr",), "/share/doc", True)
    from sandbox.record import replace

    assert fill_source(view, replace(use, target="/usr"), public=True).inside == "/"
    for target in ("/run/x", "/x"):
        assert fill_source(view, replace(use, target=target), public=True).sources == ()
    view = View()
    layers = ("/i/2", "/i/1")
    view.add(Overlay(path="/", lowers=layers))
    found = fill_source(view, use, public=True)
    assert (found.sources, found.inside, found.public) == (layers, "/usr/share/doc", False)


def test_mount_points_in_a_volume_are_known() -> None:
    view = View()
    _, use = check_named(named(target="/x"), {"HOME": "/h"})
    for name, target in (("x", "/x"), ("y", "/x/a/b")):
        view.add(check_named(named(name, target), {"HOME": "/h"})[0])
    view.add(Tmpfs(path="/x/t", size_bytes=4096, inodes=8))
    view.add(Bind(path="/x/f", source="/etc/passwd", directory=False))
    view.add(Tmpfs(path="/x/t/below", size_bytes=4096, inodes=8))  # in the tmpfs, not in the volume
    (found,) = with_points(view, [use])
    assert found.points == (("a/b", True), ("f", False), ("t", True))


def test_nothing_in_a_volume_decides_about_a_run() -> None:
    """A script in a volume could name any interpreter of the host, which would then be shared; its content is not even looked at."""
    view = View()
    view.add(Bind(path="/x", source="/etc", directory=True, mapped="x"))
    view.add(Bind(path="/y", source="/etc", directory=True))
    assert view.host_path("/x/passwd") is None and view.host_path("/y/passwd") == "/etc/passwd"
    assert view.trace("/x/any/where") == "/x/any/where" and view.trace("/y/any/where") is None
    assert view.read_head("/x/passwd", 4) is None and view.read_head("/y/passwd", 4)
