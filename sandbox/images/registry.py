"""What a reference stands for at a registry, checked before anything big is asked for; what follows is left to `transfer`.

skopeo (`images.client`) speaks with the registry; nothing that it brings is believed. The manifest is asked for as it stands and checked against its
digest, its form (`documents`) and the bounds of an import. What follows is by the manifest's digest, so that a tag that moves meanwhile changes nothing.
"""

from __future__ import annotations

import hashlib
import os

from sandbox.images import client as clients
from sandbox.images.bounds import DEFAULT, Bounds, ImageError
from sandbox.images.client import Client
from sandbox.images.documents import (
    DOCKER_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    Manifest,
    choose_platform,
    is_index,
    parse_json,
    parse_manifest_or_index,
)
from sandbox.images.reference import Reference, is_digest
from sandbox.record import dataclass

LAYER_BYTES = 1 << 40
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "i686": "386"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """What a reference stands for at a registry, checked for form: nothing of the layers has been asked for yet.

    `asked` is the digest that the reference led to: the manifest's, or that of the index that named it. `media_type` is the manifest's.
    """

    repository: str
    asked: str
    digest: str
    content: bytes
    media_type: str
    manifest: Manifest

    @property
    def layers(self) -> dict[str, Descriptor]:
        """Digest → layer, each once."""
        return {layer.digest: layer for layer in self.manifest.layers}

    @property
    def total_bytes(self) -> int:
        """The size of every layer, each counted once."""
        return sum(layer.size_bytes for layer in self.layers.values())


def host_architecture() -> str:
    """Return this machine's architecture in OCI's words, with its variant where it has one."""
    machine = os.uname().machine
    return _ARCHITECTURES.get(machine, machine)


def find_remote(client: Client, reference: Reference, directory: str, *, architecture: str = "", bounds: Bounds = DEFAULT) -> Remote:
    """Ask a registry what a reference stands for.

    Args:
        client: of `client.find_client`.
        reference: what is wanted; where it has a digest, the tag is only a remark.
        directory: for the client's own files.
        architecture: OCI's word, the machine's own where it is empty.
        bounds: of a manifest's length and of layers.

    Raises:
        ClientError: the registry could not or would not answer.
        ImageError: what it answered is no image that can be used here, or not what its digest says.
    """
    what = f"pull `{reference.familiar}`"
    content = _ask(client, reference.repository, reference.digest or reference.tag, what, directory, bounds)
    asked = digest = digest_of(content)
    if reference.digest and asked != reference.digest:
        raise ImageError(f"{what}: the registry sent a manifest with another digest, `{asked}`")
    found = parse_manifest_or_index(content, what)
    if isinstance(found, tuple):
        chosen = choose_platform(found, architecture or host_architecture(), what)
        if is_index(chosen.media_type):
            raise ImageError(f"{what}: an index in an index")
        content = _ask(client, reference.repository, chosen.digest, what, directory, bounds)
        digest = digest_of(content)
        if digest != chosen.digest or len(content) != chosen.size_bytes:
            raise ImageError(f"{what}: the registry sent another manifest for `{chosen.digest}`: {len(content)} bytes with the digest `{digest}`")
        found = parse_manifest_or_index(content, what)
        if isinstance(found, tuple):
            raise ImageError(f"{what}: an index in an index")
    _check(found, what, bounds)
    media_type = parse_json(content, what).get("mediaType")  # OCI does not demand it
    if media_type is None:
        media_type = _DOCKER_MANIFEST if found.config.media_type == DOCKER_CONFIG else OCI_MANIFEST
    return Remote(repository=reference.repository, asked=asked, digest=digest, content=content, media_type=media_type, manifest=found)


def digest_of(content: bytes) -> str:
    """Return ``sha256:…`` of bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def address(repository: str, which: str) -> str:
    """Return what skopeo calls an image; `which` is a tag or a digest."""
    return f"docker://{repository}{'@' if is_digest(which) else ':'}{which}"


def _ask(client: Client, repository: str, which: str, what: str, directory: str, bounds: Bounds) -> bytes:
    words = ["inspect", "--raw", *client.options(), address(repository, which)]
    return clients.ask(client, words, what=what, directory=directory, limit_bytes=bounds.document_bytes)


def _check(manifest: Manifest, what: str, bounds: Bounds) -> None:
    if len(manifest.layers) > bounds.layers:
        raise ImageError(f"{what}: {len(manifest.layers)} layers, the most are {bounds.layers}")
    if manifest.config.size_bytes > bounds.document_bytes:
        raise ImageError(f"{what}: its configuration says that it has {manifest.config.size_bytes} bytes, the most are {bounds.document_bytes}")
    for at, layer in enumerate(manifest.layers):
        if layer.size_bytes > LAYER_BYTES:
            raise ImageError(f"{what}: layer {at} says that it has {layer.size_bytes} bytes, the most are {LAYER_BYTES}")
        if ".foreign." in layer.media_type or ".nondistributable." in layer.media_type:
            raise ImageError(
                f"{what}: layer {at} is not at the registry; the manifest says where else it would be",
                hint="what a stranger's manifest names is not fetched; import the image from an archive that has the layer",
            )


__all__ = ["LAYER_BYTES", "Remote", "address", "digest_of", "find_remote", "host_architecture"]
