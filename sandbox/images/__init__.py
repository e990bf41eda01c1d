"""The store of images. See docs/architecture.md for what lives on this floor and who may import it.

For programs it is a front door as well: `import_image`, `pull`, `list`, `show`, `remove`, `export`, `verify`, `unpack` and `prune` are those of
`sandbox.api.images`, looked up when they are first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.api.images import (
        Damage,
        Image,
        ImageConfig,
        ImageError,
        Pruned,
        Removed,
        export,
        import_image,
        list,
        prune,
        pull,
        remove,
        show,
        unpack,
        verify,
    )

_NAMES = frozenset(
    {
        "Damage", "Image", "ImageConfig", "ImageError", "Pruned", "Removed", "export", "import_image", "list", "prune", "pull", "remove", "show", "unpack",
        "verify",
    }
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        from importlib import import_module

        return getattr(import_module("sandbox.api.images"), name)
    raise AttributeError(f"module `sandbox.images` has no attribute `{name}`")


__all__ = [
    "Damage", "Image", "ImageConfig", "ImageError", "Pruned", "Removed", "export", "import_image", "list", "prune", "pull", "remove", "show", "unpack",
    "verify",
]  # fmt: skip
