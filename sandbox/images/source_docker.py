"""Images out of an archive of ``docker save`` as it was before Docker 25: ``manifest.json``, layers that are not packed, no digests but diff ids.

Newer archives are OCI layouts as well and are read as such. Source: moby image/spec; containers/image docs of `docker-archive`.
"""

from __future__ import annotations

import json
import os

from sandbox.errors import PolicyError
from sandbox.images.bounds import ImageError
from sandbox.images.documents import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, parse_config, parse_json
from sandbox.images.members import read_member
from sandbox.images.packing import Packing, packing_of
from sandbox.images.reference import parse_reference
from sandbox.images.source_oci import Offer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.images.members import Members
    from sandbox.images.store import Progress, Store

MANIFEST = "manifest.json"
_SUFFIX = {Packing.NONE: "", Packing.GZIP: "+gzip", Packing.ZSTD: "+zstd"}


def add_docker_archive(store: Store, members: Members, ref: str, progress: Progress | None) -> list[Offer]:
    """Copy the layers of an archive's images into the store and write a manifest for each.

    Args:
        store: open for writing.
        members: the archive's files.
        ref: which image, by one of its names; empty for all of them.
        progress: told of each layer.

    Raises:
        ImageError: the archive is damaged, or has no such image.
    """
    where = f"`{members.name}`, `{MANIFEST}`"
    found = parse_json(read_member(members, MANIFEST, store.bounds.document_bytes), f"`{members.name}`: `{MANIFEST}`")
    if not isinstance(found, list) or not found or len(found) > 1000:
        raise ImageError("there must be an array of images", origin=where)
    offers = []
    for at, each in enumerate(found):
        names = _texts(each, "RepoTags", f"{where}, [{at}]") if isinstance(each, dict) and each.get("RepoTags") else []
        if ref and ref not in names:
            continue
        offers.append(_add_one(store, members, each, names, f"{where}, [{at}]", progress))
    if not offers:
        raise ImageError(f"there is no image called `{ref}`", origin=where)
    return offers


def _add_one(store: Store, members: Members, entry: Any, names: list[str], where: str, progress: Progress | None) -> Offer:
    if not isinstance(entry, dict) or not isinstance(entry.get("Config"), str):
        raise ImageError("there must be an object with `Config` and `Layers`", origin=where)
    content = read_member(members, entry["Config"], store.bounds.document_bytes)
    config = parse_config(content, f"`{members.name}`: `{entry['Config'][:200]}`")
    paths = _texts(entry, "Layers", where)
    if len(paths) != len(config.diff_ids):
        raise ImageError(f"{len(paths)} layers, the configuration has {len(config.diff_ids)} `diff_ids`", origin=where)
    layers = []
    for path, diff_id in zip(paths, config.diff_ids, strict=True):
        fd = members.open(path)
        try:
            packing = packing_of(fd)
            if packing not in _SUFFIX:
                raise ImageError(f"layer `{path[:200]}` is packed with {packing}", origin=where)
            # What is not packed has the diff id for a digest, so that a forged layer is found before anything is unpacked.
            digest, size = store.add_blob(fd, digest=diff_id if packing is Packing.NONE else "", what=f"layer {path[:19]}", progress=progress)
        finally:
            os.close(fd)
        layers.append({"mediaType": OCI_LAYER + _SUFFIX[packing], "digest": digest, "size": size})
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": store.add_bytes(content), "size": len(content)},
        "layers": layers,
    }
    digest = store.add_bytes(json.dumps(manifest, separators=(",", ":")).encode())
    normalised = []
    for name in names:
        try:
            normalised.append(str(parse_reference(name)))
        except PolicyError as error:
            raise ImageError(error.message, origin=f"{where}, `RepoTags`") from None
    return Offer(digest=digest, called=names[0] if names else "", names=tuple(normalised))


def _texts(entry: dict[str, Any], key: str, where: str) -> list[str]:
    found = entry.get(key)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found) or len(found) > 1000:
        raise ImageError(f"`{key}` must be an array of texts", origin=where)
    return found


__all__ = ["MANIFEST", "add_docker_archive"]
