"""What a path means in layers: the file that an overlay of them would show, found without mounting it.

Looks with lstat at one name after the other, in directories that were found so themselves; no link is followed by the kernel, so none of an image leads
to the host. Layers are the caller's own directories that nothing writes to meanwhile (`Overlay`). Only `rootfs` imports this module.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

OPAQUE = "user.overlay.opaque"


def locate(layers: Sequence[str], path: str) -> str | None:
    """Return the host path of what stands at a path, itself and not what it links to; None where there is nothing, or a layer above has removed it.

    Args:
        layers: directories in overlay form, topmost first.
        path: relative to them, normal; empty is the top itself.
    """
    at = list(layers)
    names = [name for name in path.split("/") if name]
    for number, name in enumerate(names, start=1):
        found: list[str] = []
        for directory in at:
            here = f"{directory}/{name}"
            try:
                status = os.lstat(here)
            except OSError:
                continue
            if not stat.S_ISDIR(status.st_mode):
                if found or is_whiteout(status):
                    break
                return here if number == len(names) else None
            found.append(here)
            if is_opaque(here):
                break
        if not found:
            return None
        at = found
    return at[0] if at else None


def is_whiteout(status: os.stat_result) -> bool:
    """Tell whether this is how a layer says that there is nothing. Source: Documentation/filesystems/overlayfs.rst."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(directory: str) -> bool:
    """Tell whether a directory hides those of the layers below instead of being seen with them."""
    try:
        return os.getxattr(directory, OPAQUE) == b"y"
    except OSError:
        return False


__all__ = ["OPAQUE", "is_opaque", "is_whiteout", "locate"]
