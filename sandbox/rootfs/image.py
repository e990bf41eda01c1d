"""The root of a run on an image: what its config asks for, who the program is, and what of the root is ours all the same.

An image is a stranger's: whatever is read of it is found by `layers`, bounded, and believed only as far as it makes a user, an environment and a command
inside. Of the host's own files nothing is shared but volumes. `rootfs.host` and `api` import this module.
"""

from __future__ import annotations

import os
import posixpath
import stat

from sandbox.errors import PolicyError
from sandbox.plan.root import Bind, Directory, FileBytes, Overlay, Symlink, Tmpfs
from sandbox.policy.profile import IdMode
from sandbox.record import dataclass, replace
from sandbox.rootfs import environment as passing  # by name: `api.storing` listens there
from sandbox.rootfs.command import CommandNotFound, env_program, host_problem, parse_shebang
from sandbox.rootfs.layers import locate
from sandbox.rootfs.system import synthetic_etc
from sandbox.rootfs.view import View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox.images.model import ImageConfig
    from sandbox.policy.profile import Profile

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH where an image says nothing, as container engines have it."""

_DATABASE_BYTES = 1 << 20  # of /etc/passwd and /etc/group
SKELETON_ROOM = (8 << 20, 2048)
"""Bytes and number of the files that a caller may give."""

_HEAD, _SHEBANGS = 1024, 6  # fs/exec.c, exec_binprm: five scripts, one the interpreter of the other, and a program
_HIGHEST_ID = 0xFFFFFFFE


@dataclass(frozen=True, slots=True, kw_only=True)
class Layered:
    """A run on an image, before its root is put together.

    Attributes:
        root: the overlay.
        profile: the caller's, as the user that the image names.
        argv: the whole command line.
        environment: the image's, with what it lacks.
        workdir: where the program starts.
        databases: `passwd` and `group` of /etc, where the image has no entry for the user.
        notes: lines for the user.
        flat: the image as one tree, where overlayfs is refused; then nothing can be written but on tmpfs.
        weaker: that, and why, in words.
        maps: (first inside, first outside, count) of uids and of gids, where a range of them is mapped.
    """

    root: Overlay
    profile: Profile
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    workdir: str
    databases: tuple[tuple[str, bytes], ...] = ()
    notes: tuple[str, ...] = ()
    flat: str = ""
    weaker: str = ""
    maps: tuple[tuple[tuple[int, int, int], ...], tuple[tuple[int, int, int], ...]] = ((), ())


def compose_image(
    profile: Profile, *, layers: Sequence[str], config: ImageConfig, argv: Sequence[str], entrypoint: Sequence[str] | None = None,
    upper: str | None = None,
) -> Layered:  # fmt: skip
    """Read what an image says of how it is run, as container engines do, and what of it the caller says otherwise.

    Args:
        profile: with `image`, and `uid`, `gid`, `user` and `home` that the image's take the places of.
        layers: directories in overlay form, topmost first.
        config: the image's.
        argv: arguments of the entry point, in the place of the image's command; empty for that.
        entrypoint: in the place of the image's, and of its command; empty for none.
        upper: host directory for what is written, see `Overlay`; None is a tmpfs of the run.

    Raises:
        PolicyError: there is nothing to run, or the image's user cannot be found.
    """
    why = f"image `{profile.image}`"
    limits = profile.limits
    root = Overlay(
        path="/", lowers=tuple(layers), upper=upper, size_bytes=0 if upper else limits.root_bytes, inodes=0 if upper else limits.root_inodes, why=why,
        owner=0 if os.geteuid() == 0 else -1,
    )  # fmt: skip
    first = config.entrypoint if entrypoint is None else tuple(entrypoint)
    words = (*first, *(argv or (config.command if entrypoint is None else ())))
    if not words:
        raise PolicyError(f"no command given, and {why} has none", hint=f"`sandbox exec --image {profile.image} -- COMMAND`")
    user = _find_user(root, config.user, why)
    if profile.ids is IdMode.RANGE and max(user.uid, user.gid) > 65535:
        raise PolicyError(f"{why}: its user {user.uid}:{user.gid} is beyond the ids that are mapped, 0 to 65535")
    environment = {"PATH": PATH, "HOME": user.home, **dict(config.environment)}
    return Layered(
        root=root, profile=replace(profile, uid=user.uid, gid=user.gid, user=user.name, home=user.home), argv=words,
        environment=tuple(environment.items()), workdir=posixpath.normpath("/" + config.workdir.lstrip("/")), databases=user.databases,
        notes=_say_volumes(config.volumes, profile),
    )  # fmt: skip


def add_image(view: View, layered: Layered) -> None:
    """Add the layers, and what is ours over them: empty places and the files of /etc that tell of the sandbox.

    /proc, /dev and /dev/shm are the plan's.
    """
    limits = layered.profile.limits
    etc = "/etc"
    if layered.flat:
        etc = "/.sandbox"  # `images.flat.OURS`
        _add_flat(view, layered)
    else:
        view.add(layered.root)
    view.add(Tmpfs(path="/tmp", size_bytes=limits.tmp_bytes, inodes=limits.tmp_inodes))
    synthetic = synthetic_etc(layered.profile)
    for name in ("hosts", "hostname", "resolv.conf"):
        view.add(FileBytes(path=f"{etc}/{name}", content=synthetic[name]))
    for name, content in layered.databases:
        view.add(FileBytes(path=f"{etc}/{name}", content=content))


def _add_flat(view: View, layered: Layered) -> None:
    """Add the image as one tree, read-only, each of its top directories by itself, so that what is ours lies beside them."""
    limits = layered.profile.limits
    for name in sorted(os.listdir(layered.flat)):
        path, source = f"/{name}", f"{layered.flat}/{name}"
        mode = os.lstat(source).st_mode
        if name in ("proc", "dev", "tmp", "run"):
            continue
        if stat.S_ISLNK(mode):
            view.add(Symlink(path=path, target=os.readlink(source)))
        else:
            view.add(Bind(path=path, source=source, directory=stat.S_ISDIR(mode), why=f"{layered.root.why}, one read-only tree"))
    for path in ("/run", "/var/tmp"):
        mode = 0o755 if path == "/run" else 0o1777
        view.add(Tmpfs(path=path, size_bytes=limits.tmp_bytes, inodes=limits.tmp_inodes, mode=mode))


def with_real_targets(view: View, profile: Profile) -> Profile:
    """Return the profile with volumes where the image's own links lead.

    A mount point's parents are made in the skeleton, where a directory `/lib` would hide the link of that name with all that is behind it.
    """
    volumes = tuple([replace(volume, target=_real_target(view, volume.target)) for volume in profile.volumes])
    return profile if volumes == profile.volumes else replace(profile, volumes=volumes)


def _real_target(view: View, path: str) -> str:
    at = "/"
    names = path.split("/")[1:]
    for number, name in enumerate(names[:-1]):
        found = view.trace(posixpath.join(at, name))
        if found is None:
            return posixpath.join(at, *names[number:])
        at = found
    return posixpath.join(at, names[-1])


def finish_image(view: View, layered: Layered, workdir: str, environ: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return the path to execute inside and the program's environment.

    Args:
        view: with everything that is shared; gets the directories of the image that something is mounted or made in.
        layered: the image's side.
        workdir: where the program starts.
        environ: the caller's environment, of which the profile lets through what it names.

    Raises:
        CommandNotFound: the image has no such program.
    """
    profile = layered.profile
    environment = dict(layered.environment) | passing.matching_variables(profile.env_pass, environ) | dict(profile.env_set)
    argv0 = _find_program(view, layered.argv[0], environment.get("PATH", PATH).split(":"), workdir)
    if not layered.flat:
        _keep_modes(view, layered)
    return argv0, environment


