"""Rows of the steps that build the root: trees, tmpfs, /proc, /dev, pivot.

All of it by descriptor, on a tmpfs that nobody else sees: openat2 without links, open_tree, mount_setattr, move_mount.
Pure. Source: open_tree(2), move_mount(2), mount_setattr(2), fsopen(2). Since: Linux 5.12.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from sandbox.abi import uapi
from sandbox.plan.codec import Arg, Ref, Slot
from sandbox.plan.lower_machine import lower_machine_step
from sandbox.plan.steps import (
    AttachTree,
    CloneDevice,
    CloneTree,
    EnterRoot,
    MakeDirectory,
    MakeSymlink,
    MaskProc,
    MountDevpts,
    MountProc,
    MountRoot,
    MountTmpfs,
    OpenTerminal,
    PrivateMounts,
    RootReadOnly,
    Step,
    TakeStash,
    WriteFile,
)  # fmt: skip

if TYPE_CHECKING:
    from sandbox.plan.lower import Lowering

_ATTRIBUTES = 32  # sizeof(struct mount_attr)
_STATX_MODE, _STATX_RDEV_MAJOR, _STATX_RDEV_MINOR = 28, 128, 132  # offsets in struct statx (modes are 16 bits wide)
_CLONE_FLAGS = uapi.OPEN_TREE_CLONE | uapi.OPEN_TREE_CLOEXEC | uapi.AT_EMPTY_PATH | uapi.AT_RECURSIVE
_ALWAYS = "cmdline"  # of procfs, on every kernel
_TERMINALS = 64  # a pty is charged to no limit but the host's own maximum
SAFE = uapi.MOUNT_ATTR_NOSUID | uapi.MOUNT_ATTR_NODEV


def lower_mount_step(low: Lowering, step: Step) -> bool:
    """Add the rows of a mount step; False when the step is another floor's."""
    match step:
        case PrivateMounts():
            low.call("mount", 0, "/", 0, uapi.MS_REC | uapi.MS_PRIVATE, 0, label="`/` private")
        case CloneTree():
            _clone_tree(low, step)
        case CloneDevice():
            _clone_device(low, step)
        case MountRoot():
            options = (("size", str(step.size_bytes)), ("nr_inodes", str(step.inodes)), ("mode", "755"))
            filesystem(low, "tmpfs", options, SAFE, low.slot("root"))
            low.call("move_mount", Slot(low.slot("root")), "", uapi.AT_FDCWD, "/", uapi.MOVE_MOUNT_F_EMPTY_PATH, label="tmpfs on `/`")
            low.call("umask", 0)
        case MakeDirectory(path=path, mode=mode, owner=owner):
            low.call("mkdirat", root_fd(low), path[1:], mode, label=f"`{path}`")
            if owner is not None:
                low.call("fchownat", root_fd(low), path[1:], *owner, uapi.AT_SYMLINK_NOFOLLOW, label=f"`{path}`")
        case MakeSymlink(path=path, target=target):
            low.call("symlinkat", target, root_fd(low), path[1:], label=f"`{path}`")
        case WriteFile():
            make_file(low, root_fd(low), step.path[1:], step.content, step.mode, f"`{step.path}`")
        case AttachTree():
            _attach_tree(low, step)
        case MountTmpfs(path=path):
            options = (("size", str(step.size_bytes)), ("nr_inodes", str(step.inodes)), ("mode", f"{step.mode:o}"))
            attributes = SAFE | (0 if step.executable else uapi.MOUNT_ATTR_NOEXEC)
            filesystem(low, "tmpfs", options, attributes, low.slot("mount"))
            attach(low, Slot(low.slot("mount")), path, within=step.within)
        case MountProc(minimal=minimal):
            options = (("hidepid", "invisible"), *((("subset", "pid"),) if minimal else ()))
            attributes = SAFE | uapi.MOUNT_ATTR_NOEXEC | (uapi.MOUNT_ATTR_RDONLY if minimal else 0)
            filesystem(low, "proc", options, attributes, low.slot("proc"))
            attach(low, Slot(low.slot("proc")), "/proc")
        case MaskProc():
            _mask_proc(low, step)
        case MountDevpts():
            terminals = (("newinstance", ""), ("ptmxmode", "666"), ("mode", "620"), ("max", str(_TERMINALS)))
            filesystem(low, "devpts", terminals, uapi.MOUNT_ATTR_NOSUID | uapi.MOUNT_ATTR_NOEXEC, low.slot("mount"))
            attach(low, Slot(low.slot("mount")), "/dev/pts")
        case TakeStash(path=path, key=key):
            flags = uapi.O_PATH | uapi.O_CLOEXEC | uapi.O_NOFOLLOW[low.arch]
            low.call("openat", root_fd(low), path[1:], flags, store=low.slot(key), label=f"`{path}`")
        case OpenTerminal():
            _open_terminal(low)
        case RootReadOnly(path=path):
            set_attributes(low, root_fd(low), uapi.MOUNT_ATTR_RDONLY, recursive=False, path=path[1:])
        case EnterRoot():
            _enter_root(low, step)
        case _:
            return lower_machine_step(low, step)
    return True


