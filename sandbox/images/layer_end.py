"""The end of unpacking a layer: whiteouts, opaque directories, and what the archive says of directories. Only `unpacking` imports this.

They come last because the specification knows no order: a whiteout hides what lies in the layers below, never a file of its own layer, wherever in the archive
it stands. A whiteout is made only where it hides something: overlay shows one in a directory that is not merged as a file that cannot be used.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.errors import UnsupportedError, describe_errno
from sandbox.images.bounds import ImageError
from sandbox.images.layer_tree import DirectoryFacts, LayerTree
from sandbox.images.treeops import DIRECTORY_FLAGS, status_at
from sandbox.kernel.calls import open_beneath

OPAQUE_XATTR = "user.overlay.opaque"


def finish_layer(layer: LayerTree) -> None:
    """Bring a tree with all its files into its final form.

    Raises:
        ImageError: a bound is met, or a whiteout lies where nothing can.
        UnsupportedError: this kernel or file system cannot hold the form.
        OSError: a file system's own trouble.
    """
    if b"" in layer.opaque:
        # Overlay merges the roots of its layers whatever an xattr says; what lies in them can be hidden.
        layer.opaque.discard(b"")
        layer.gone |= layer.names_below_root()
    layer.gone = _canonical(layer, layer.gone)
    layer.opaque = _canonical(layer, {directory + b"/." for directory in layer.opaque}) - {b""}
    for path in sorted(layer.opaque):
        _finish_opaque(layer, path)
    for path in sorted(layer.gone):
        _finish_gone(layer, path)
    if b"" not in layer.directories:
        layer.directories[b""] = layer.facts_like(b"", layer.look_below(b""), 0)
    deepest_first = sorted(layer.directories, key=lambda path: (path.count(b"/") + bool(path), path), reverse=True)
    for path in deepest_first:
        _finish_directory(layer, path, layer.directories[path])


def _canonical(layer: LayerTree, paths: set[bytes]) -> set[bytes]:
    """Resolve the directories of hidden paths: an archive may name them through links. What lies below a file hides nothing."""
    found = set()
    for path in sorted(paths):
        directory, _, name = path.rpartition(b"/")
        try:
            above = layer.resolve(tuple(directory.split(b"/")) if directory else (), 0, make=False)
        except ImageError:
            continue
        if name == b".":
            found.add(above)
        else:
            found.add(above + b"/" + name if above else name)
    return found


def _finish_opaque(layer: LayerTree, path: bytes) -> None:
    below = layer.look_below(path)
    if below is None or not below.is_directory:
        return
    if status_at(layer.root, path) is None:
        layer.resolve(tuple(path.split(b"/")), below.status.st_mtime_ns)
    layer.facts.opaque.add(path)


def _finish_gone(layer: LayerTree, path: bytes) -> None:
    layer.gone.discard(path)  # the question is what would be seen without it
    found = layer.look_below(path)
    layer.gone.add(path)
    if found is None:
        return
    status = status_at(layer.root, path)
    if status is not None:
        if stat.S_ISDIR(status.st_mode) and found.is_directory:
            layer.facts.opaque.add(path)
        return
    above, _, name = path.rpartition(b"/")
    _, parent = layer.open_resolved(tuple(above.split(b"/")) if above else (), found.status.st_mtime_ns)
    try:
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)
    except PermissionError:
        # Overlayfs takes none for a file of its own: fs/overlayfs/dir.c, ovl_mknod.
        hint = "Linux 5.8 or newer, and a store that is not on overlayfs itself (in a container: on a volume), see SANDBOX_DATA_DIR in sandbox-image(1)"
        raise UnsupportedError("whiteouts made by an ordinary user", "image", hint=hint) from None
    finally:
        os.close(parent)


def _finish_directory(layer: LayerTree, path: bytes, facts: DirectoryFacts) -> None:
    try:
        fd = open_beneath(layer.root, os.fsdecode(path) or ".", DIRECTORY_FLAGS)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return  # a later entry has taken its place
        raise
    try:
        if path in layer.facts.opaque:
            try:
                os.setxattr(fd, OPAQUE_XATTR, b"y")
            except OSError as error:
                hint = "keep images on a file system with them (ext4, xfs, btrfs, tmpfs since Linux 6.6), see SANDBOX_DATA_DIR"
                reason = describe_errno(error.errno or 0)
                raise UnsupportedError("a file system with user xattrs", "image", reason=reason, hint=hint) from None
        layer.dress(fd, facts.mode, facts.mtime_ns, facts.xattrs, facts.owner)
    finally:
        os.close(fd)


__all__ = ["OPAQUE_XATTR", "finish_layer"]
