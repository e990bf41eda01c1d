"""An image as one tree, for hosts whose kernel refuses overlayfs: its layers merged once, with hard links to their files, for read-only use.

It lies in the store as ``flat/HEX``, HEX being the image's digest, and appears there whole by a rename; what a crash leaves has a name that begins with a dot
and is removed by the next who makes one, as are the copies of images that are gone. Imported by `api` where an overlay was refused.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat

from sandbox.errors import SetupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandbox.images.model import Image

OPAQUE = "user.overlay.opaque"
OURS = "/.sandbox"
"""Where the files of /etc that are the run's own lie inside; the tree has links there."""

_OWN = ("hosts", "hostname", "resolv.conf")


def flat_copy(image: Image, store: str, databases: Sequence[str] = ()) -> str:
    """Return an image's tree, made if it is not there yet.

    Args:
        image: as it was found, with all its layers.
        store: the store's directory.
        databases: names below /etc that a run has of its own besides the usual ones.

    Raises:
        SetupError: it cannot be made.
    """
    top, name = os.path.join(store, "flat"), image.digest[7:]
    path = os.path.join(top, name)
    if os.path.isdir(path):
        return path
    import fcntl

    try:
        os.makedirs(top, mode=0o700, exist_ok=True)
        lock = os.open(os.path.join(top, ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.isdir(path):
                return path
            _remove_leftovers(top, store)
            made = os.path.join(top, f".{name}.{os.urandom(4).hex()}")
            merge_layers(image.layers, made)
            _make_places(made, (*_OWN, *databases))
            os.rename(made, path)
        finally:
            os.close(lock)
    except OSError as error:
        shown = error.filename if isinstance(error.filename, str) else path
        step = "overlayfs is refused, so its layers are merged"
        raise SetupError(f"copy image `{image.short_id}` to `{shown}`", error.errno or errno.EIO, step=step) from None
    return path


def merge_layers(layers: Sequence[str], target: str) -> None:
    """Merge layers into a new directory as overlayfs would show them; what is neither file, link nor directory is left out.

    Args:
        layers: topmost first.
        target: to be made, on the file system of the layers if its files are to be links.
    """
    os.mkdir(target, 0o700)
    pending = [(list(layers), target)]
    modes: list[tuple[str, int]] = []
    while pending:
        sources, place = pending.pop()
        modes.append((place, stat.S_IMODE(os.lstat(sources[0]).st_mode) & 0o1777))
        for name, found in _merged_names(sources):
            there = f"{place}/{name}"
            mode = os.lstat(found[0]).st_mode
            if stat.S_ISDIR(mode):
                os.mkdir(there, 0o700)
                pending.append((found, there))
            elif stat.S_ISLNK(mode):
                os.symlink(os.readlink(found[0]), there)
            elif stat.S_ISREG(mode):
                _place_file(found[0], there)
    for place, mode in reversed(modes):
        os.chmod(place, mode | 0o500)


def _merged_names(sources: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each name of directories that are one, with the paths that it has: one for a file, all that are seen together for a directory."""
    seen: dict[str, list[str]] = {}
    ended: set[str] = set()
    for directory in sources:
        for name in sorted(os.listdir(directory)):
            if name in ended:
                continue
            here = f"{directory}/{name}"
            status = os.lstat(here)
            if not stat.S_ISDIR(status.st_mode):
                ended.add(name)
                if name not in seen and not (stat.S_ISCHR(status.st_mode) and status.st_rdev == 0):
                    seen[name] = [here]
                continue
            seen.setdefault(name, []).append(here)
            if _is_opaque(here):
                ended.add(name)
    yield from seen.items()


def _is_opaque(directory: str) -> bool:
    try:
        return os.getxattr(directory, OPAQUE) == b"y"
    except OSError:
        return False


def _place_file(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP):
            raise
        shutil.copy2(source, target, follow_symlinks=False)


def _make_places(top: str, names: Sequence[str]) -> None:
    """Make what something is mounted on, and links to the files that are the run's, in the place of whatever the image has there."""
    etc, scratch = f"{top}/etc", f"{top}/var/tmp"
    for path in (etc, f"{top}/var", scratch):
        if os.path.islink(path) or not os.path.isdir(path):
            if os.path.lexists(path):
                os.unlink(path)
            os.mkdir(path, 0o755)
    before = stat.S_IMODE(os.lstat(etc).st_mode)
    os.chmod(etc, 0o700)
    for name in names:
        path = f"{etc}/{name}"
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
        os.symlink(f"{OURS}/{name}", path)
    os.chmod(etc, before)


def _remove_leftovers(top: str, store: str) -> None:
    for name in os.listdir(top):
        if name != ".lock" and (name.startswith(".") or not os.path.lexists(f"{store}/manifests/{name}")):
            _remove_tree(f"{top}/{name}")


def _remove_tree(path: str) -> None:
    """Remove a tree of ours whose directories may be read-only."""
    for directory, _, _ in os.walk(path):
        os.chmod(directory, 0o700)
    shutil.rmtree(path)


__all__ = ["OURS", "flat_copy", "merge_layers"]