def root_fd(low: Lowering) -> Slot:
    """Return where paths of the root begin."""
    return Slot(low.slot("root"))


def filesystem(low: Lowering, kind: str, options: tuple[tuple[str, str], ...], attributes: int, store: int) -> None:
    """Add the rows that make a mount, attached nowhere; an option without a value is a flag."""
    context = low.slot("context")
    low.call("fsopen", kind, uapi.FSOPEN_CLOEXEC, store=context, label=kind)
    for name, value in options:
        if value:
            low.call("fsconfig", Slot(context), uapi.FSCONFIG_SET_STRING, name, value, 0, label=f"{kind} {name}={value}")
        else:
            low.call("fsconfig", Slot(context), uapi.FSCONFIG_SET_FLAG, name, 0, 0, label=f"{kind} {name}")
    low.call("fsconfig", Slot(context), uapi.FSCONFIG_CMD_CREATE, 0, 0, 0, label=f"{kind} create")
    low.call("fsmount", Slot(context), uapi.FSMOUNT_CLOEXEC, attributes, store=store, label=kind)
    low.call("close", Slot(context))


def attach(low: Lowering, mount: Arg, path: str, *, within: bool = False) -> None:
    """Add the rows that attach a mount below the root; `within` a tree whose links are not to be followed."""
    if not within:
        low.call("move_mount", mount, "", root_fd(low), path[1:], uapi.MOVE_MOUNT_F_EMPTY_PATH, label=f"on `{path}`")
        return
    how = uapi.O_PATH | uapi.O_CLOEXEC
    resolve = uapi.RESOLVE_BENEATH | uapi.RESOLVE_NO_SYMLINKS | uapi.RESOLVE_NO_MAGICLINKS
    point = low.slot("point")
    block = low.builder.blob(struct.pack("<QQQ", how, 0, resolve))
    low.call("openat2", root_fd(low), path[1:], block, 24, store=point, label=f"mount point `{path}`")
    flags = uapi.MOVE_MOUNT_F_EMPTY_PATH | uapi.MOVE_MOUNT_T_EMPTY_PATH
    low.call("move_mount", mount, "", Slot(point), "", flags, label=f"on `{path}`")
    low.call("close", Slot(point))


def set_attributes(
    low: Lowering, mount: Arg, attributes: int, *, recursive: bool = True, private: bool = False, tolerate: tuple[int, ...] = (), path: str = ""
) -> None:
    block = low.builder.blob(struct.pack("<QQQQ", attributes, 0, uapi.MS_PRIVATE if private else 0, 0))
    flags = (0 if path else uapi.AT_EMPTY_PATH) | (uapi.AT_RECURSIVE if recursive else 0)
    low.call("mount_setattr", mount, path, flags, block, _ATTRIBUTES, tolerate=tolerate)


