"""Builds the root of a run from the host's own files: `build_root_spec`, the one door of this floor for the launch path.

Looks at the file system (stat, readlink, the first bytes of scripts) and changes nothing; what it returns are values. `api` imports it.
"""

from __future__ import annotations

import os
import posixpath
import stat

from sandbox.errors import PolicyError, describe_errno
from sandbox.plan.root import Bind, Directory, FileBytes, Overlay, RootSpec, Symlink, Tmpfs, VolumeUse
from sandbox.policy.profile import CwdMode, Profile, VolumeKind
from sandbox.policy.profile_volumes import check_volume_targets
from sandbox.rootfs.command import STANDARD_PATH, Resolver, compose_path
from sandbox.rootfs.environment import compose_environment
from sandbox.rootfs.interpreters import Interpreters
from sandbox.rootfs.named import check_named, fill_source, tmpfs_entry, with_points
from sandbox.rootfs.sockets import find_sockets
from sandbox.rootfs.submounts import Mounts, read_mounts
from sandbox.rootfs.system import add_base
from sandbox.rootfs.view import View, is_within
from sandbox.rootfs.volumes import caller_homes, check_volume, check_writable, protected_paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sandbox.plan.root import Cover
    from sandbox.rootfs.image import Layered
    from sandbox.rootfs.machine_view import Machine

_NOT_OURS = ("/proc", "/sys", "/dev", "/run", "/etc", "/boot")


def build_root_spec(
    profile: Profile,
    *,
    argv: Sequence[str],
    cwd: str | None,
    environ: Mapping[str, str],
    files: Mapping[str, bytes] | None = None,
    is_root: bool,
    mask_sockets: bool = True,
    hidden: Callable[[], Sequence[str]] = tuple,
    layered: Layered | None = None,
    machine: Machine | None = None,
) -> tuple[RootSpec, dict[str, str]]:
    """Return what the new root contains for one command, and the program's environment.

    Args:
        profile: limits of the tmpfs, what is shared, who the program is; overrides already in it.
        argv: the command; only the first word is looked at.
        cwd: the caller's working directory, absolute, to be shared as the profile says; None starts in the home inside.
        environ: the caller's environment: PATH for the search, HOME for what is never shared, and what the profile lets through.
        files: relative names and contents, made in the directory where the program starts; that must be a place of ours.
        is_root: the program will run as another user than the caller's, so what others may not read is noted.
        hidden: returns directories that are never seen inside, whatever is shared: with the sockets of running sandboxes, or images. One that could be made
            while the program runs is made now, the one thing on the host that changes here, for what is hidden must exist.
        layered: the image that is the root; then nothing of the host's system is in it.
        machine: what the files of /sys and /proc are to say of processors and memory; None leaves them out, or to the kernel.
        mask_sockets: look for sockets in shared directories and hide them; a caller whose filter refuses `connect` may save the scan.

    Raises:
        PolicyError: a volume, directory or file that cannot be shared or made.
        CommandNotFound: the command is nowhere; its `exit_code` is the shell's.
    """
    if not argv:
        raise PolicyError("no command given")
    view = View()
    notes: list[str] = []
    homes = caller_homes(environ)
    if layered is None:
        add_base(view, profile)
    else:
        from sandbox.rootfs.image import add_image, choose_directory, finish_image, with_real_targets

        add_image(view, layered)
        profile = with_real_targets(view, profile)
        notes += layered.notes
    shared, uses = _share(view, profile, cwd, homes, environ, notes, on_image=layered is not None)
    never = hidden() if shared else ()
    for bind in shared:
        _hide(view, bind, never)
    if layered is not None and not (cwd is not None and any(is_within(os.path.realpath(cwd), bind.path) for bind in shared)):
        workdir = choose_directory(view, layered)
    else:
        workdir = _choose_workdir(view, profile, cwd, shared)
    if files:
        _add_files(view, files, workdir, profile)
    if mask_sockets:
        for bind in shared:
            _mask_sockets(view, bind, notes)
    covers: tuple[Cover, ...] = ()
    if machine is not None:
        from sandbox.rootfs.machine_view import add_machine

        entries, covers = add_machine(machine)
        for entry in entries:
            view.add(entry)
    if layered is not None:
        argv0, env = finish_image(view, layered, workdir, environ)
        view.check()
    else:
        argv0, env = _resolve(view, profile, argv[0], cwd, environ, workdir, homes, notes)
    if is_root:
        _note_unreadable(view, argv0, shared, notes)
    spec = RootSpec(
        entries=tuple(view.entries.values()), workdir=workdir, argv0=argv0, notes=tuple(dict.fromkeys(notes)), volumes=with_points(view, uses),
        covers=covers,
    )  # fmt: skip
    return spec, env


