"""Brings an image's blobs into the store: what is there is not asked for again, the rest is copied by skopeo and put away as soon as it is whole.

So a pull that is killed at any byte has lost the layers that were on their way, and no other. Only `pull` imports this.
"""

from __future__ import annotations

import hashlib
import os
import stat

from sandbox.images import client as clients
from sandbox.images.bounds import ImageError
from sandbox.images.chain import chain_keys
from sandbox.images.client import Client
from sandbox.images.documents import parse_config
from sandbox.images.registry import Remote, address, digest_of
from sandbox.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.documents import Configuration
    from sandbox.images.store import Progress, Store

_SLACK_BYTES = 1 << 20
"""How long a file of the client's own may be: its caches, and documents as it writes them."""
_ROOM_BYTES = 64 << 20
"""What has to stay free on the disk."""
_TEMPORARY = "oci-put-blob"
"""How skopeo calls a blob that is on its way."""


class Transfer:
    """One image on its way into the store.

    Args:
        client: of `client.find_client`.
        remote: of `registry.find_remote`.
        store: open for writing.
        directory: an empty one in the store's `tmp`, for the client.
        what: the operation in words, for errors.
        progress: told how many layers and bytes there are.
    """

    def __init__(self, client: Client, remote: Remote, store: Store, directory: str, what: str, *, progress: Progress | None = None) -> None:
        self._client = client
        self._remote = remote
        self._store = store
        self._directory = directory
        self._what = what
        self._progress = progress
        self._arriving = os.path.join(directory, "blobs", "sha256")
        self._wanted = remote.layers
        self._whole: set[str] = set()

    def run(self) -> None:
        """Bring everything.

        Raises:
            ClientError: the registry or the way to it failed.
            ImageError: it sent something else than the manifest says, or there is no room for it.
        """
        os.makedirs(self._arriving, mode=0o700)
        content = self._ask_config()
        self._find_present(parse_config(content, f"{self._what}: configuration"))
        self._check_room()
        try:
            self._copy()
        finally:
            self._put_away()
        for digest in self._wanted:
            if digest not in self._whole:
                raise ImageError(f"{self._what}: layer `{digest}` did not arrive")
        self._store.add_bytes(content)
        self._store.add_bytes(self._remote.content)

    def _ask_config(self) -> bytes:
        config = self._remote.manifest.config
        words = ["inspect", "--raw", "--config", *self._client.options(), self._address()]
        content = clients.ask(self._client, words, what=self._what, directory=self._directory, limit_bytes=config.size_bytes)
        if len(content) != config.size_bytes or digest_of(content) != config.digest:
            raise ImageError(f"{self._what}: the registry sent a configuration that is not `{config.digest}`")
        return content

    def _find_present(self, config: Configuration) -> None:
        """Show the client the blobs that the store has; what is in no unpacked layer yet is read once more, for disks rot."""
        unpacked = set()
        for layer, key in zip(self._remote.manifest.layers, chain_keys(config.diff_ids), strict=False):
            if os.path.isdir(f"{self._store.path}/layers/{key}"):
                unpacked.add(layer.digest)
        for digest, layer in self._wanted.items():
            if not self._store.has_blob(digest):
                continue
            fd = self._store.open_blob(digest)
            try:
                if os.fstat(fd).st_size != layer.size_bytes or (digest not in unpacked and _hash(fd) != digest):
                    continue
            finally:
                os.close(fd)
            os.link(f"{self._store.path}/blobs/sha256/{digest[7:]}", os.path.join(self._arriving, digest[7:]))
            self._whole.add(digest)

    def _check_room(self) -> None:
        missing = sum(layer.size_bytes for digest, layer in self._wanted.items() if digest not in self._whole)
        room = os.statvfs(self._directory)
        free = room.f_bavail * room.f_frsize
        if missing + _ROOM_BYTES > free:
            raise ImageError(
                f"{self._what}: {format_size(missing)} are to come, {format_size(free)} are free",
                origin=self._store.path,
                hint="free some space, or set SANDBOX_DATA_DIR to a directory on another disk",
            )

    def _copy(self) -> None:
        """Copy by the manifest's digest, which makes the host's signature policy count, too, even where nothing is missing."""
        longest = max((layer.size_bytes for layer in self._wanted.values()), default=0)
        words = ["copy", "--quiet", "--dest-oci-accept-uncompressed-layers", "--dest-shared-blob-dir", os.path.join(self._directory, "blobs")]
        words += [*self._client.options("src-"), self._address(), f"oci:{self._directory}:pull"]
        clients.run(
            self._client, words, what=self._what, directory=self._directory, file_bytes=max(longest, _SLACK_BYTES), take=lambda piece: None, count=self._count
        )  # fmt: skip

    def _address(self) -> str:
        return address(self._remote.repository, self._remote.digest)

    def _count(self) -> int:
        """Put away what has arrived whole, and return how many bytes are there in all."""
        self._put_away()
        missing = [layer.size_bytes for digest, layer in self._wanted.items() if digest not in self._whole]
        have = self._remote.total_bytes - sum(missing)
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name.startswith(_TEMPORARY):
                    try:
                        size = entry.stat(follow_symlinks=False).st_size
                    except FileNotFoundError:
                        continue  # it has just become whole
                    if size > max(missing, default=0) and size > _SLACK_BYTES:
                        raise ImageError(f"{self._what}: the registry sends more than the manifest says")
                    have += size
        if self._progress is not None:
            total = self._remote.total_bytes
            self._progress(f"pull {len(self._whole)} of {len(self._wanted)} layers", min(have, total), total)
        return have

    def _put_away(self) -> None:
        """Put into the store what skopeo has renamed to its digest; what it makes of configuration and manifest may be another, and is left."""
        for digest, layer in self._wanted.items():
            if digest in self._whole:
                continue
            try:
                fd = os.open(os.path.join(self._arriving, digest[7:]), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode) or status.st_size != layer.size_bytes:
                    raise ImageError(f"{self._what}: layer `{digest}` has {status.st_size} bytes, the manifest says {layer.size_bytes}")
                if _hash(fd) != digest:
                    raise ImageError(f"{self._what}: the registry sent a layer that is not `{digest}`")
                os.fchmod(fd, 0o600)
                name = self._store.new_name()
                os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=self._store.tmp, follow_symlinks=True)
                self._store.adopt_blob(name, digest)
            finally:
                os.close(fd)
            self._whole.add(digest)


def _hash(fd: int) -> str:
    """Return the digest of a file; the descriptor is borrowed, its position moves."""
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, "rb", closefd=False) as content:
        return "sha256:" + hashlib.file_digest(content, "sha256").hexdigest()


__all__ = ["Transfer"]
