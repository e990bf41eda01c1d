"""Taking images out of the store, and what only they needed: names, entries, then blobs and layers that no entry names.

An image that a run uses, or that kept changes stand on, is not taken. Garbage is only collected by who has the store alone; what is left because another
import is at work goes with the next removal.
"""

from __future__ import annotations

import fcntl
import os

from sandbox.errors import PolicyError, SandboxError
from sandbox.images.lookup import find_digest, read_names
from sandbox.images.ranged import SUFFIX, remove_ranged
from sandbox.images.reference import parse_reference
from sandbox.images.store import CommitLock
from sandbox.images.treeops import remove_at
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.model import Image
    from sandbox.images.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What went: names, the digest of the image if it went too."""

    names: tuple[str, ...]
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """How much garbage went. `complete` is false where another command has the store open, or something could not be removed."""

    blobs: int = 0
    layers: int = 0
    bytes: int = 0
    complete: bool = True


def remove_name(store: Store, reference: str, *, force: bool = False) -> Removed:
    """Take a name from an image, and the image itself when that was its last one; by a digest, the image with its only name.

    Args:
        store: open for writing.
        reference: as for `lookup.find_image`.
        force: by a digest, take all names.

    Raises:
        PolicyError: there is no such image; it has several names; it is in use.
    """
    with CommitLock(store):
        names = read_names(store.fd)
        digits = find_digest(store.fd, reference, names)
        own = sorted(name for name, found in names.items() if found == digits)
        by_name = _name_among(reference, own)
        if by_name is not None and len(own) > 1:
            store.drop_name(by_name)
            return Removed(names=(by_name,))
        if by_name is None and len(own) > 1 and not force:
            shown = ", ".join(f"`{parse_reference(name).familiar}`" for name in own[:5])
            raise PolicyError(f"image `{reference}` has {len(own)} names: {shown}", hint="remove them, or say `--force`")
        _drop_image(store, digits, own, reference)
        return Removed(names=tuple(own), digest=f"sha256:{digits}")


def prune_images(store: Store, *, every: bool = False) -> list[Removed]:
    """Take every image that has no name, or every one, but those in use; `store` is open for writing."""
    done = []
    for image in store.images():
        if image.names and not every:
            continue
        with CommitLock(store):
            try:
                _drop_image(store, image.digest[7:], list(image.names), image.short_id)
            except PolicyError:
                continue  # in use
        done.append(Removed(names=image.names, digest=image.digest))
    return done


def pinned_by(store: Store, digits: str) -> list[str]:
    """Return the names of what keeps an image although no program uses it now."""
    rooms = store.room("pins")
    try:
        return sorted(each for each in os.listdir(rooms) if os.readlink(each, dir_fd=rooms) == digits)
    finally:
        os.close(rooms)


def _drop_image(store: Store, digits: str, names: list[str], shown: str) -> None:
    """Take an entry away; the caller holds the commit lock. A crash leaves an image with fewer names, or garbage."""
    pins = pinned_by(store, digits)
    if pins:
        raise PolicyError(f"image `{shown}` is needed by {', '.join(f'`{each}`' for each in pins[:5])}", hint="`sandbox changes discard` lets it go")
    use = os.open(f"uses/{digits}", os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=store.fd)
    try:
        try:
            fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PolicyError(f"image `{shown}` is in use by a run", hint="`sandbox ps` lists the runs, `sandbox kill` ends one") from None
        for name in names:
            store.drop_name(name)
        for path in (f"manifests/{digits}", f"uses/{digits}"):
            try:
                os.unlink(path, dir_fd=store.fd)
            except FileNotFoundError:
                pass
    finally:
        os.close(use)


def _name_among(reference: str, own: list[str]) -> str | None:
    if reference.startswith("sha256:"):
        return None
    try:
        name = str(parse_reference(reference))
    except PolicyError:
        return None
    return name if name in own else None


def collect(store: Store) -> Collected:
    """Remove every blob and layer that no entry names. The store can only be closed after that.

    Raises:
        PolicyError: an entry is damaged; what it names is not known, so nothing is removed.
    """
    if not store.lock_alone():
        return Collected(complete=False)
    images = store.images()
    blobs = {digest[7:] for image in images for digest in _blobs_of(store, image)}
    keys = {layer.key for image in images for layer in image.details}
    count, size = _remove_blobs(store, blobs)
    layers, complete = _remove_layers(store, keys)
    return Collected(blobs=count, layers=layers, bytes=size, complete=complete)


def _blobs_of(store: Store, image: Image) -> set[str]:
    return {image.digest, image.config_digest, *(layer.blob for layer in image.details)}


def _remove_blobs(store: Store, kept: set[str]) -> tuple[int, int]:
    rooms = store.room("blobs/sha256")
    count = size = 0
    try:
        for name in os.listdir(rooms):
            if name not in kept:
                size += os.stat(name, dir_fd=rooms, follow_symlinks=False).st_size
                os.unlink(name, dir_fd=rooms)
                count += 1
    finally:
        os.close(rooms)
    return count, size


def _remove_layers(store: Store, kept: set[str]) -> tuple[int, bool]:
    """Remove layers, each by one rename to ``tmp`` first; and what else killed writers have left there."""
    rooms, tmp = store.room("layers"), store.room("tmp")
    count = 0
    try:
        for name in os.listdir(rooms):
            if name.removesuffix(SUFFIX) not in kept:
                os.rename(name, f"{store.own_name}-{store.new_name()}", src_dir_fd=rooms, dst_dir_fd=tmp)
                count += 1
        _set_copies_aside(store, tmp)
        for name in os.listdir(tmp):
            if name != store.own_name:
                try:
                    remove_at(tmp, os.fsencode(name), tmp)
                except OSError:
                    continue  # it has files of the caller's other ids
        stuck = [name for name in os.listdir(tmp) if name != store.own_name]
    finally:
        for fd in (rooms, tmp):
            os.close(fd)
    try:
        remove_ranged(store, stuck)
    except (SandboxError, OSError):
        return count, False
    return count, True


def _set_copies_aside(store: Store, tmp: int) -> None:
    """Move the merged copies of images that are gone (`flat`) to where they are removed."""
    try:
        copies = store.room("flat")
    except FileNotFoundError:
        return
    try:
        kept = {image.digest[7:] for image in store.images()}
        for name in os.listdir(copies):
            if len(name) == 64 and name not in kept:
                os.rename(name, f"{store.own_name}-{store.new_name()}", src_dir_fd=copies, dst_dir_fd=tmp)
    finally:
        os.close(copies)


__all__ = ["Collected", "Removed", "collect", "pinned_by", "prune_images", "remove_name"]
