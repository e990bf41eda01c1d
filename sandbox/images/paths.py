"""Names as archives write them: which are paths below a root, and which mean that something below is gone. Pure."""

from __future__ import annotations

from sandbox.images.bounds import MAXIMUM_NAME, MAXIMUM_PATH, ImageError

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_META = b".wh..wh."


def split_path(name: bytes, depth: int) -> tuple[bytes, ...]:
    """Return the parts of an archive's path; the root itself has none. A slash in front means the root, as it does to every tool that unpacks images.

    Args:
        name: as the archive has it.
        depth: how many parts it may have.

    Raises:
        ImageError: it leads out (`..`), or is no path that Linux takes.
    """
    if b"\0" in name:
        raise ImageError("a NUL in a path")
    if len(name) > MAXIMUM_PATH:
        raise ImageError(f"a path longer than {MAXIMUM_PATH} bytes")
    parts = tuple([part for part in name.split(b"/") if part and part != b"."])
    if len(parts) > depth:
        raise ImageError(f"a path of more than {depth} names")
    for part in parts:
        if part == b"..":
            raise ImageError("a path with `..`")
        if len(part) > MAXIMUM_NAME:
            raise ImageError(f"a name longer than {MAXIMUM_NAME} bytes")
    return parts


def hides(parts: tuple[bytes, ...]) -> tuple[str, tuple[bytes, ...]] | None:
    """Tell what a path of a layer hides.

    Returns:
        None for an ordinary path, else ``gone`` and the path that is, ``opaque`` and the directory that is, or ``ignored`` for AUFS's own files.

    Raises:
        ImageError: it is a whiteout of nothing, of the directory itself or of its parent; or lies in a directory that is called like a whiteout.

    Source: OCI image specification, layer.md, Whiteouts.
    """
    if WHITEOUT not in parts[-1] and not any(part.startswith(WHITEOUT) for part in parts):
        return None
    if any(part.startswith(_META) and part != OPAQUE for part in parts):
        return "ignored", ()
    if any(part.startswith(WHITEOUT) for part in parts[:-1]):
        raise ImageError("a directory called like a whiteout")
    last = parts[-1]
    if not last.startswith(WHITEOUT):
        return None
    if last == OPAQUE:
        return "opaque", parts[:-1]
    gone = last[len(WHITEOUT) :]
    if gone in (b"", b".", b".."):
        raise ImageError(f"a whiteout of `{gone.decode()}`")
    return "gone", (*parts[:-1], gone)


__all__ = ["OPAQUE", "WHITEOUT", "hides", "split_path"]
