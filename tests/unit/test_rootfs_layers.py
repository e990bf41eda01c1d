"""What a path means in layers, and what an image's config makes of a command: pure of any mount."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.errors import PolicyError
from sandbox.images.flat import merge_layers
from sandbox.images.model import ImageConfig
from sandbox.plan.root import Directory, FileBytes, Overlay
from sandbox.policy.profile import IdMode, Profile, Volume
from sandbox.rootfs.command import CommandNotFound
from sandbox.rootfs.image import PATH, Layered, add_image, choose_directory, compose_image, finish_image, with_real_targets
from sandbox.rootfs.layers import locate
from sandbox.rootfs.view import View

PROFILE = Profile(name="p", description="", path="p.toml", policy="strict", image="x")


@pytest.fixture
def layers(tmp_path: Path) -> tuple[str, str, str]:
    """Three layers, topmost first, with a whiteout, an opaque directory, a file over a directory, and links that lead out."""
    top, middle, base = (tmp_path / name for name in ("top", "middle", "base"))
    for path in ("etc", "usr/bin", "opaque", "dir", "back"):
        (base / path).mkdir(parents=True)
    for path in ("etc", "opaque", "usr/bin"):
        (middle / path).mkdir(parents=True)
    for path in ("usr/bin", "back"):
        (top / path).mkdir(parents=True)
    (base / "etc/a").write_text("base")
    (base / "etc/b").write_text("base")
    (base / "opaque/old").write_text("base")
    (base / "dir/below").write_text("base")
    (base / "back/old").write_text("base")
    (base / "bin").symlink_to("usr/bin")
    (base / "out").symlink_to("/etc")
    (base / "usr/bin/tool").write_text("#!/usr/bin/env interp -x\n")
    (base / "usr/bin/interp").write_text("binary")
    (base / "usr/bin/plain").write_text("binary")
    (base / "usr/bin/env").write_text("binary")
    for name in ("tool", "interp", "env"):
        (base / "usr/bin" / name).chmod(0o755)
    (middle / "etc/a").write_text("middle")
    os.mknod(middle / "etc/b", stat.S_IFCHR)
    (middle / "opaque/new").write_text("middle")
    os.setxattr(middle / "opaque", "user.overlay.opaque", b"y")
    (middle / "dir").write_text("a file")
    os.mknod(middle / "back", stat.S_IFCHR)
    (top / "back/new").write_text("top")
    return str(top), str(middle), str(base)


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("", "top"), ("/etc", "middle/etc"), ("/etc/a", "middle/etc/a"), ("/etc/b", None), ("/opaque/new", "middle/opaque/new"), ("/opaque/old", None),
        ("/dir", "middle/dir"), ("/dir/below", None), ("/back/new", "top/back/new"), ("/back/old", None), ("/bin", "base/bin"), ("/bin/tool", None),
        ("/usr/bin/tool", "base/usr/bin/tool"), ("/etc/a/below", None), ("/none", None), ("/out/group-", None),
    ],
)  # fmt: skip
def test_what_a_path_is(layers: tuple[str, str, str], path: str, where: str | None) -> None:
    expected = None if where is None else f"{os.path.dirname(layers[0])}/{where}"
    assert locate(layers, path) == expected


def test_a_merged_tree_has_what_is_seen(layers: tuple[str, str, str], tmp_path: Path) -> None:
    merge_layers(layers, str(tmp_path / "flat"))
    found = {str(path.relative_to(tmp_path / "flat")): path for path in (tmp_path / "flat").rglob("*")}
    assert set(found) == {
        "etc", "etc/a", "opaque", "opaque/new", "dir", "back", "back/new", "bin", "out", "usr", "usr/bin", "usr/bin/tool", "usr/bin/interp", "usr/bin/plain",
        "usr/bin/env",
    }  # fmt: skip
    for name, path in found.items():
        source = locate(layers, "/" + name)
        assert source is not None
        if path.is_file() and not path.is_symlink():
            assert path.samefile(source), name
    assert os.readlink(found["out"]) == "/etc"


def view_of(layered: Layered) -> View:
    """Return the view of a run on an image."""
    view = View()
    add_image(view, layered)
    return view


def composed(layers: tuple[str, ...], config: ImageConfig | None = None, argv: tuple[str, ...] = ("tool",), **fields: object) -> Layered:
    """Return what an image makes of a command."""
    profile = replace(PROFILE, **fields) if fields else PROFILE  # type: ignore[arg-type]
    return compose_image(profile, layers=layers, config=config or ImageConfig(), argv=argv)


def test_links_are_followed_within_the_image(layers: tuple[str, str, str]) -> None:
    view = view_of(composed(layers))
    assert view.trace("/bin/tool") == "/usr/bin/tool" and view.host_path("/usr/bin/tool") == f"{layers[2]}/usr/bin/tool"
    assert view.trace("/out/a") == "/etc/a" and view.host_path("/etc/a") == f"{layers[1]}/etc/a"
    assert os.path.exists("/etc/group-") and view.trace("/out/group-") is None
    assert view.trace("/../../etc/a") == "/etc/a"


@pytest.mark.parametrize(
    ("config", "argv", "entrypoint", "expected"),
    [
        (ImageConfig(command=("sh",)), (), None, ("sh",)),
        (ImageConfig(command=("sh",)), ("ls", "-l"), None, ("ls", "-l")),
        (ImageConfig(entrypoint=("run",), command=("x",)), (), None, ("run", "x")),
        (ImageConfig(entrypoint=("run",), command=("x",)), ("y",), None, ("run", "y")),
        (ImageConfig(entrypoint=("run",), command=("x",)), ("y",), (), ("y",)),
        (ImageConfig(entrypoint=("run",), command=("x",)), (), ("other",), ("other",)),
        (ImageConfig(entrypoint=("run",), command=("x",)), ("y",), ("other", "-v"), ("other", "-v", "y")),
    ],
)
def test_entry_point_and_command(config: ImageConfig, argv: tuple[str, ...], entrypoint: tuple[str, ...] | None, expected: tuple[str, ...]) -> None:
    """As `docker run [--entrypoint E] IMAGE [COMMAND]` does."""
    layered = compose_image(PROFILE, layers=("/none",), config=config, argv=argv, entrypoint=entrypoint)
    assert layered.argv == expected


@pytest.mark.parametrize(("config", "entrypoint"), [(ImageConfig(), None), (ImageConfig(entrypoint=("run",), command=("x",)), ())])
def test_nothing_to_run(config: ImageConfig, entrypoint: tuple[str, ...] | None) -> None:
    with pytest.raises(PolicyError, match="no command given, and image `x` has none"):
        compose_image(PROFILE, layers=("/none",), config=config, argv=(), entrypoint=entrypoint)


DATABASES = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nbad line\nweb:x:33:34:web:/var/www:/bin/sh\nhuge:x:99999999999:1::/:/x\nodd:x:40:x:::\n",
    "group": "root:x:0:\nweb:x:34:\nstaff:x:50:web\n",
}


@pytest.mark.parametrize(
    ("user", "expected", "made"),
    [
        ("", (0, 0, "root", "/root"), ()),
        ("0", (0, 0, "root", "/root"), ()),
        ("web", (33, 34, "web", "/var/www"), ()),
        ("33", (33, 34, "web", "/var/www"), ()),
        ("web:staff", (33, 50, "web", "/var/www"), ()),
        ("web:50", (33, 50, "web", "/var/www"), ()),
        ("1234", (1234, 0, "user1234", "/"), ("passwd",)),
        ("1234:99", (1234, 99, "user1234", "/"), ("passwd", "group")),
        ("odd", (40, 0, "odd", "/"), ()),
    ],
)
def test_user(tmp_path: Path, user: str, expected: tuple[int, int, str, str], made: tuple[str, ...]) -> None:
    (tmp_path / "etc").mkdir()
    for name, text in DATABASES.items():
        (tmp_path / "etc" / name).write_text(text)
    layered = composed((str(tmp_path),), ImageConfig(user=user))
    profile = layered.profile
    assert (profile.uid, profile.gid, profile.user, profile.home) == expected
    assert tuple(name for name, _ in layered.databases) == made
    for name, content in layered.databases:
        assert content.startswith(DATABASES[name].encode()) and content.count(b"\n") == DATABASES[name].count("\n") + 1
    assert dict(layered.environment)["HOME"] == expected[3]


@pytest.mark.parametrize("user", ["nobody-here", "web:nothing", "99999999999", "-1", "0x10", "٣"])
def test_user_that_is_none(tmp_path: Path, user: str) -> None:
    (tmp_path / "etc").mkdir()
    for name, text in DATABASES.items():
        (tmp_path / "etc" / name).write_text(text)
    with pytest.raises(PolicyError, match=r"is not in its /etc/(passwd|group)"):
        composed((str(tmp_path),), ImageConfig(user=user))


def test_databases_are_read_within_the_image_and_bounded(tmp_path: Path) -> None:
    """A passwd that is a link to the host's, a FIFO, a device or endless says nothing."""
    etc = tmp_path / "etc"
    etc.mkdir()
    os.mkfifo(etc / "fifo")
    (etc / "long").write_text("web:x:33:34::/:\n" * 100_000)
    for target in ("/etc/passwd2", "../../../../etc/passwd2", "fifo", "long", "/dev/zero", "passwd"):
        (etc / "passwd").unlink(missing_ok=True)
        (etc / "passwd").symlink_to(target)
        layered = composed((str(tmp_path),), ImageConfig())
        assert dict(layered.databases)["passwd"] == b"root:x:0:0:root:/root:/bin/sh\n", target


