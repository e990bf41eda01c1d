"""How much a stranger's archive may cost: bounds with defaults that real images stay far below, and the budget that one import spends of them. Pure."""

from __future__ import annotations

import time

from sandbox.errors import SandboxError
from sandbox.record import dataclass, fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


class ImageError(SandboxError):
    """An image, an archive or the store is not as it must be; nothing of it was kept. `origin` says where: the file, the entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one import may take; each field is an option of ``sandbox image import``.

    `entries` counts files, directories and links of all layers together, and directories that they only imply. `bytes` is the size of all their files,
    holes included. `layers` is what overlay can stack. `ratio` is how much larger than its packed form an archive may be, beyond `ratio_free_bytes`.
    `depth` is how many names a path may have. `header_bytes` bounds what an archive says of one file, `document_bytes` a manifest, index or
    configuration. `seconds` is wall time.
    """

    entries: int = 2_000_000
    bytes: int = 32 << 30
    layers: int = 500
    ratio: int = 200
    ratio_free_bytes: int = 1 << 30
    depth: int = 512
    header_bytes: int = 1 << 20
    document_bytes: int = 4 << 20
    seconds: int = 3600


DEFAULT = Bounds()
MAXIMUM_PATH, MAXIMUM_NAME = 4095, 255
"""Bytes of a path and of a name that Linux takes, PATH_MAX and NAME_MAX."""

MAXIMUM_REMEMBERED = 128 << 20
"""Bytes of names and attributes that one import keeps in memory; a short name through a link stands for a path of `MAXIMUM_PATH`."""


class Budget:
    """What is left of the bounds; one for an import."""

    def __init__(self, bounds: Bounds = DEFAULT) -> None:
        self.bounds = bounds
        self.entries = 0
        self.bytes = 0
        self.remembered = 0
        self.deadline = time.monotonic() + bounds.seconds

    def entry(self, count: int = 1) -> None:
        """Account for files, directories or links.

        Raises:
            ImageError: there are too many.
        """
        self.entries += count
        if self.entries > self.bounds.entries:
            self.refuse("entries", f"more than {self.bounds.entries} files, directories and links")
        if not self.entries & 0x3FF:
            self.check_time()

    def content(self, count: int) -> None:
        """Account for bytes of a file, before they are written.

        Raises:
            ImageError: there are too many.
        """
        self.bytes += count
        if self.bytes > self.bounds.bytes:
            self.refuse("bytes", f"more than {self.bounds.bytes} bytes in its files")

    def remember(self, count: int) -> None:
        """Account for bytes of a name, or of what belongs to one, that stay in memory until the import ends.

        Raises:
            ImageError: there are too many.
        """
        self.remembered += count
        if self.remembered > MAXIMUM_REMEMBERED:
            self.refuse("", f"more than {MAXIMUM_REMEMBERED} bytes of names")

    def check_time(self) -> None:
        """Raise `ImageError` when the time is over."""
        if time.monotonic() > self.deadline:
            self.refuse("seconds", f"it takes longer than {self.bounds.seconds} s")

    def packed(self, taken: int, given: int) -> None:
        """Compare what was read of a packed archive with what came of it.

        Raises:
            ImageError: it grows as only a bomb does.
        """
        if given > self.bounds.ratio_free_bytes and given > self.bounds.ratio * max(taken, 1):
            self.refuse("ratio", f"it unpacks to more than {self.bounds.ratio} times its size")

    def refuse(self, field: str, what: str) -> NoReturn:
        """Raise the error of one bound."""
        option = f"`--max-{field.replace('_', '-')}`" if field not in ("", "layers") else ""
        hint = f"where you trust it, {option} raises the bound" if option else None
        raise ImageError(f"image is too large: {what}", hint=hint)


def names_of_bounds() -> tuple[str, ...]:
    """Return the fields that a user may change."""
    return tuple(field.name for field in fields(DEFAULT) if field.name not in ("layers", "ratio_free_bytes"))


def copy_error(error: ImageError, origin: str) -> ImageError:
    """Return the error with its place in front of what it already says of it."""
    return ImageError(error.message, origin=f"{origin}\n{error.origin}" if error.origin else origin, hint=error.hint)


__all__ = ["DEFAULT", "MAXIMUM_NAME", "MAXIMUM_PATH", "MAXIMUM_REMEMBERED", "Bounds", "Budget", "ImageError", "copy_error", "names_of_bounds"]
