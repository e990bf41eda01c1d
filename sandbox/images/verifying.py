"""Whether the store still has what came into it: every blob against its digest, every unpacked layer against its archive, file by file."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat

from sandbox.images.bounds import Budget, ImageError
from sandbox.images.chain import Workshop, parse_image
from sandbox.images.facts import read_facts
from sandbox.images.lower import Below, LowerView
from sandbox.images.ranged import SUFFIX
from sandbox.images.treeops import DIRECTORY_FLAGS, PATH_FLAGS, open_directory_beneath
from sandbox.kernel.calls import RENAME_EXCHANGE, open_beneath, rename_with
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.images.model import Image, Layer
    from sandbox.images.store import Progress, Store

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_MAXIMUM_TOLD = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Something that is not as it came. `where` is a blob's digest or a file of a layer; `mended` says that it is as it was again."""

    image: str
    where: str
    what: str
    mended: bool = False


def verify_images(store: Store, images: Sequence[Image], *, fast: bool = False, repair: bool = False, progress: Progress | None = None) -> list[Damage]:
    """Look for damage.

    Args:
        store: open for writing.
        images: which.
        fast: blobs only; the trees are not compared.
        repair: unpack a damaged layer again, and take a damaged blob away, so that the next import or pull brings it again. A layer that a run uses now
            is left.
        progress: told of each part.
    """
    found: list[Damage] = []
    bad: set[str] = set()
    good: set[str] = set()
    for image in images:
        for digest in dict.fromkeys((image.digest, image.config_digest, *(layer.blob for layer in image.details))):
            if digest not in good and digest not in bad:
                (good if _check_blob(store, digest, image, found, repair, progress) else bad).add(digest)
        if image.digest in good and image.config_digest in good:
            _check_entry(store, image, found)
        if not fast:
            found += _Layers(store, image, bad, repair, progress).check()
    return found


def _check_blob(store: Store, digest: str, image: Image, found: list[Damage], repair: bool, progress: Progress | None) -> bool:
    try:
        fd = store.open_blob(digest)
    except ImageError:
        found.append(Damage(image=image.digest, where=digest, what="the blob is missing"))
        return False
    try:
        hashing, done, size = hashlib.sha256(), 0, os.fstat(fd).st_size
        while chunk := os.read(fd, 1 << 20):
            hashing.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(f"check blob {digest[7:19]}", done, size)
    except OSError as error:
        found.append(Damage(image=image.digest, where=digest, what=f"the blob cannot be read: {error.strerror}"))
        return False
    finally:
        os.close(fd)
    if f"sha256:{hashing.hexdigest()}" == digest:
        return True
    if repair:
        os.rename(f"blobs/sha256/{digest[7:]}", store.new_name(), src_dir_fd=store.fd, dst_dir_fd=store.tmp)
    gone = "; it was taken away: import or pull the image again" if repair else ""
    found.append(Damage(image=image.digest, where=digest, what=f"the blob's digest is sha256:{hashing.hexdigest()}{gone}"))
    return False


def _check_entry(store: Store, image: Image, found: list[Damage]) -> None:
    """Compare what a run is told of an image with what its documents say."""
    try:
        said = parse_image(store, image.digest)
    except ImageError as error:
        found.append(Damage(image=image.digest, where=image.digest, what=error.message))
        return
    told = (image.config, image.config_digest, image.architecture, image.details)
    if (said.config, said.config_digest, said.architecture, said.details) != told:
        found.append(Damage(image=image.digest, where=f"{store.path}/manifests/{image.digest[7:]}", what="the entry says something else than the manifest"))


class _Layers:
    """The layers of one image, bottom first, each above those that were found good or made anew."""

    def __init__(self, store: Store, image: Image, bad: set[str], repair: bool, progress: Progress | None) -> None:
        self._store = store
        self._image = image
        self._bad = bad
        self._repair = repair
        self._progress = progress
        self._below: list[Below] = []
        self._found: list[Damage] = []
        self._fds: list[int] = []

    def check(self) -> list[Damage]:
        rooms = self._store.room("layers")
        budget = Budget(self._store.bounds)
        try:
            for number, layer in enumerate(self._image.details, 1):
                if layer.blob in self._bad or not self._store.has_blob(layer.blob):
                    break  # said already; nothing to compare with
                if not self._check_layer(rooms, layer, f"layer {number} of {len(self._image.details)}", budget):
                    break
        finally:
            for fd in (*self._fds, rooms):
                os.close(fd)
        return self._found

    def _check_layer(self, rooms: int, layer: Layer, what: str, budget: Budget) -> bool:
        place = f"{self._store.path}/layers/{layer.key}"
        with Workshop(self._store) as fresh:
            try:
                fresh.unpack(layer, LowerView(self._below[::-1]), budget, what, progress=self._progress)
            except ImageError as error:
                self._tell(place, str(error).replace("\n", "; "))
                return False
            differences = self._compare(rooms, layer, fresh)
            if not differences:
                directory = os.open(layer.key, DIRECTORY_FLAGS, dir_fd=rooms)
                self._fds.append(directory)
                self._stack(directory, place)
                return True
            mended = self._repair and self._replace(rooms, layer, fresh)
            for path, difference in differences[:_MAXIMUM_TOLD]:
                self._tell(f"{place}/{path}", difference, mended=mended)
            if len(differences) > _MAXIMUM_TOLD:
                self._tell(place, f"{len(differences) - _MAXIMUM_TOLD} more", mended=mended)
            self._fds.append(os.dup(fresh.directory))
            self._stack(self._fds[-1], place)
            return True

    def _compare(self, rooms: int, layer: Layer, fresh: Workshop) -> list[tuple[str, str]]:
        try:
            directory = os.open(layer.key, DIRECTORY_FLAGS, dir_fd=rooms)
        except OSError:
            return [("", "the unpacked layer is missing")]
        try:
            found = []
            try:
                facts = read_facts(directory, layer.key)
                if facts != fresh.facts:
                    found.append(("layer.json", "it says something else than the archive"))
            except ImageError as error:
                found.append(("layer.json", error.message))
            try:
                tree = os.open("tree", PATH_FLAGS | os.O_DIRECTORY, dir_fd=directory)
            except OSError:
                return [*found, ("tree", "it is missing")]
            try:
                return found + [(f"tree/{os.fsdecode(path)}", what) for path, what in compare_trees(tree, fresh.tree)]
            finally:
                os.close(tree)
        finally:
            os.close(directory)

    def _replace(self, rooms: int, layer: Layer, fresh: Workshop) -> bool:
        """Put the fresh layer in the place of the damaged one, unless a run uses an image that has it."""
        locks = []
        try:
            for image in self._store.images():
                if any(each.key == layer.key for each in image.details):
                    use = os.open(f"uses/{image.digest[7:]}", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self._store.fd)
                    locks.append(use)
                    fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                rename_with(self._store.tmp, fresh.name, rooms, layer.key, RENAME_EXCHANGE)
            except FileNotFoundError:
                os.rename(fresh.name, layer.key, src_dir_fd=self._store.tmp, dst_dir_fd=rooms)
            try:
                os.rename(layer.key + SUFFIX, self._store.new_name(), src_dir_fd=rooms, dst_dir_fd=self._store.tmp)
            except FileNotFoundError:
                pass
            return True
        except BlockingIOError:
            return False
        finally:
            for lock in locks:
                os.close(lock)

    def _stack(self, directory: int, place: str) -> None:
        root = os.open("tree", PATH_FLAGS | os.O_DIRECTORY, dir_fd=directory)
        self._fds.append(root)
        self._below.append(Below(root=root, facts=read_facts(directory, place)))

    def _tell(self, where: str, what: str, *, mended: bool = False) -> None:
        self._found.append(Damage(image=self._image.digest, where=where, what=what, mended=mended))


