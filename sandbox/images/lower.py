"""The layers below one that is being unpacked, seen as overlay will show them: whiteouts, opaque directories, and what hides what."""

from __future__ import annotations

import os
import stat

from sandbox.images.facts import LayerFacts
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_MAXIMUM_CACHED = 1 << 14


@dataclass(slots=True, kw_only=True)
class Below:
    """One layer: a descriptor of its tree (borrowed) and its facts."""

    root: int
    facts: LayerFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What stands at a path of the merged tree: in which layer, and what it is."""

    layer: Below
    status: os.stat_result

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.status.st_mode)


class LowerView:
    """The merged tree of finished layers, topmost first.

    Every name of a path is looked up in the layers that really take part in its directory, so that no look-up passes a link.
    """

    def __init__(self, layers: Sequence[Below]) -> None:
        self._layers = list(layers)
        self._stacks: dict[bytes, list[Below]] = {}

    def look_up(self, path: bytes) -> Found | None:
        """Return what stands at a canonical path, or None for nothing; the top is a directory of the topmost layer."""
        if not path:
            return self._found(self._layers[0], b".") if self._layers else None
        directory, _, _ = path.rpartition(b"/")
        for layer in self._stack(directory):
            status = _status(layer, path)
            if status is None:
                continue
            return None if _is_whiteout(status) else Found(layer=layer, status=status)
        return None

    def list_root(self) -> set[bytes]:
        """Return every name in the roots of all layers, those of whiteouts included."""
        found: set[bytes] = set()
        for layer in self._layers:
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=layer.root)
            try:
                found.update(map(os.fsencode, os.listdir(fd)))
            finally:
                os.close(fd)
        return found

    def _found(self, layer: Below, path: bytes) -> Found | None:
        status = _status(layer, path)
        return Found(layer=layer, status=status) if status is not None else None

    def _stack(self, directory: bytes) -> list[Below]:
        """Return the layers that a directory is merged of."""
        if not directory:
            return self._layers
        known = self._stacks.get(directory)
        if known is not None:
            return known
        names = directory.split(b"/")
        stack = self._layers
        for depth in range(1, len(names) + 1):
            path = b"/".join(names[:depth])
            known = self._stacks.get(path)
            if known is None:
                if len(self._stacks) >= _MAXIMUM_CACHED:
                    self._stacks.clear()
                known = self._stacks[path] = _contributing(stack, path)
            stack = known
            if not stack:
                break
        return stack


def _contributing(stack: Sequence[Below], path: bytes) -> list[Below]:
    found = []
    for layer in stack:
        status = _status(layer, path)
        if status is None:
            continue
        if not stat.S_ISDIR(status.st_mode):
            break  # a whiteout or a file hides everything below, and is no directory
        found.append(layer)
        if path in layer.facts.opaque:
            break
    return found


def _status(layer: Below, path: bytes) -> os.stat_result | None:
    try:
        return os.stat(path, dir_fd=layer.root, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


__all__ = ["Below", "Found", "LowerView"]