def choose_directory(view: View, layered: Layered) -> str:
    """Return the image's working directory, which is made where the image does not have it."""
    if view.trace(layered.workdir) is None:
        if layered.flat:
            return "/"
        view.add(Directory(path=layered.workdir))
    return layered.workdir


def _keep_modes(view: View, layered: Layered) -> None:
    """Give the skeleton's directories the modes, and with a range of ids the owners, that the image's have; they are what is seen."""
    root = layered.root
    for path in {posixpath.dirname(entry) for entry in view.entries}:
        while path != "/":
            if path not in view.entries and view.cover(path) is root:
                found = _locate(root, path)
                status = os.lstat(found) if found is not None else None
                if status is None or not stat.S_ISDIR(status.st_mode):
                    view.add(Directory(path=path))
                else:
                    owner = (_inside(status.st_uid, layered.maps[0]), _inside(status.st_gid, layered.maps[1]))
                    view.add(Directory(path=path, mode=stat.S_IMODE(status.st_mode) & 0o1777, owner=owner if any(owner) else None))
            path = posixpath.dirname(path)


def _inside(number: int, extents: tuple[tuple[int, int, int], ...]) -> int:
    """Return what an id of the disk is inside; root's where nothing is said of it."""
    return next((first + number - outside for first, outside, count in extents if outside <= number < outside + count), 0)


