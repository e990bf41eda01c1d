"""A new image of what a kept run wrote over an image: one layer more, made of the run's list of changes. ``sandbox image commit`` and `RunChanges.commit`.

The layer says each change, and nothing of the overlay's own marks: what is gone is a whiteout, and a directory that was removed and made again has one for
everything that is not in it any more. The run's files stay as they are.
"""

from __future__ import annotations

import os

from sandbox.api.images import open_images
from sandbox.changes.files import open_directory, open_file, xattrs_of
from sandbox.changes.model import Change, Kind, Type
from sandbox.changes.status import Source
from sandbox.errors import PolicyError
from sandbox.images.chain import add_image
from sandbox.images.compose import NO_CHANGES, ConfigChanges, add_manifest
from sandbox.images.lookup import find_image
from sandbox.images.reference import parse_reference
from sandbox.images.tarread import Kind as Entry
from sandbox.images.tarwrite import LayerWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.api.changes import RunChanges
    from sandbox.changes.keep import Opened
    from sandbox.images.model import Image

_HIDDEN = ("proc", "sys", "dev")  # what a run has of its own there is of no image


def commit_run(run: RunChanges, name: str, *, changes: ConfigChanges = NO_CHANGES, owner: tuple[int, int] = (0, 0)) -> Image:
    """Make an image of a kept run, and name it.

    Args:
        run: that was on an image, with `keep`.
        name: what to call the new image.
        changes: to how it wants to be run.
        owner: user and group, as in the image, of everything that the run added or changed: with one id, nothing else is known.

    Raises:
        PolicyError: the run kept nothing of an image, or has more changes than are listed.
        ImageError: a layer cannot hold it.
    """
    reference = parse_reference(name)
    with run.open() as opened, open_images() as store:
        trees = opened.record.trees
        number = next((number for number, tree in enumerate(trees) if tree.image), -1)
        if number < 0:
            raise PolicyError(f"make an image of run `{run.short_id}`: it kept nothing of an image", hint="`sandbox exec --image NAME --keep -- COMMAND`")
        if not opened.record.complete:
            raise PolicyError(f"make an image of run `{run.short_id}`: it has more changes than are listed")
        base = find_image(trees[number].image, os.environ)
        with LayerWriter(store) as writer:
            _write_layer(opened, number, writer, owner)
            layer = writer.finish()
        digest = add_manifest(
            store, [layer], changes.apply(base.config), base.architecture, base=base, note=f"sandbox run {opened.record.run}"
        )  # fmt: skip
        return add_image(store, digest, (str(reference),), architecture=base.architecture)


def _write_layer(opened: Opened, number: int, writer: LayerWriter, owner: tuple[int, int]) -> None:
    source = Source(opened.layers(number)[0])
    gone: set[str] = set()
    written: set[str] = set()
    directories: set[str] = set()
    later: list[Change] = []
    for change in opened.changes():
        if change.tree != number or change.path.split("/")[0] in _HIDDEN:
            continue
        above = change.path.rpartition("/")[0]
        if change.kind is Kind.DELETED:
            if above not in gone:
                writer.add_whiteout(os.fsencode(change.path))
            gone.add(change.path)
            continue
        if change.kind is Kind.REPLACED and change.before is not None and change.before.type is Type.DIRECTORY:
            gone.add(change.path)  # what was below goes with the directory
        if change.link:
            later.append(change)
            continue
        _write_entry(source, change, writer, owner)
        written.add(change.path)
        directories.add(above)
    for change in later:
        if change.link in written:
            after = change.after
            assert after is not None
            writer.add(
                os.fsencode(change.path), Entry.LINK, mode=after.mode, mtime_ns=after.mtime_ns, uid=owner[0], gid=owner[1], target=os.fsencode(change.link),
            )  # fmt: skip
        else:
            _write_entry(source, change, writer, owner)


def _write_entry(source: Source, change: Change, writer: LayerWriter, owner: tuple[int, int]) -> None:
    after = change.after
    assert after is not None
    path, leaf = os.fsencode(change.path), change.path.rpartition("/")[2]
    match after.type:
        case Type.SYMLINK:
            writer.add(path, Entry.SYMLINK, mode=0o777, mtime_ns=after.mtime_ns, uid=owner[0], gid=owner[1], target=os.fsencode(after.target))
        case Type.FIFO:
            writer.add(path, Entry.FIFO, mode=after.mode, mtime_ns=after.mtime_ns, uid=owner[0], gid=owner[1])
        case Type.FILE | Type.DIRECTORY:
            parent = source.parent(change.path, after)
            try:
                fd = open_file(parent, leaf, force=True) if after.type is Type.FILE else open_directory(parent, leaf)
            finally:
                os.close(parent)
            try:
                xattrs = {name.encode(): value for name, value in xattrs_of(fd).items() if name.startswith("user.") and not name.startswith("user.overlay.")}
                kind = Entry.FILE if after.type is Type.FILE else Entry.DIRECTORY
                size = after.size if after.type is Type.FILE else 0
                writer.add(path, kind, mode=after.mode, mtime_ns=after.mtime_ns, uid=owner[0], gid=owner[1], size=size, xattrs=xattrs)
                if size:
                    writer.add_content(fd, size)
            finally:
                os.close(fd)
        case Type.SOCKET | Type.DEVICE:
            pass  # nobody would answer there


__all__ = ["commit_run"]
