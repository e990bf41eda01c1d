"""``sandbox image unpack``: an image's layers in another form, or again."""

from __future__ import annotations

from sandbox.cli.image_text import BOUNDS, HELP, IDS, ProgressLine, need, parse, read_bounds
from sandbox.cli.options import UsageError

OPTIONS = (IDS, *BOUNDS, HELP)
_TEXT = """Unpack what of an image's layers is not unpacked in a form. `--ids range` keeps
the image's owners, as your subordinate ids, for runs of profiles with
`namespaces.ids = "range"`."""


def run(words: list[str]) -> int:
    """Unpack images."""
    parsed = parse(words, OPTIONS, "unpack", "[OPTION...] IMAGE...", _TEXT)
    if parsed is None:
        return 0
    options, operands = parsed
    need(operands, 1, None, "which image", "unpack")
    ids = options.get("ids", ["single"])[0]
    if ids not in ("single", "range"):
        raise UsageError(f"option `--ids`: unknown form `{ids}`; known: single, range")
    from sandbox.api import images

    with ProgressLine() as progress:
        for name in operands:
            images.unpack(name, ids=ids, bounds=read_bounds(options), progress=progress)
    return 0
