"""The store of images: blobs by digest, entries and names. What writes to it does so between `open_store` and its end, and may be killed at any moment.

Everything appears under its name by one rename out of ``tmp/``, whole; whoever opens the store alone empties ``tmp/`` first. Every writer holds ``lock`` shared
for all of its work, so that `collect`, which takes it exclusively, never sees a blob that an import has added and does not name yet. Names and entries change
under ``commit.lock``, for a moment.

    blobs/sha256/HEX      files by digest, checked when they came
    layers/KEY/tree       an unpacked layer (`unpacking`), with layer.json (`facts`); KEY.range: with ids of the caller's subordinate range
    manifests/HEX         entries of images (`entry`), by the digest of their manifest
    names/NAME            links whose text is such a HEX; a slash is written `+`
    pins/NAME             links like those of names, from what keeps an image although nothing runs (`pins`)
    uses/HEX              what runs lock shared while they use an image (`lookup.hold_image`)
"""

from __future__ import annotations

import fcntl
import hashlib
import os

from sandbox.errors import PolicyError, SandboxError, describe_errno
from sandbox.images.bounds import DEFAULT, Bounds, ImageError
from sandbox.images.entry import encode_image
from sandbox.images.lookup import MAXIMUM_ENTRY, list_images, read_image, read_names, store_path
from sandbox.images.reference import is_digest
from sandbox.images.treeops import DIRECTORY_FLAGS, make_new_directory, remove_at, sync_directory
from sandbox.store import open_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType
    from typing import TypeAlias

    from sandbox.images.model import Image

    Progress: TypeAlias = Callable[[str, int, int], None]
    """Told what is done, how many bytes of it are, and of how many in all (0: unknown)."""

_ROOMS = ("blobs", "blobs/sha256", "layers", "manifests", "names", "pins", "uses", "tmp")
_CHUNK = 1 << 20


