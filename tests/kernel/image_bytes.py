"""Images as bytes, for tests: layers, configs, manifests and layouts, of which every byte is the test's to choose."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OCI = {
    "manifest": "application/vnd.oci.image.manifest.v1+json",
    "index": "application/vnd.oci.image.index.v1+json",
    "config": "application/vnd.oci.image.config.v1+json",
    "layer": "application/vnd.oci.image.layer.v1.tar",
    "layer+gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "layer+zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}
DOCKER = {
    "manifest": "application/vnd.docker.distribution.manifest.v2+json",
    "index": "application/vnd.docker.distribution.manifest.list.v2+json",
    "config": "application/vnd.docker.container.image.v1+json",
    "layer+gzip": "application/vnd.docker.image.rootfs.diff.tar.gzip",
}
EPOCH = 1_700_000_000


def digest_of(content: bytes) -> str:
    """Return ``sha256:…`` of bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def dumps(value: object) -> bytes:
    """Return JSON without a space."""
    return json.dumps(value, separators=(",", ":")).encode()


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    """Return an entry's header; what is not named is what `tar` would write for a plain file of root's."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mtime = EPOCH
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o777 if kind == tarfile.SYMTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info


Entry = tarfile.TarInfo | tuple[tarfile.TarInfo, bytes] | tuple[str, bytes] | str


def tar_of(entries: Iterable[Entry], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return an archive: a name is a directory, a name with bytes a file, anything else as the header says."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for entry in entries:
            info, content = entry if isinstance(entry, tuple) else (entry, b"")
            if isinstance(info, str):
                info = member(info, tarfile.REGTYPE if isinstance(entry, tuple) else tarfile.DIRTYPE)
            if content:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def gzipped(content: bytes) -> bytes:
    """Return the same bytes for the same content."""
    return gzip.compress(content, 6, mtime=0)


@dataclass
class Built:
    """An image: its manifest and every blob that it names."""

    manifest: bytes
    media_type: str
    config: bytes
    layers: list[bytes]
    blobs: dict[str, bytes] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return digest_of(self.manifest)


def image_of(
    layers: Sequence[bytes],
    *,
    kind: Mapping[str, str] = OCI,
    compress: bool = True,
    config: Mapping[str, Any] | None = None,
    architecture: str = "amd64",
    annotations: Mapping[str, str] | None = None,
) -> Built:
    """Return an image of plain tar archives, bottom first.

    Args:
        layers: what `tar_of` returns.
        kind: `OCI` or `DOCKER`, the media types.
        compress: whether the blobs are gzip.
        config: the ``config`` object of the image's configuration: ``Env``, ``Cmd`` …
        architecture: as Go names it.
        annotations: of the manifest; makes two images of the same layers differ.
    """
    packed = [gzipped(layer) if compress else layer for layer in layers]
    settings = dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": dict(config or {}),
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
            "history": [{"created_by": "test"} for _ in layers],
        }
    )
    table: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": kind["manifest"],
        "config": {"mediaType": kind["config"], "size": len(settings), "digest": digest_of(settings)},
        "layers": [
            {"mediaType": kind["layer+gzip" if compress else "layer"], "size": len(blob), "digest": digest_of(blob)} for blob in packed
        ],
    }
    if annotations:
        table["annotations"] = dict(annotations)
    manifest = dumps(table)
    blobs = {digest_of(blob): blob for blob in (settings, *packed)}
    return Built(manifest, kind["manifest"], settings, packed, blobs)


def index_of(images: Mapping[str, Built], kind: Mapping[str, str] = OCI) -> bytes:
    """Return an index (a manifest list) of images by architecture."""
    return dumps(
        {
            "schemaVersion": 2,
            "mediaType": kind["index"],
            "manifests": [
                {
                    "mediaType": image.media_type,
                    "size": len(image.manifest),
                    "digest": image.digest,
                    "platform": {"architecture": architecture, "os": "linux"},
                }
                for architecture, image in images.items()
            ],
        }
    )


def write_layout(directory: Path, images: Mapping[str, Built]) -> Path:
    """Write an OCI layout with images by the name that each has in it; return the directory."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (directory / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}')
    entries = []
    for name, image in images.items():
        for digest, content in {image.digest: image.manifest, **image.blobs}.items():
            (blobs / digest.removeprefix("sha256:")).write_bytes(content)
        entries.append(
            {
                "mediaType": image.media_type,
                "size": len(image.manifest),
                "digest": image.digest,
                "annotations": {"org.opencontainers.image.ref.name": name},
            }
        )
    (directory / "index.json").write_bytes(dumps({"schemaVersion": 2, "manifests": entries}))
    return directory