def test_ids_beyond_the_range() -> None:
    with pytest.raises(PolicyError, match="beyond the ids that are mapped"):
        composed(("/none",), ImageConfig(user="70000"), ids=IdMode.RANGE)


def test_environment_in_its_order(layers: tuple[str, str, str]) -> None:
    """The image's, then what the profile lets through of the caller's, then what the profile or the caller sets."""
    config = ImageConfig(environment=(("A", "image"), ("B", "image"), ("C", "image")))
    layered = composed(layers, config, env_pass=("B", "C"), env_set=(("C", "set"),))
    view = view_of(layered)
    _, environment = finish_image(view, layered, "/", {"B": "caller", "C": "caller", "SECRET": "x"})
    assert environment == {"PATH": PATH, "HOME": "/root", "A": "image", "B": "caller", "C": "set"}


@pytest.mark.parametrize(
    ("command", "path", "code"),
    [
        ("tool", "/usr/bin/tool", 0), ("/bin/tool", "/bin/tool", 0), ("usr/bin/interp", "/usr/bin/interp", 0), ("plain", "", 126), ("/usr", "", 126),
        ("missing", "", 127), ("/etc/b", "", 127), ("/out/group-", "", 127), ("", "", 127), ("sh", "", 127), ("/bin/sh", "", 127),
    ],
)  # fmt: skip
def test_program(layers: tuple[str, str, str], command: str, path: str, code: int) -> None:
    """Found in the image alone: the host has a `sh`."""
    layered = composed(layers, argv=(command,))
    if not code:
        assert finish_image(view_of(layered), layered, "/", {})[0] == path
        return
    with pytest.raises(CommandNotFound) as caught:
        finish_image(view_of(layered), layered, "/", {})
    assert caught.value.exit_code == code