def _open_source(low: Lowering, path: str) -> int:
    # Without O_NOFOLLOW: with it and O_PATH a last component that is a link would be opened itself instead of refused (openat2(2)).
    how = uapi.O_PATH | uapi.O_CLOEXEC
    block = low.builder.blob(struct.pack("<QQQ", how, 0, uapi.RESOLVE_NO_SYMLINKS | uapi.RESOLVE_NO_MAGICLINKS))
    source = low.slot("source")
    low.call("openat2", uapi.AT_FDCWD, path, block, 24, store=source, label=f"`{path}`")
    return source


def _clone_tree(low: Lowering, step: CloneTree) -> None:
    bind = step.bind
    source, tree = _open_source(low, bind.source), low.slot(step.key)
    low.call("open_tree", Slot(source), "", _CLONE_FLAGS, store=tree, label=f"`{bind.source}`")
    attributes = SAFE | (0 if bind.writable else uapi.MOUNT_ATTR_RDONLY) | (0 if bind.executable else uapi.MOUNT_ATTR_NOEXEC)
    # Taken by root's janitor it would be a peer of the host's mount, and so of every other copy of it.
    set_attributes(low, Slot(tree), attributes, private=True)
    if step.map_fd >= 0:
        block = low.builder.blob(struct.pack("<QQQQ", uapi.MOUNT_ATTR_IDMAP, 0, 0, step.map_fd))
        low.call("mount_setattr", Slot(tree), "", uapi.AT_EMPTY_PATH, block, _ATTRIBUTES, label=f"ids of `{bind.source}`")
    low.call("close", Slot(source))


def _clone_device(low: Lowering, step: CloneDevice) -> None:
    source, tree = _open_source(low, f"/dev/{step.name}"), low.slot(step.key)
    facts = low.builder.reserve(256)
    low.call("statx", Slot(source), "", uapi.AT_EMPTY_PATH, uapi.STATX_TYPE, facts, label=f"`/dev/{step.name}`")
    low.expect(Ref(facts.offset + _STATX_MODE), 4, uapi.S_IFMT, uapi.S_IFCHR, errno.ENODEV, "a character device")
    low.expect(Ref(facts.offset + _STATX_RDEV_MAJOR), 4, 0xFFFFFFFF, step.major, errno.ENODEV, f"major {step.major}")
    low.expect(Ref(facts.offset + _STATX_RDEV_MINOR), 4, 0xFFFFFFFF, step.minor, errno.ENODEV, f"minor {step.minor}")
    low.call("open_tree", Slot(source), "", _CLONE_FLAGS, store=tree, label=f"`/dev/{step.name}`")
    set_attributes(low, Slot(tree), uapi.MOUNT_ATTR_NOSUID | uapi.MOUNT_ATTR_NOEXEC, private=True)
    low.call("close", Slot(source))


def make_file(low: Lowering, directory: Arg, path: str, content: bytes, mode: int, label: str) -> None:
    """Add the rows that make a file below a directory descriptor."""
    if not content:
        low.call("mknodat", directory, path, uapi.S_IFREG | mode, 0, label=label)
        return
    fd = low.slot("file")
    flags = uapi.O_WRONLY | uapi.O_CREAT | uapi.O_EXCL | uapi.O_CLOEXEC | uapi.O_NOFOLLOW[low.arch]
    low.call("openat", directory, path, flags, mode, store=fd, label=label)
    got = low.slot("got")
    low.call("write", Slot(fd), low.builder.blob(content), len(content), store=got, label=label)
    low.expect(Ref(got), 8, 0xFFFFFFFFFFFFFFFF, len(content), errno.ENOSPC, "all bytes written")
    low.call("close", Slot(fd))


def _attach_tree(low: Lowering, step: AttachTree) -> None:
    tree = Slot(low.slot(step.key))
    attach(low, tree, step.path, within=step.within)
    low.call("close", tree)