def compare_trees(one: int, other: int) -> list[tuple[bytes, str]]:
    """Return (path, what is different) for two trees by their O_PATH descriptors (borrowed): types, modes, times, contents, targets, user xattrs."""
    found: list[tuple[bytes, str]] = []
    todo = [b""]
    while todo:
        path = todo.pop()
        first, second = (_names(root, path) for root in (one, other))
        if first is None or second is None:
            found.append((path, "its directory cannot be read"))
            continue
        found += [(_join(path, name), "it is missing") for name in sorted(second - first)]
        found += [(_join(path, name), "it is not in the archive") for name in sorted(first - second)]
        for name in [b"", *sorted(first & second)] if not path else sorted(first & second):
            at = _join(path, name) if name else b""
            if difference := _difference(one, other, at):
                found.append((at, difference))
            elif name and stat.S_ISDIR(_status(other, at).st_mode):
                todo.append(at)
    return found


def _difference(one: int, other: int, path: bytes) -> str:
    first, second = _status(one, path), _status(other, path)
    if stat.S_IFMT(first.st_mode) != stat.S_IFMT(second.st_mode):
        return "it is something else"
    if first.st_mode != second.st_mode:
        return f"its mode is {stat.S_IMODE(first.st_mode):04o}, not {stat.S_IMODE(second.st_mode):04o}"
    if stat.S_ISLNK(first.st_mode):
        return "" if os.readlink(path, dir_fd=one) == os.readlink(path, dir_fd=other) else "it leads elsewhere"
    if stat.S_ISREG(first.st_mode) and first.st_size != second.st_size:
        return f"it has {first.st_size} bytes, not {second.st_size}"
    if stat.S_ISREG(first.st_mode):
        if not _same_content(one, other, path):
            return "its content is different"
    if not stat.S_ISCHR(first.st_mode) and first.st_mtime_ns != second.st_mtime_ns:
        return "its time is different"
    if stat.S_ISREG(first.st_mode) or stat.S_ISDIR(first.st_mode):
        if _xattrs(one, path) != _xattrs(other, path):
            return "its extended attributes are different"
    return ""


def _same_content(one: int, other: int, path: bytes) -> bool:
    fds = []
    try:
        for root in (one, other):
            fds.append(open_beneath(root, os.fsdecode(path), _READ))
        while True:
            first, second = (os.read(fd, 1 << 20) for fd in fds)
            if first != second:
                return False
            if not first:
                return True
    except PermissionError:
        return True  # its own owner may not read it; size and time are compared
    finally:
        for fd in fds:
            os.close(fd)


def _names(root: int, path: bytes) -> set[bytes] | None:
    try:
        fd = open_beneath(root, os.fsdecode(path) or ".", DIRECTORY_FLAGS)
    except OSError:
        return None
    try:
        return set(map(os.fsencode, os.listdir(fd)))
    finally:
        os.close(fd)


def _status(root: int, path: bytes) -> os.stat_result:
    return os.stat(path or b".", dir_fd=root, follow_symlinks=False)


def _xattrs(root: int, path: bytes) -> dict[str, bytes] | None:
    above, _, name = path.rpartition(b"/")
    parent = open_directory_beneath(root, above)
    try:
        fd = os.open(name or b".", PATH_FLAGS, dir_fd=parent)
    finally:
        os.close(parent)
    try:
        place = f"/proc/self/fd/{fd}"
        return {key: os.getxattr(place, key) for key in os.listxattr(place) if key.startswith("user.")}
    except OSError:
        return None
    finally:
        os.close(fd)


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


__all__ = ["Damage", "compare_trees", "verify_images"]
