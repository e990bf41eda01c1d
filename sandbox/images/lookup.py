"""From a name to an image of the store: the part that a run needs. Opens no network, writes nothing, imports no parser.

The store's directory has ``names/``, links whose text is an image's hex digest, ``manifests/HEX``, one entry for each image (`entry`), ``uses/HEX``, the file
that a run locks while it uses an image, and ``layers/KEY/tree``. What else is in it is `store`'s affair.
"""

from __future__ import annotations

import os

from sandbox.errors import PolicyError
from sandbox.images.entry import decode_image
from sandbox.images.reference import MAXIMUM_LENGTH, Reference, is_id, parse_reference
from sandbox.store import data_path, open_directory, read_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.images.model import Image

MAXIMUM_ENTRY = 4 << 20
"""Bytes of one image's entry; `store` writes none that is longer."""


class MissingImage(PolicyError):
    """There is no image of that name in the store."""


_IMPORT = "`sandbox image ls` lists the images, `sandbox image import` and `sandbox image pull` bring one"


def find_image(reference: str, environ: Mapping[str, str], *, ids: str = "single", origin: str | None = None) -> Image:
    """Return an image of the store by its name, or by its digest or the beginning of it.

    Args:
        reference: ``debian:12``, ``localhost:5000/x@sha256:…``, ``sha256:…``, or four or more hexadecimal digits.
        environ: the caller's environment, for where the store is.
        ids: which form of the layers: ``single``, all files the caller's, or ``range``, the image's ids mapped to the caller's subordinate ones.
        origin: where the name was written, for messages.

    Raises:
        PolicyError: there is no such image, with the nearest name; or its layers are not unpacked in that form.
    """
    path = store_path(environ, origin=origin)
    fd = open_directory(path, make=False)
    if fd is None:
        if os.path.lexists(path):
            raise PolicyError(f"image store `{path}`: it is no directory that only you can write to", origin=origin)
        raise MissingImage(f"there is no image `{reference}`: the store `{path}` is empty", origin=origin, hint=_IMPORT)
    try:
        names = read_names(fd)
        digits = find_digest(fd, reference, names, origin=origin)
        image = read_image(fd, path, digits, names, suffix=".range" if ids == "range" else "")
    finally:
        os.close(fd)
    if image is None:
        raise _unknown(reference, names, origin)
    for layer in image.layers:
        if not os.path.isdir(layer):
            hint = f"`sandbox image unpack{' --ids range' if ids == 'range' else ''} {reference}` unpacks it from the store"
            raise PolicyError(f"image `{reference}`: layer `{layer}` is not there", origin=origin, hint=hint)
    return image