def _mask_proc(low: Lowering, step: MaskProc) -> None:
    proc, cover = Slot(low.slot("proc")), low.slot("cover")
    gone = (errno.ENOENT,)
    read_only = uapi.MOUNT_ATTR_RDONLY | SAFE | uapi.MOUNT_ATTR_NOEXEC
    # Where the root is an image's, the empty directory is on the tmpfs below it, which nobody can reach.
    empty = (Slot(low.slots["stage"]), "empty") if "stage" in low.slots else (root_fd(low), step.empty[1:])
    for names, (base, source) in ((step.files, (root_fd(low), "dev/null")), (step.directories, empty)):
        sealed = False
        for name in names:
            # A name that this kernel does not have needs no mask; any other error is fatal.
            low.call("open_tree", base, source, uapi.OPEN_TREE_CLONE | uapi.OPEN_TREE_CLOEXEC, store=cover, label=f"`/{source}`")
            if not sealed:
                set_attributes(low, Slot(cover), read_only)
            if name == _ALWAYS:
                base, source, sealed = proc, name, True  # the others are clones of this mask, read-only as it is
            low.call("move_mount", Slot(cover), "", proc, name, uapi.MOVE_MOUNT_F_EMPTY_PATH, tolerate=gone, label=f"over `/proc/{name}`")
            low.call("close", Slot(cover))
    absent = (errno.EBADF,)
    for name in step.read_only:
        flags = uapi.OPEN_TREE_CLONE | uapi.OPEN_TREE_CLOEXEC | uapi.AT_RECURSIVE
        low.call("open_tree", proc, name, flags, store=cover, tolerate=gone, label=f"`/proc/{name}`")
        set_attributes(low, Slot(cover), read_only, tolerate=absent)
        low.call(
            "move_mount", Slot(cover), "", proc, name, uapi.MOVE_MOUNT_F_EMPTY_PATH, tolerate=(*gone, *absent), label=f"`/proc/{name}`"
        )
        low.call("close", Slot(cover), tolerate=absent)


def _open_terminal(low: Lowering) -> None:
    master, slave = low.ready.offset + 16, low.slot("slave")
    flags = uapi.O_RDWR | uapi.O_NOCTTY | uapi.O_CLOEXEC
    low.call("openat", root_fd(low), "dev/pts/ptmx", flags, store=master, label="`/dev/pts/ptmx`")
    low.call("ioctl", Slot(master), uapi.TIOCSPTLCK, low.builder.blob(bytes(8)), label="TIOCSPTLCK")
    low.call("ioctl", Slot(master), uapi.TIOCGPTPEER, uapi.O_RDWR | uapi.O_NOCTTY, store=slave, label="TIOCGPTPEER")
    for number in range(3):
        low.call("dup3", Slot(slave), number, 0)
    low.call("close", Slot(slave))


def _enter_root(low: Lowering, step: EnterRoot) -> None:
    if step.stage and not step.pivot:
        low.call("move_mount", root_fd(low), "", uapi.AT_FDCWD, "/", uapi.MOVE_MOUNT_F_EMPTY_PATH, label="overlay on `/`")
    low.call("fchdir", root_fd(low))
    if step.pivot:
        low.call("pivot_root", ".", ".")
        # Of what is mounted on one place the last comes off first: the stage, then the host's tree. Were that left, no user namespace could be made.
        for name in ("the stage", "the host's tree") if step.stage else ("the host's tree",):
            low.call("umount2", ".", uapi.MNT_DETACH, label=name)
    else:
        low.call("chroot", ".")
    low.call("chdir", "/")
    # CVE-2024-21626: a working directory outside the root would read "(unreachable)…".
    path = low.builder.reserve(64)
    low.call("getcwd", path, 64)
    low.expect(path, 4, 0xFFFF, ord("/"), errno.EXDEV, "the working directory to be `/`")


__all__ = ["SAFE", "attach", "filesystem", "lower_mount_step", "root_fd"]