def _resolve(
    view: View, profile: Profile, command: str, cwd: str | None, environ: Mapping[str, str], workdir: str, homes: tuple[str, ...], notes: list[str]
) -> tuple[str, dict[str, str]]:
    """Find the program on the host, share what it needs, and return its path inside and its environment."""
    extra: dict[str, str] = {}
    interpreters = Interpreters(view, homes)
    settings = dict(profile.env_set)
    search = settings.get("PATH", environ.get("PATH", "")).split(":")
    if search == [""]:
        search = list(STANDARD_PATH)
    _activate(interpreters, environ, search, extra)
    real = os.path.realpath(cwd) if cwd is not None else None
    resolver = Resolver(view, interpreters, search=search, cwd=real, workdir=workdir, environ=environ)
    argv0 = resolver.resolve(command)
    if resolver.python_user_base:
        extra["PYTHONUSERBASE"] = resolver.python_user_base
    view.check()
    notes += interpreters.notes
    return argv0, compose_environment(profile, environ, path=compose_path(resolver), extra=extra)


def _share(
    view: View, profile: Profile, cwd: str | None, homes: tuple[str, ...], environ: Mapping[str, str], notes: list[str], *, on_image: bool
) -> tuple[list[Bind], list[VolumeUse]]:
    """Add the working directory, then the volumes, and return the mounts of host paths that came of them, and the named volumes."""
    check_volume_targets(profile.volumes)
    paths = [volume for volume in profile.volumes if volume.kind is VolumeKind.PATH]
    writable = profile.cwd is CwdMode.WRITABLE or any(volume.writable for volume in paths)
    protected = protected_paths(profile, environ, homes) if writable else {}
    named = [
        (bind, fill_source(view, use, public=not on_image))
        for bind, use in (check_named(each, environ, profile.ids) for each in profile.volumes if each.kind is VolumeKind.NAMED)
    ]
    volumes = [check_volume(volume, protected) for volume in paths]
    shared = []
    if cwd is not None and profile.cwd is not CwdMode.NO:
        real = os.path.realpath(cwd)
        # A volume on the working directory itself says better what is wanted of it.
        if not any(is_within(real, bind.path) and bind.source + real[len(bind.path) :] == real for bind in volumes):
            bind = _working_directory(view, profile, real, homes, protected, notes)
            if bind is not None:
                shared.append(bind)
    mounts = read_mounts()
    for bind in (*shared, *volumes):
        kind = mounts.kernel_type(bind.source)
        if kind is not None:
            raise PolicyError(f"share `{bind.source}`: it lies in the kernel's file system `{kind}`", origin=bind.why)
        if bind.path.startswith("/var/tmp/") and isinstance(view.entries.get("/var/tmp"), Symlink):
            view.entries["/var/tmp"] = Directory(path="/var/tmp")
        if isinstance(view.entries.get(bind.path), Symlink):
            raise PolicyError(f"mount on `{bind.path}`: it is a symbolic link inside", origin=bind.why, hint="choose another target")
        view.add(bind)
    for bind, _ in named:
        _add_own(view, bind, bind.why)
    for volume in profile.volumes:
        if volume.kind is VolumeKind.TMPFS:
            _add_own(view, tmpfs_entry(volume), volume.origin)
    for bind in (*shared, *volumes):
        _mask_kernel_mounts(view, bind, mounts, notes)
    return [*shared, *volumes], [use for _, use in named]


def _add_own(view: View, entry: Bind | Tmpfs, origin: str) -> None:
    """Add a mount of what is no host path: a named volume, or a tmpfs."""
    if entry.path.startswith("/var/tmp/") and isinstance(view.entries.get("/var/tmp"), Symlink):
        view.entries["/var/tmp"] = Directory(path="/var/tmp")
    if isinstance(view.entries.get(entry.path), Symlink):
        raise PolicyError(f"mount on `{entry.path}`: it is a symbolic link inside", origin=origin, hint="choose another target")
    cover = view.cover(entry.path)
    host = view.host_path(entry.path)
    if isinstance(cover, FileBytes) or (host is not None and os.path.isfile(host)):
        raise PolicyError(f"mount on `{entry.path}`: it is a file inside", origin=origin, hint="a volume is a directory: choose another target")
    view.add(entry)