def hold_image(image: Image, environ: Mapping[str, str], *, origin: str | None = None) -> int:
    """Return a descriptor that keeps the image from being removed for as long as it is open; for a run, and for whoever keeps what a run changed.

    Raises:
        PolicyError: it has been removed since it was found.
    """
    path = store_path(environ, origin=origin)
    digits = image.digest[7:]
    try:
        fd = os.open(f"{path}/uses/{digits}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        raise PolicyError(f"image `{image.short_id}` has been removed", origin=origin) from None
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.stat(f"{path}/manifests/{digits}", follow_symlinks=False)  # whoever removes it locks first
        if not os.path.samestat(os.fstat(fd), os.stat(f"{path}/uses/{digits}", follow_symlinks=False)):
            raise FileNotFoundError  # removed and imported again in between: this lock keeps nobody from anything
    except OSError:
        os.close(fd)
        raise PolicyError(f"image `{image.short_id}` has been removed", origin=origin) from None
    return fd


def store_path(environ: Mapping[str, str], *, origin: str | None = None) -> str:
    """Return the store's directory, with every link of what lies above it resolved; it need not exist.

    Raises:
        PolicyError: the environment does not say where it would be.
    """
    path = data_path(environ, "images")
    if path is None:
        hint = "set HOME, XDG_DATA_HOME or SANDBOX_DATA_DIR"
        raise PolicyError("there is no place for images: HOME is no absolute path", origin=origin, hint=hint)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def read_names(store: int) -> dict[str, str]:
    """Return normalised name → hex digest of the manifest, for every name in a store; `store` is borrowed."""
    found = {}
    try:
        names = os.open("names", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=store)
    except OSError:
        return {}
    try:
        for file in os.listdir(names):
            try:
                digits = os.readlink(file, dir_fd=names)
            except OSError:
                continue  # moved to another image at this moment
            if len(digits) == 64 and len(file) <= MAXIMUM_LENGTH:
                found[file.replace("+", "/")] = digits
    finally:
        os.close(names)
    return found


def read_image(store: int, path: str, digits: str, names: Mapping[str, str], *, suffix: str = "") -> Image | None:
    """Return the image of a manifest's digest, or None where there is no such entry.

    Args:
        store: the store's directory; borrowed.
        path: its path, resolved.
        digits: 64 hexadecimal digits.
        names: of `read_names`.
        suffix: see `entry.decode_image`.

    Raises:
        PolicyError: the entry is damaged.
    """
    try:
        directory = os.open("manifests", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=store)
    except OSError:
        return None
    try:
        content = read_entry(directory, digits, MAXIMUM_ENTRY)
        if content is None:
            return None
    finally:
        os.close(directory)
    own = tuple(sorted(name for name, found in names.items() if found == digits))
    try:
        return decode_image(content, own, f"{path}/layers", suffix)
    except ValueError as error:
        hint = "remove the file and import the image again"
        raise PolicyError(f"entry of an image: {error}", origin=f"{path}/manifests/{digits}", hint=hint) from None


def find_digest(store: int, reference: str, names: Mapping[str, str], *, origin: str | None = None) -> str:
    """Return the hex digest of the one image that is meant.

    Args:
        store: the store's directory; borrowed.
        reference: as for `find_image`.
        names: of `read_names`.
        origin: where the name was written, for messages.

    Raises:
        PolicyError: there is none, or there are several.
    """
    found = _match(store, reference, names, origin)
    if len(found) > 1:
        shown = ", ".join(f"`{each[:12]}`" for each in found[:5])
        raise PolicyError(f"image `{reference}` may be any of {shown}", origin=origin, hint="write more digits")
    if not found:
        raise _unknown(reference, names, origin)
    return found[0]


def _match(store: int, reference: str, names: Mapping[str, str], origin: str | None) -> list[str]:
    """Return the hex digests of all images that may be meant."""
    by_id = is_id(reference)
    wanted: Reference | None = None
    if not reference.startswith("sha256:"):
        try:
            wanted = parse_reference(reference, origin=origin)
        except PolicyError:
            if not by_id:
                raise
    if wanted is not None:
        if str(wanted) in names:
            return [names[str(wanted)]]
        if wanted.digest:
            repository = wanted.repository
            own = {digits for name, digits in names.items() if name == repository or name.startswith((repository + ":", repository + "@"))}
            exact = f"{repository}@{wanted.digest}"
            return [names[exact]] if exact in names else [wanted.digest[7:]] if wanted.digest[7:] in own else []
    if not by_id:
        if reference.startswith("sha256:"):
            raise PolicyError(f"image `{reference[:300]}`: after `sha256:` there must be 4 to 64 lower-case hexadecimal digits", origin=origin)
        return []
    digits = reference.removeprefix("sha256:")
    return sorted(each for each in list_images(store) if each.startswith(digits))


def list_images(store: int) -> list[str]:
    """Return the hex digests of all entries in a store, sorted; `store` is borrowed."""
    try:
        directory = os.open("manifests", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=store)
    except OSError:
        return []
    try:
        return sorted(each for each in os.listdir(directory) if len(each) == 64)
    finally:
        os.close(directory)


def _unknown(reference: str, names: Mapping[str, str], origin: str | None) -> MissingImage:
    from sandbox.policy.nearest import suggest

    familiar = [parse_reference(name).familiar for name in names]
    return MissingImage(f"there is no image `{reference}` in the store", origin=origin, hint=suggest(reference, familiar) or _IMPORT)


__all__ = ["MAXIMUM_ENTRY", "MissingImage", "find_digest", "find_image", "hold_image", "list_images", "read_image", "read_names", "store_path"]
