"""An image out of the store again, as it came in: an OCI layout, in a directory or an archive, or an archive for ``docker load``.

What is written appears under its name when it is whole. Every blob is checked on its way out.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat

from sandbox.enums import StrEnum
from sandbox.errors import PolicyError, describe_errno
from sandbox.images.bounds import ImageError
from sandbox.images.documents import OCI_INDEX, OCI_MANIFEST
from sandbox.images.reference import parse_reference
from sandbox.images.source_docker import MANIFEST
from sandbox.images.source_oci import CONTAINERD_NAME, LAYOUT, REF_NAME
from sandbox.images.tarread import BLOCK, Kind
from sandbox.images.tarwrite import make_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from sandbox.images.model import Image
    from sandbox.images.store import Progress, Store

    class Output(Protocol):
        """Where files go."""

        def add(self, path: str, source: int | bytes, size: int) -> None:
            """Add a file of bytes, or of a descriptor's, which is borrowed."""

        def finish(self) -> None:
            """Let it appear."""

        def discard(self) -> None:
            """Leave nothing of it; after `finish` nothing happens."""


class ExportFormat(StrEnum):
    """What is written."""

    OCI = "oci"
    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"


def export_image(store: Store, image: Image, path: str, form: ExportFormat, *, force: bool = False, progress: Progress | None = None) -> None:
    """Write an image.

    Args:
        store: open.
        image: which.
        path: a new directory for `ExportFormat.OCI`, else a new file, or ``-`` for standard output.
        form: how.
        force: replace a file that is there; a directory never is.
        progress: told of each blob.

    Raises:
        PolicyError: something is there already.
        ImageError: a blob is missing or damaged; nothing appears under `path`.
        OSError: it cannot be written.
    """
    out: Output
    if form is ExportFormat.OCI:
        out = _Directory(path)
    else:
        out = _Archive(path, force)
    try:
        if form is not ExportFormat.DOCKER_ARCHIVE:
            out.add(LAYOUT, b'{"imageLayoutVersion": "1.0.0"}', 0)
            index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": _descriptors(store, image)}
            out.add("index.json", json.dumps(index).encode(), 0)
        for digest in dict.fromkeys((image.digest, image.config_digest, *(layer.blob for layer in image.details))):
            if form is not ExportFormat.DOCKER_ARCHIVE or digest != image.digest:
                _copy(store, digest, out, f"blobs/sha256/{digest[7:]}", progress)
        if form is ExportFormat.DOCKER_ARCHIVE:
            entry = {
                "Config": f"blobs/sha256/{image.config_digest[7:]}",
                "RepoTags": [name for name in image.names if "@" not in name],
                "Layers": [f"blobs/sha256/{layer.blob[7:]}" for layer in image.details],
            }
            out.add(MANIFEST, json.dumps([entry]).encode(), 0)
        out.finish()
    finally:
        out.discard()


def _descriptors(store: Store, image: Image) -> list[dict[str, Any]]:
    """Return the index's entries: one for each name, as buildkit writes them, or one without."""
    fd = store.open_blob(image.digest)
    try:
        size = os.fstat(fd).st_size
    finally:
        os.close(fd)
    platform = {"architecture": image.architecture, "os": image.os} | ({"variant": image.variant} if image.variant else {})
    media_type = json.loads(store.read_blob(image.digest, "manifest")).get("mediaType", OCI_MANIFEST)
    plain = {"mediaType": media_type, "digest": image.digest, "size": size} | ({"platform": platform} if image.architecture else {})
    found: list[dict[str, Any]] = []
    for name in image.names:
        tag = parse_reference(name).tag
        if tag:
            found.append(plain | {"annotations": {CONTAINERD_NAME: name, REF_NAME: tag}})
    return found or [plain]


def _copy(store: Store, digest: str, out: Output, path: str, progress: Progress | None) -> None:
    fd = store.open_blob(digest)
    try:
        hashing, done, size = hashlib.sha256(), 0, os.fstat(fd).st_size
        while chunk := os.read(fd, 1 << 20):
            hashing.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(f"check blob {digest[7:19]}", done, size)
        if f"sha256:{hashing.hexdigest()}" != digest:
            raise ImageError(f"blob `{digest}` is damaged", hint="`sandbox image verify --repair`")
        os.lseek(fd, 0, os.SEEK_SET)
        out.add(path, fd, size)
    finally:
        os.close(fd)


class _Directory:
    """A layout in a directory, made beside its final name."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._made = f"{self._path}.{os.getpid()}-{os.urandom(4).hex()}.part"
        if os.path.lexists(self._path):
            raise PolicyError(f"`{path}` is there already", hint="export to a directory that does not exist")
        os.makedirs(f"{self._made}/blobs/sha256", mode=0o755)
        self._done = False

    def add(self, path: str, source: int | bytes, size: int) -> None:
        with open(f"{self._made}/{path}", "xb") as file:
            if isinstance(source, bytes):
                file.write(source)
            else:
                _send(source, file.fileno(), size)

    def finish(self) -> None:
        os.rename(self._made, self._path)
        self._done = True

    def discard(self) -> None:
        if not self._done:
            import shutil

            shutil.rmtree(self._made, ignore_errors=True)


class _Archive:
    """A tar archive: a file made beside its final name, or standard output."""

    def __init__(self, path: str, force: bool) -> None:
        self._path = os.path.abspath(path)
        self._made = ""
        self._directories: set[str] = set()
        if path == "-":
            if os.isatty(1):
                raise PolicyError("an archive on a terminal", hint="redirect standard output, or name a file")
            self._fd = os.dup(1)
            return
        if os.path.lexists(self._path):
            if not force or not stat.S_ISREG(os.lstat(self._path).st_mode):
                raise PolicyError(f"`{path}` is there already", hint="`--force` replaces a file")
        self._made = f"{self._path}.{os.getpid()}-{os.urandom(4).hex()}.part"
        try:
            self._fd = os.open(self._made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ImageError(f"write `{path}`: {describe_errno(error.errno or 0)}") from None

    def add(self, path: str, source: int | bytes, size: int) -> None:
        length = len(source) if isinstance(source, bytes) else size
        for at, letter in enumerate(path):
            if letter == "/" and path[:at] not in self._directories:
                # An ordinary user's skopeo fails to give directories that it has to imply to root.
                self._directories.add(path[:at])
                self._write(make_header(path[:at].encode(), Kind.DIRECTORY, mode=0o755, mtime_ns=0))
        self._write(make_header(path.encode(), Kind.FILE, mode=0o644, mtime_ns=0, size=length))
        if isinstance(source, bytes):
            self._write(source)
        else:
            _send(source, self._fd, size)
        self._write(bytes(-length % BLOCK))

    def finish(self) -> None:
        self._write(bytes(2 * BLOCK))
        if self._made:
            os.rename(self._made, self._path)
            self._made = ""

    def discard(self) -> None:
        os.close(self._fd)
        if self._made:
            os.unlink(self._made)

    def _write(self, chunk: bytes) -> None:
        while chunk:
            chunk = chunk[os.write(self._fd, chunk) :]


def _send(source: int, target: int, size: int) -> None:
    left = size
    while left:
        chunk = os.read(source, min(left, 1 << 20))
        if not chunk:
            raise ImageError("a blob became shorter while it was read")
        left -= len(chunk)
        while chunk:
            chunk = chunk[os.write(target, chunk) :]


__all__ = ["ExportFormat", "export_image"]