class Store:
    """An open store. Not for several threads at once; several processes may have it open.

    Use as a context manager; `open_store` makes one. `map_ids` writes the maps of a process's user namespace, for layers with the image's ids (`ranged`).
    """

    def __init__(self, path: str, fd: int, lock: int, *, bounds: Bounds = DEFAULT) -> None:
        self.path = path
        self.fd = fd
        self.bounds = bounds
        self.map_ids: Callable[[int], None] | None = None
        self._lock = lock
        self.own_name = f"{os.getpid()}-{os.urandom(6).hex()}"
        self._tmp = -1
        self._made = 0

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def tmp(self) -> int:
        """This writer's own directory in ``tmp``, borrowed; made when it is first needed, so that a full disk does not keep anybody from removing."""
        if self._tmp < 0:
            rooms = self.room("tmp")
            try:
                self._tmp = make_new_directory(rooms, self.own_name)
            finally:
                os.close(rooms)
        return self._tmp

    def close(self) -> None:
        """Remove what was not finished, and let go of the lock."""
        if self.fd < 0:
            return
        try:
            if self._tmp >= 0:
                os.close(self._tmp)
                rooms = self.room("tmp")
                try:
                    remove_at(rooms, self.own_name.encode(), rooms)  # which needs no new directory, where there is no room for one
                finally:
                    os.close(rooms)
        except OSError:
            pass  # the next command tries again
        finally:
            os.close(self._lock)
            os.close(self.fd)
            self.fd = -1

    def room(self, name: str) -> int:
        """Return a new descriptor of one of the store's directories."""
        return os.open(name, DIRECTORY_FLAGS, dir_fd=self.fd)

    def new_name(self) -> str:
        """Return a name that is free in this writer's own directory `tmp`."""
        self._made += 1
        return str(self._made)

    # ---- blobs ----

    def has_blob(self, digest: str) -> bool:
        """Whether a blob is there; it was checked when it came."""
        try:
            os.stat(_blob(digest), dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def open_blob(self, digest: str) -> int:
        """Return a read-only descriptor of a blob, for the caller to close.

        Raises:
            ImageError: it is not there.
        """
        try:
            return os.open(_blob(digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        except FileNotFoundError:
            raise ImageError(f"blob `{digest}` is not in the store", hint="import or pull the image again") from None

    def read_blob(self, digest: str, what: str) -> bytes:
        """Return a small document whole, checked against its digest.

        Args:
            digest: whose.
            what: it is, for messages.

        Raises:
            ImageError: it is missing, damaged, or larger than documents may be.
        """
        fd = self.open_blob(digest)
        try:
            if os.fstat(fd).st_size > self.bounds.document_bytes:
                raise ImageError(f"{what} is larger than {self.bounds.document_bytes} bytes", hint="where you trust it, `--max-document-bytes`")
            content = os.read(fd, self.bounds.document_bytes)
        finally:
            os.close(fd)
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
            raise ImageError(f"{what}: blob `{digest}` is damaged", hint="`sandbox image verify --repair`")
        return content

    def add_blob(
        self, source: int, *, digest: str = "", size_bytes: int | None = None, what: str = "blob", progress: Progress | None = None
    ) -> tuple[str, int]:
        """Copy a file into the store, from its present position to its end.

        Args:
            source: any descriptor that can be read, a pipe too; borrowed.
            digest: what it must be; empty takes it as it is.
            size_bytes: how long it must be; None takes it as it is.
            what: it is, for messages and `progress`.
            progress: told of each part.

        Returns:
            its digest and its size. It is safe from `collect` until the store is closed, and after that only if an image names it.

        Raises:
            ImageError: digest or size is another, or it is longer than the bounds' `bytes`. Nothing of it is kept.
        """
        if digest and not is_digest(digest):
            raise ImageError(f"{what}: `{digest[:100]}` is no sha256 digest")
        limit = self.bounds.bytes if size_bytes is None else size_bytes
        name = self.new_name()
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.tmp)
        try:
            hashing, size = hashlib.sha256(), 0
            while chunk := os.read(source, _CHUNK):
                size += len(chunk)
                if size > limit:
                    raise ImageError(f"{what} is longer than {limit} bytes", hint="where you trust it, `--max-bytes`" if size_bytes is None else None)
                hashing.update(chunk)
                _write_all(fd, chunk)
                if progress is not None:
                    progress(what, size, size_bytes or 0)
            if size_bytes is not None and size != size_bytes:
                raise ImageError(f"{what} has {size} bytes, not {size_bytes}: it is cut off")
            found = f"sha256:{hashing.hexdigest()}"
            if digest and found != digest:
                raise ImageError(f"{what}: its digest is `{found}`, not `{digest}`: it is damaged, or forged")
            os.fsync(fd)
        except BaseException:
            os.unlink(name, dir_fd=self.tmp)
            raise
        finally:
            os.close(fd)
        os.rename(name, _blob(found), src_dir_fd=self.tmp, dst_dir_fd=self.fd)
        return found, size

    def add_bytes(self, content: bytes) -> str:
        """Add a small document; return its digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        name = self.new_name()
        self._write_file(name, content)
        os.rename(name, _blob(digest), src_dir_fd=self.tmp, dst_dir_fd=self.fd)
        return digest

    def adopt_blob(self, name: str, digest: str) -> None:
        """Make a blob of a finished file of `tmp`, whose digest the caller has computed while writing it."""
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.tmp)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(name, _blob(digest), src_dir_fd=self.tmp, dst_dir_fd=self.fd)

    def _write_file(self, name: str, content: bytes) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.tmp)
        try:
            _write_all(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)

    # ---- entries and names ----

    def images(self) -> list[Image]:
        """Return all images, those without a name last, else by name.

        Raises:
            PolicyError: an entry is damaged.
        """
        names = read_names(self.fd)
        found = [read_image(self.fd, self.path, digits, names) for digits in list_images(self.fd)]
        return sorted((each for each in found if each is not None), key=lambda image: (not image.names, image.names, image.digest))

    def commit(self, image: Image, names: Iterable[str] = ()) -> None:
        """Write an image's entry and give it names, which other images lose; all its blobs and layers must be there.

        Raises:
            ImageError: the entry would be larger than a run reads.
        """
        content = encode_image(image)
        if len(content) > MAXIMUM_ENTRY:
            raise ImageError(f"the image's configuration takes {len(content)} bytes, more than {MAXIMUM_ENTRY}")
        digits = image.digest[7:]
        for room in ("blobs/sha256", "layers"):
            fd = self.room(room)
            try:
                sync_directory(fd)
            finally:
                os.close(fd)
        with CommitLock(self):
            name = self.new_name()
            self._write_file(name, content)
            use = os.open(f"uses/{digits}", os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
            os.close(use)
            os.rename(name, f"manifests/{digits}", src_dir_fd=self.tmp, dst_dir_fd=self.fd)
            for each in names:
                self.set_name(each, digits)

    def set_name(self, name: str, digits: str) -> None:
        """Let a normalised name mean an image; the caller holds a `CommitLock`."""
        made = self.new_name()
        os.symlink(digits, made, dir_fd=self.tmp)
        os.rename(made, f"names/{name.replace('/', '+')}", src_dir_fd=self.tmp, dst_dir_fd=self.fd)

    def drop_name(self, name: str) -> None:
        """Let a normalised name mean nothing; the caller holds a `CommitLock`."""
        try:
            os.unlink(f"names/{name.replace('/', '+')}", dir_fd=self.fd)
        except FileNotFoundError:
            pass

    def lock_alone(self) -> bool:
        """Become the only one who has the store open, for `collect`; return whether that is so. The store can only be closed after that, either way."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class CommitLock:
    """Nobody else changes names and entries within; held for moments only."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._fd = -1

    def __enter__(self) -> None:
        self._fd = os.open("commit.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._store.fd)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._fd)


def open_store(environ: Mapping[str, str], *, bounds: Bounds = DEFAULT, origin: str | None = None) -> Store:
    """Open the caller's store for writing, made where it is missing, and remove what crashed writers left.

    Waits while another process collects garbage.

    Raises:
        PolicyError: there is no place for it, or it is not the caller's alone.
        SandboxError: it cannot be made or written.
    """
    path = store_path(environ, origin=origin)
    fd = open_directory(path)
    if fd is None:
        if os.path.lexists(path):
            raise PolicyError(f"image store `{path}`: it is no directory that only you can write to", origin=origin, hint=f"`chmod 700 {path}`")
        raise PolicyError(f"image store `{path}`: it cannot be made", origin=origin, hint="see SANDBOX_DATA_DIR in sandbox-image(1)")
    try:
        os.fchmod(fd, 0o700)  # set-id files of images are nobody's else
        for room in _ROOMS:
            try:
                os.mkdir(room, 0o700, dir_fd=fd)
            except FileExistsError:
                pass
        lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                _empty_tmp(fd)
            fcntl.flock(lock, fcntl.LOCK_SH)
            return Store(path, fd, lock, bounds=bounds)
        except BaseException:
            os.close(lock)
            raise
    except OSError as error:
        os.close(fd)
        raise SandboxError(f"image store `{path}`: {describe_errno(error.errno or 0)}", origin=origin) from None
    except BaseException:
        os.close(fd)
        raise


def _empty_tmp(store: int) -> None:
    """Remove what writers left who were killed; what does not go (files of other ids) waits for `collect`."""
    rooms = os.open("tmp", DIRECTORY_FLAGS, dir_fd=store)
    try:
        for each in os.listdir(rooms):
            try:
                remove_at(rooms, os.fsencode(each), rooms)
            except OSError:
                continue
    finally:
        os.close(rooms)


def _blob(digest: str) -> str:
    if not is_digest(digest):
        raise ImageError(f"`{digest[:100]}` is no sha256 digest")
    return f"blobs/sha256/{digest[7:]}"


def _write_all(fd: int, chunk: bytes) -> None:
    written = os.write(fd, chunk)
    while written < len(chunk):
        written += os.write(fd, chunk[written:])


__all__ = ["CommitLock", "Store", "open_store"]