def _locate(root: Overlay, path: str) -> str | None:
    """Return the host's file at a path of a root, no link followed."""
    upper = () if root.upper is None else (f"{root.upper}/upper",)
    return locate((*upper, *root.lowers), path)


# ---- who the program is --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _User:
    uid: int
    gid: int
    name: str
    home: str
    databases: tuple[tuple[str, bytes], ...]


def _find_user(root: Overlay, text: str, why: str) -> _User:
    """Return the user that ``USER``, ``UID``, ``USER:GROUP`` or nothing (root) means in the image's own databases."""
    view = View()
    view.add(root)
    passwd, group = _read_database(view, "/etc/passwd"), _read_database(view, "/etc/group")
    users, groups = _rows(passwd, 7), _rows(group, 4)
    wanted, _, wanted_group = text.partition(":")
    wanted = wanted or "0"
    number = _number(wanted)
    row = next((row for row in users if row[0] == wanted or (number is not None and row[2] == number)), None)
    if number is None and row is None:
        raise PolicyError(f"{why}: its user `{wanted[:64]}` is not in its /etc/passwd", hint="the image is damaged, or means to be run with another base")
    uid = int(row[2]) if row is not None else number or 0
    gid = int(row[3]) if row is not None and isinstance(row[3], int) else 0
    if wanted_group:
        found = _number(wanted_group)
        if found is None:
            line = next((row for row in groups if row[0] == wanted_group), None)
            if line is None:
                raise PolicyError(f"{why}: its group `{wanted_group[:64]}` is not in its /etc/group")
            found = int(line[2])
        gid = found
    name = str(row[0]) if row is not None else "root" if uid == 0 else f"user{uid}"
    home = str(row[5]) if row is not None else "/root" if uid == 0 else "/"
    home = posixpath.normpath("/" + home.lstrip("/"))
    databases = []
    if row is None:
        databases.append(("passwd", _with_line(passwd, f"{name}:x:{uid}:{gid}:{name}:{home}:/bin/sh")))
    if not any(line[2] == gid for line in groups):
        databases.append(("group", _with_line(group, f"{name if row is None or gid == 0 else f'group{gid}'}:x:{gid}:")))
    return _User(uid=uid, gid=gid, name=name, home=home, databases=tuple(databases))


def _read_database(view: View, path: str) -> bytes:
    end = view.trace(path)
    content = view.read_head(end, _DATABASE_BYTES + 1) if end is not None else None
    return content if content is not None and len(content) <= _DATABASE_BYTES else b""