def _mask_kernel_mounts(view: View, bind: Bind, mounts: Mounts, notes: list[str]) -> None:
    """Cover a procfs or its like below a share (`proc` in a chroot tree), which would come with the tree that it is mounted in."""
    for source in mounts.kernel_mounts_below(bind.source):
        path = bind.path + source[len(bind.source) :]
        if view.cover(path) is not bind:
            continue
        if os.path.isdir(source):
            view.add(Tmpfs(path=path, size_bytes=4096, inodes=8, mode=0o555, executable=False))
        else:
            view.add(Bind(path=path, source="/dev/null", directory=False, executable=False, why=f"mask of the kernel's `{source}`"))
        notes.append(f"`{source}` is hidden inside: it is a file system of the host's kernel")


def _hide(view: View, bind: Bind, hidden: Sequence[str]) -> None:
    """Cover what must not be seen; a read-only share would let it be connected to (bubblewrap's README), a writable one be forged for the next run."""
    for path in hidden:
        if is_within(bind.source, path):
            hint = "share a directory beside it"
            kept = os.path.basename(path)
            what = kept if kept in ("images", "volumes", "changes") else "the sockets of running sandboxes"
            if kept == "volumes":
                hint = "`-v NAME:/PATH` mounts a volume"
            raise PolicyError(f"share `{bind.source}`: {what} are there", origin=bind.why, hint=hint)
        if not is_within(path, bind.source):
            continue
        try:
            if os.path.basename(path) in ("images", "volumes", "changes") and not os.path.lexists(os.path.dirname(path)):
                os.mkdir(os.path.dirname(path), 0o700)  # the first image or volume of all may be made while the program runs
            os.mkdir(path, 0o700)
        except OSError:
            if os.path.islink(path) or not os.path.isdir(path):
                continue  # not there and not to be made, by us or by the program; or a thing that nobody registers in
        target = bind.path + path[len(bind.source) :]
        if view.cover(target) is bind:
            view.add(Tmpfs(path=target, size_bytes=4096, inodes=8, mode=0o555, executable=False))


def _working_directory(
    view: View, profile: Profile, real: str, homes: tuple[str, ...], protected: Mapping[str, str], notes: list[str]
) -> Bind | None:
    """Return the mount of the caller's working directory, or None with the reason in `notes` (or without, where it is visible anyway)."""
    writable = profile.cwd is CwdMode.WRITABLE
    reason = ""
    hint = ""
    try:
        mode = os.stat(real).st_mode
    except OSError as error:
        mode = 0
        reason = describe_errno(error.errno or 0)
    if reason:
        pass
    elif not stat.S_ISDIR(mode):
        reason = "it is not a directory"
    elif view.shows(real):
        if writable:
            notes.append(f"working directory `{real}` not writable: it is a part of the system")
        return None
    elif real == "/":
        reason = "it is the host's root"
    elif any(is_within(home, real) for home in homes) or real == "/root" or (real.startswith("/home/") and real.count("/") == 2):
        above = any(is_within(home, real) and home != real for home in homes)
        reason = "it contains the home directory" if above else "it is a home directory"
        hint = "; start from a directory in it, or share what is needed with `-v`"
    elif any(is_within(real, top) for top in _NOT_OURS):
        reason = "it belongs to the host's system"
    elif real in view.entries or any(not isinstance(entry, Bind) for entry in view.below(real)):
        reason = "the sandbox has its own there"
        hint = "; start from a directory in it"
    elif not os.access(real, os.R_OK | os.X_OK):
        reason = "it cannot be read"
    if reason:
        notes.append(f"working directory `{real}` not shared: {reason}{hint}")
        return None
    if writable:
        check_writable(real, real, protected, "working directory")
    return Bind(path=real, source=real, directory=True, writable=writable, why="working directory")


def _choose_workdir(view: View, profile: Profile, cwd: str | None, shared: list[Bind]) -> str:
    """Return the caller's directory if it is visible under its own name, else the home inside."""
    if cwd is None:
        return profile.home
    real = os.path.realpath(cwd)
    if view.shows(real) and os.path.isdir(real) and (profile.cwd is not CwdMode.NO or any(is_within(real, bind.path) for bind in shared)):
        return real
    return profile.home


