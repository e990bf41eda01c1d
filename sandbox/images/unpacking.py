"""One layer's archive unpacked into a directory in overlay form, as it will look above the layers below it.

The form: a whiteout is the character device 0/0, an opaque directory has the xattr ``user.overlay.opaque``; of the archive's own xattrs only those of users
reach the disk, and no device does. Set-id bits do: whoever mounts a layer mounts it ``nosuid``, and the store is 0700. The same archive above other layers
may look otherwise (directories that it only implies, links to files below), so that a tree belongs to a chain of layers.
"""

from __future__ import annotations

import os
import stat

from sandbox.errors import describe_errno
from sandbox.images.bounds import MAXIMUM_PATH, Budget, ImageError, copy_error
from sandbox.images.facts import LayerFacts
from sandbox.images.layer_end import finish_layer
from sandbox.images.layer_tree import NEW_FILE, DirectoryFacts, LayerTree, Owners, reaches_disk, shown
from sandbox.images.lower import LowerView
from sandbox.images.paths import hides, split_path
from sandbox.images.tarread import Kind, Member, TarReader
from sandbox.images.treeops import status_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.packing import Stream

_CHUNK = 1 << 20
_CAPABILITY = 24  # bytes of the longest security.capability: struct vfs_ns_cap_data


def unpack_layer(
    stream: Stream,
    tree: int,
    trash: int,
    below: LowerView,
    budget: Budget,
    name: str,
    *,
    owners: Owners | None = None,
    needs_end: bool = True,
) -> LayerFacts:
    """Unpack an archive.

    Args:
        stream: the archive's bytes, not packed; borrowed.
        tree: a new, empty directory of mode 0700; borrowed.
        trash: another one on the same file system; borrowed.
        below: the layers under it.
        budget: of the whole import.
        name: of the archive, for messages.
        owners: None leaves all files the caller's.
        needs_end: see `TarReader`.

    Returns:
        what the tree cannot say of itself.

    Raises:
        ImageError: the archive is refused, with the entry. The tree is a part of something then, for the caller to remove.
        UnsupportedError: this kernel or file system cannot hold the form.
    """
    entries, size = budget.entries, budget.bytes
    layer = LayerTree(tree, trash, below, budget, owners)
    reader = TarReader(stream, budget, name, needs_end=needs_end)
    at = "its beginning"
    try:
        for member in reader:
            at = f"entry `{member.shown}`"
            budget.entry()
            _unpack_member(layer, member, reader)
        at = "its end"
        finish_layer(layer)
    except ImageError as error:
        if error.origin and error.origin.startswith(f"`{name}`"):
            raise
        raise copy_error(error, f"`{name}`, {at}") from None
    except OSError as error:
        raise ImageError(f"unpack: {describe_errno(error.errno or 0)}", origin=f"`{name}`, {at}") from None
    finally:
        layer.close()
    layer.facts.entries = budget.entries - entries
    layer.facts.size_bytes = budget.bytes - size
    return layer.facts


def _unpack_member(layer: LayerTree, member: Member, reader: TarReader) -> None:
    parts = split_path(member.name, layer.budget.bounds.depth)
    if not parts:
        if member.kind is not Kind.DIRECTORY:
            raise ImageError(f"the root itself as a {member.kind}")
        _note_directory(layer, b"", member)
        return
    hidden = hides(parts)
    if hidden is not None:
        layer.budget.remember(len(member.name))
        _note_hidden(layer, *hidden)
        return
    above, parent = layer.parent(parts[:-1], member.mtime_ns)
    name = parts[-1]
    path = above + b"/" + name if above else name
    if len(path) > MAXIMUM_PATH:
        raise ImageError(f"a path longer than {MAXIMUM_PATH} bytes, with its links")
    match member.kind:
        case Kind.DIRECTORY:
            _make_directory(layer, parent, name)
            _note_directory(layer, path, member)
            return
        case Kind.LINK:
            _make_link(layer, parent, name, member)
            layer.facts.owners.pop(path, None)  # the file's own are known by its first name
            return
        case Kind.CHARACTER | Kind.BLOCK:
            layer.clear(parent, name)
            layer.budget.remember(len(path))
            layer.gone.add(path)  # what it would have replaced is not to be seen either
            layer.facts.leave_out("device")
            return
        case Kind.FILE:
            _make_file(layer, parent, name, member, reader)
        case Kind.SYMLINK:
            if not member.target or b"\0" in member.target or len(member.target) > MAXIMUM_PATH:
                raise ImageError("a symbolic link to a text that can be no path")
            layer.place(parent, name, lambda: os.symlink(member.target, name, dir_fd=parent))
            layer.dress_unopened(parent, name, member, None)
        case Kind.FIFO:
            layer.place(parent, name, lambda: os.mkfifo(name, 0o600, dir_fd=parent))
            layer.dress_unopened(parent, name, member, member.mode)
    _note_owner(layer, path, member)