def test_an_interpreter_that_the_image_lacks(layers: tuple[str, str, str]) -> None:
    os.unlink(f"{layers[2]}/usr/bin/interp")
    layered = composed(layers)
    with pytest.raises(CommandNotFound, match="run `interp`: not found in the image's PATH") as caught:
        finish_image(view_of(layered), layered, "/", {})
    assert "needed by `tool`" in str(caught.value)


def test_skeleton_keeps_the_images_modes_and_makes_its_directory(layers: tuple[str, str, str]) -> None:
    os.chmod(f"{layers[1]}/etc", 0o2711)
    layered = composed(layers, ImageConfig(workdir="/srv/app"))
    view = view_of(layered)
    assert choose_directory(view, layered) == "/srv/app"
    finish_image(view, layered, "/srv/app", {})
    modes = {entry.path: entry.mode for entry in view.entries.values() if isinstance(entry, Directory)}
    assert modes == {"/etc": 0o711, "/srv": 0o755, "/srv/app": 0o755}
    assert isinstance(view.entries["/"], Overlay) and isinstance(view.entries["/etc/hosts"], FileBytes)


def test_volumes_go_where_the_images_links_lead(layers: tuple[str, str, str]) -> None:
    layered = composed(layers)
    targets = {"/bin/extra": "/usr/bin/extra", "/out/x": "/etc/x", "/new/deep/x": "/new/deep/x", "/bin": "/bin", "/out/new/x": "/etc/new/x"}
    profile = replace(PROFILE, volumes=tuple(Volume(source="/srv", target=target) for target in targets))
    assert [volume.target for volume in with_real_targets(view_of(layered), profile).volumes] == list(targets.values())


def test_volumes_of_the_image_are_said() -> None:
    layered = composed(("/none",), ImageConfig(volumes=("/data", "/var/db")), volumes=(Volume(source="/srv", target="/data"),))
    assert layered.notes == ("the image keeps data in `/var/db`: no volume is there, so it ends with the run",)


@pytest.mark.parametrize("words", [("/proc/self/exe",), ("/proc/self/fd/9/tool",), ("/tool",), ("/tool5",), ("/dev/tool",)])
def test_nothing_of_the_kernels_own_is_a_program(tmp_path: Path, words: tuple[str, ...]) -> None:
    """What an image has in /proc is hidden by procfs, whose links lead to the executor and to directories of the host."""
    for path in ("proc/self/fd/9/tool", "proc/self/exe", "dev/tool"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("binary")
        (tmp_path / path).chmod(0o755)
    (tmp_path / "tool").write_text("#!/proc/self/exe\n")
    (tmp_path / "tool").chmod(0o755)
    for number in range(2, 6):
        (tmp_path / f"tool{number}").write_text(f"#!/tool{number - 1 if number > 2 else ''}\n")
        (tmp_path / f"tool{number}").chmod(0o755)
    layered = compose_image(PROFILE, layers=(str(tmp_path),), config=ImageConfig(), argv=words)
    view = View()
    add_image(view, layered)
    with pytest.raises(CommandNotFound, match="no such file in the image"):
        finish_image(view, layered, "/", {})
