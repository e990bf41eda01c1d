"""Images out of an OCI layout: a directory, or an archive of one, with ``oci-layout``, ``index.json`` and blobs by digest.

Source: OCI image specification 1.1, image-layout.md; what skopeo, umoci and docker write there.
"""

from __future__ import annotations

import os

from sandbox.errors import PolicyError
from sandbox.images.bounds import ImageError
from sandbox.images.chain import choose_manifest, needed_blobs
from sandbox.images.documents import Descriptor, choose_platform, is_index, parse_index, parse_json
from sandbox.images.members import read_member
from sandbox.images.reference import parse_reference
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.members import Members
    from sandbox.images.store import Progress, Store

LAYOUT = "oci-layout"
REF_NAME, CONTAINERD_NAME = "org.opencontainers.image.ref.name", "io.containerd.image.name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """An image that a source has: the digest to give to `add_image`, how the source calls it, and the normalised names that follow from that."""

    digest: str
    called: str
    names: tuple[str, ...]


def add_layout(store: Store, members: Members, architecture: str, ref: str, progress: Progress | None) -> list[Offer]:
    """Copy the blobs of a layout's images into the store.

    Args:
        store: open for writing.
        members: the layout's files.
        architecture: which image of several.
        ref: which image, as the layout calls it; empty for all of them.
        progress: told of each blob.

    Raises:
        ImageError: the layout is damaged, or has no such image.
    """
    limit = store.bounds.document_bytes
    where = f"`{members.name}`"
    version = parse_json(read_member(members, LAYOUT, limit), f"{where}: `{LAYOUT}`")
    if not isinstance(version, dict) or version.get("imageLayoutVersion") != "1.0.0":
        raise ImageError(f"`{LAYOUT}` is not of version 1.0.0", origin=where)
    entries = parse_index(read_member(members, "index.json", limit), f"{where}: `index.json`")
    groups: dict[str, list[Descriptor]] = {}
    for entry in entries:
        groups.setdefault(entry.annotation(REF_NAME), []).append(entry)
    if ref:
        if ref not in groups:
            have = ", ".join(f"`{each}`" for each in groups if each) or "none with a name"
            raise ImageError(f"there is no image called `{ref}`", origin=where, hint=f"it has {have}")
        groups = {ref: groups[ref]}
    if not groups:
        raise ImageError("there is no image in it", origin=where)
    offers: dict[str, Offer] = {}
    for called, group in groups.items():
        entry = group[0] if len(group) == 1 else choose_platform(tuple(group), architecture, f"{where}: image `{called}`")
        names = [name for each in group if each.digest == entry.digest for name in _names(each, called)]
        known = offers.get(entry.digest)
        if known is None:
            _copy_blobs(store, members, entry, architecture, progress)
        else:  # an index has an entry for each name
            called, names = known.called, [*known.names, *names]
        offers[entry.digest] = Offer(digest=entry.digest, called=called, names=tuple(dict.fromkeys(names)))
    return list(offers.values())


def _copy_blobs(store: Store, members: Members, entry: Descriptor, architecture: str, progress: Progress | None) -> None:
    """Copy an image's documents, from the top down, then what they name."""
    todo = [entry]
    while todo:
        each = todo.pop()
        _copy(store, members, each, progress)
        if is_index(each.media_type) and len(todo) < 4:
            what = f"index `{each.digest}`"
            todo.append(choose_platform(parse_index(store.read_blob(each.digest, what), what), architecture, what))
    choose_manifest(store, entry.digest, architecture)
    for each in needed_blobs(store, entry.digest, architecture):
        _copy(store, members, each, progress)


def _copy(store: Store, members: Members, blob: Descriptor, progress: Progress | None) -> None:
    if store.has_blob(blob.digest):
        return
    fd = members.open(f"blobs/sha256/{blob.digest[7:]}")
    try:
        store.add_blob(fd, digest=blob.digest, size_bytes=blob.size_bytes, what=f"blob {blob.digest[7:19]}", progress=progress)
    except ImageError as error:
        raise ImageError(error.message, origin=f"`{members.name}`, `blobs/sha256/{blob.digest[7:]}`", hint=error.hint) from None
    finally:
        os.close(fd)


def _names(entry: Descriptor, called: str) -> tuple[str, ...]:
    """Return normalised names out of annotations. A mere tag, which the specification wants there, is no name of an image."""
    for text in (entry.annotation(CONTAINERD_NAME), called if "/" in called or ":" in called else ""):
        if text:
            try:
                return (str(parse_reference(text)),)
            except PolicyError:
                continue
    return ()


__all__ = ["CONTAINERD_NAME", "LAYOUT", "REF_NAME", "Offer", "add_layout"]