def _rows(content: bytes, columns: int) -> list[tuple[str | int, ...]]:
    """Return the lines that are well-formed, ids as numbers."""
    found = []
    for line in content.decode("utf-8", "surrogateescape").splitlines():
        words: list[str | int] = list(line.split(":"))
        number = _number(str(words[2])) if len(words) >= columns and words[0] else None
        if number is None:
            continue
        words[2] = number
        group = _number(str(words[3])) if columns > 4 else None
        if group is not None:
            words[3] = group
        found.append(tuple(words))
    return found


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= 10 and int(text) <= _HIGHEST_ID else None


def _with_line(content: bytes, line: str) -> bytes:
    return content + (b"" if not content or content.endswith(b"\n") else b"\n") + line.encode("utf-8", "surrogateescape") + b"\n"


# ---- what it runs --------------------------------------------------------------------------------------------------------


def _find_program(view: View, name: str, search: Sequence[str], workdir: str) -> str:
    """Return the path of a program inside, found as execvp(3) would find it there; the host's own directories are never looked in."""
    if not name or "\0" in name:
        raise CommandNotFound(f"run `{name}`: not a file name", exit_code=127)
    if "/" in name:
        path = posixpath.join(workdir, name)
        problem = _problem(view, path)
    else:
        path, problem = "", "missing"
        for directory in search:
            there = posixpath.join(workdir, directory, name)
            found = _problem(view, there)
            if found is None:
                path, problem = there, None
                break
            problem = found if found != "missing" else problem
    if problem is not None:
        raise _not_found(name, problem)
    _check_interpreters(view, path, name, search, workdir)
    return path


def _problem(view: View, path: str) -> str | None:
    """Return what keeps a path inside from being executed, or None."""
    end = view.trace(path)
    if end is None:
        return "missing"
    entry = view.entries.get(end)
    if isinstance(entry, FileBytes):
        return None if entry.mode & 0o111 else "not executable"
    host = view.host_path(end)
    return host_problem(host) if host is not None else "a directory"


def _check_interpreters(view: View, path: str, name: str, search: Sequence[str], workdir: str) -> None:
    """Say now what the kernel would call a missing file, which is there: that its ``#!`` line names a program that the image does not have."""
    for _ in range(_SHEBANGS):
        end = view.trace(path)
        head = view.read_head(end, _HEAD) if end is not None else None
        words = parse_shebang(head) if head is not None and head.startswith(b"#!") else []
        if not words:
            return
        path = posixpath.join(workdir, words[0])
        problem = _problem(view, path)
        program = env_program(words[1:]) if problem is None and posixpath.basename(words[0]) == "env" else None
        if program is not None:
            places = [program] if "/" in program else [posixpath.join(directory, program) for directory in search]
            path = next((there for place in places if _problem(view, there := posixpath.join(workdir, place)) is None), "")
            problem = None if path else "missing"
        if problem is not None:
            raise _not_found(program or words[0], problem, f"needed by `{name}`")


def _not_found(name: str, problem: str, origin: str | None = None) -> CommandNotFound:
    if problem == "missing":
        reason = "no such file in the image" if "/" in name else "not found in the image's PATH"
        return CommandNotFound(f"run `{name}`: {reason}", exit_code=127, origin=origin)
    reason = "it is a directory" if problem == "a directory" else "it is not executable"
    return CommandNotFound(f"run `{name}`: {reason}", exit_code=126, origin=origin)


def _say_volumes(volumes: Sequence[str], profile: Profile) -> tuple[str, ...]:
    """Say which places the image wants kept, and are not."""
    given = {volume.target for volume in profile.volumes}
    left = [volume for volume in volumes if volume not in given]
    if not left:
        return ()
    return (f"the image keeps data in {', '.join(f'`{volume}`' for volume in left[:8])}: no volume is there, so it ends with the run",)


__all__ = ["PATH", "SKELETON_ROOM", "Layered", "add_image", "choose_directory", "compose_image", "finish_image", "with_real_targets"]