def _add_files(view: View, files: Mapping[str, bytes], workdir: str, profile: Profile) -> None:
    """Add the caller's files, which must land on a tmpfs: anywhere else they would be written to the host."""
    cover = view.cover(workdir)
    while isinstance(cover, Directory):  # of the image's, or made for it
        cover = view.cover(posixpath.dirname(cover.path))
    room = (cover.size_bytes, cover.inodes) if isinstance(cover, Tmpfs) else None
    if isinstance(cover, Overlay) and cover.path == "/":
        from sandbox.rootfs.image import SKELETON_ROOM

        room = SKELETON_ROOM  # they are files of the topmost layer
    if room is None:
        hint = "give no working directory, or write the files there yourself"
        raise PolicyError(f"make files in `{workdir}`: it is not a place of the sandbox's own", hint=hint)
    total = sum(len(content) for content in files.values())
    if total > room[0]:
        message = f"make files in `{workdir}`: {total} bytes are more than its limit of {room[0]}"
        raise PolicyError(message, hint="raise the limit `home`" if isinstance(cover, Tmpfs) else "share a directory with a volume")
    made = {name: posixpath.join(workdir, name) for name in files}
    directories: set[str] = set()
    for name, path in made.items():
        parts = name.split("/")
        if not name or name.startswith("/") or any(part in ("", ".", "..") for part in parts) or "\0" in name:
            raise PolicyError(f"make file `{name}`: not a relative path inside the working directory")
        if any(len(os.fsencode(part)) > 255 for part in parts) or len(os.fsencode(path)) > 4095:
            raise PolicyError(f"make file `{name}`: name too long")
        if path in view.entries or isinstance(view.cover(path), Bind):
            raise PolicyError(f"make file `{name}`: a volume is shared there")
        parent = posixpath.dirname(path)
        while parent != workdir:
            directories.add(parent)
            parent = posixpath.dirname(parent)
    if len(made) + len(directories) >= room[1]:
        raise PolicyError(f"make files in `{workdir}`: {len(made)} files are more than its limit of {room[1]} inodes allows")
    for name, path in made.items():
        if path in directories:
            raise PolicyError(f"make file `{name}`: another file's directory has that name")
    for path in sorted(directories):
        if path not in view.entries:
            view.add(Directory(path=path))
    for name, path in made.items():
        content = bytes(files[name])
        view.add(FileBytes(path=path, content=content, mode=0o755 if content.startswith((b"#!", b"\x7fELF")) else 0o644))


def _mask_sockets(view: View, bind: Bind, notes: list[str]) -> None:
    if not bind.directory or view.entries.get(bind.path) is not bind:
        return
    scan = find_sockets(bind.source)
    for source in scan.paths:
        path = bind.path + source[len(bind.source) :]
        if view.cover(path) is bind:
            view.add(Bind(path=path, source="/dev/null", directory=False, executable=False, why=f"mask of the socket or FIFO `{source}`"))
    if not scan.complete:
        notes.append(f"`{bind.source}` is too large to look for sockets in all of it")


def _activate(interpreters: Interpreters, environ: Mapping[str, str], search: list[str], extra: dict[str, str]) -> None:
    """Share the environments that the caller's shell has activated: programs in them are found by others, too (`make test`)."""
    for variable, programs in (("VIRTUAL_ENV", "bin"), ("CONDA_PREFIX", "bin"), ("NVM_BIN", "")):
        prefix = environ.get(variable, "")
        if not prefix.startswith("/") or posixpath.join(prefix, programs).rstrip("/") not in search:
            continue
        prefix = posixpath.normpath(prefix)
        if interpreters.expose_environment(prefix if programs else posixpath.dirname(prefix), variable) and programs:
            extra[variable] = prefix


def _note_unreadable(view: View, argv0: str, shared: list[Bind], notes: list[str]) -> None:
    """Say beforehand what the program, who is another user when root calls, will not be able to read."""
    for bind in shared:
        mode = os.stat(bind.source).st_mode
        if mode & (0o005 if bind.directory else 0o004) != (0o005 if bind.directory else 0o004):
            notes.append(f"`{bind.source}` cannot be read inside: the program runs as another user than root; `chmod o+rX` it")
        elif bind.writable and not mode & 0o002:
            notes.append(f"`{bind.source}` cannot be written inside: the program runs as another user than root; `chmod o+w` it")
    end = view.trace(argv0)
    host = view.host_path(end) if end is not None else None
    if end is None or host is None:
        return
    top = view.cover(end)
    at = host
    while isinstance(top, Bind) and is_within(at, top.source):
        mode = os.stat(at).st_mode
        if not mode & 0o001:
            notes.append(f"`{at}` cannot be entered or executed inside: the program runs as another user than root; `chmod o+rx` it")
        if at == top.source:
            break
        at = posixpath.dirname(at)