def _make_directory(layer: LayerTree, parent: int, name: bytes) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        status = status_at(parent, name)
        if status is None or not stat.S_ISDIR(status.st_mode):
            layer.clear(parent, name)
            os.mkdir(name, 0o700, dir_fd=parent)


def _make_file(layer: LayerTree, parent: int, name: bytes, member: Member, reader: TarReader) -> None:
    layer.budget.content(member.size)
    fd = layer.place(parent, name, lambda: os.open(name, NEW_FILE, 0o600, dir_fd=parent))
    try:
        if member.spans is None:
            while chunk := reader.read(_CHUNK):
                _write_all(fd, chunk)
        else:
            for offset, length in member.spans:
                os.lseek(fd, offset, os.SEEK_SET)
                while length and (chunk := reader.read(min(length, _CHUNK))):
                    _write_all(fd, chunk)
                    length -= len(chunk)
            os.ftruncate(fd, member.size)
        layer.dress(fd, member.mode, member.mtime_ns, member.xattrs, (member.uid, member.gid))
    finally:
        os.close(fd)


def _make_link(layer: LayerTree, parent: int, name: bytes, member: Member) -> None:
    parts = split_path(member.target, layer.budget.bounds.depth)
    if not parts or hides(parts) is not None:
        raise ImageError(f"a hard link to `{shown(member.target)}`, which can be no file")
    above, directory = layer.open_resolved(parts[:-1], member.mtime_ns)
    try:
        target = above + b"/" + parts[-1] if above else parts[-1]
        status = status_at(directory, parts[-1]) or layer.copy_up(target, directory, parts[-1])
        if status is None:
            raise ImageError(f"a hard link to `{shown(target)}`, which is not there")
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"a hard link to `{shown(target)}`, which is a directory")
        here = status_at(parent, name)
        if here is None or not os.path.samestat(here, status):
            layer.place(parent, name, lambda: os.link(parts[-1], name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False))
    finally:
        os.close(directory)


def _note_hidden(layer: LayerTree, what: str, parts: tuple[bytes, ...]) -> None:
    if what == "ignored":
        layer.facts.leave_out("file of AUFS")
    elif what == "opaque":
        layer.opaque.add(b"/".join(parts))
    else:
        layer.gone.add(b"/".join(parts))


def _note_directory(layer: LayerTree, path: bytes, member: Member) -> None:
    layer.budget.remember(len(path) + sum(map(len, member.xattrs.values())))
    layer.directories[path] = DirectoryFacts(
        mode=member.mode, mtime_ns=member.mtime_ns, xattrs=member.xattrs, owner=(member.uid, member.gid)
    )
    _note_owner(layer, path, member)


def _note_owner(layer: LayerTree, path: bytes, member: Member) -> None:
    if member.uid or member.gid:
        layer.budget.remember(len(path))
        layer.facts.owners[path] = (member.uid, member.gid)
    elif layer.facts.owners:
        layer.facts.owners.pop(path, None)
    for key, value in member.xattrs.items():
        if key == b"security.capability" and len(value) <= _CAPABILITY:
            layer.budget.remember(len(path))
            layer.facts.capabilities[path] = value
        if not reaches_disk(key):
            layer.facts.leave_out(f"xattr {key[:40].decode('utf-8', 'backslashreplace')}")


def _write_all(fd: int, chunk: bytes) -> None:
    written = os.write(fd, chunk)
    while written < len(chunk):
        written += os.write(fd, chunk[written:])


__all__ = ["unpack_layer"]
