"""``sandbox image ls``: the images of the store, one line for each name."""

from __future__ import annotations

import os

from sandbox.cli.columns import Column, lay_out, short_size
from sandbox.cli.image_text import HELP, JSON, familiar, need, parse, print_json, to_dict
from sandbox.cli.options import Option

OPTIONS = (
    Option(name="quiet", short="q", help="ids only"),
    Option(name="no-header", help="no line of titles"),
    JSON,
    HELP,
)
_TEXT = "List the images of the store. SIZE is that of all files in the layers."
_COLUMNS = (
    Column(title="NAME"),
    Column(title="ID"),
    Column(title="ARCH", rank=3),
    Column(title="LAYERS", right=True, rank=2),
    Column(title="SIZE", right=True, rank=1),
)


def run(words: list[str]) -> int:
    """List the images."""
    parsed = parse(words, OPTIONS, "ls", "[OPTION...]", _TEXT)
    if parsed is None:
        return 0
    options, operands = parsed
    need(operands, 0, 0, "", "ls")
    from sandbox.api import images

    found = images.list()
    if "json" in options:
        print_json([to_dict(image) for image in found])
        return 0
    if "quiet" in options:
        for image in found:
            print(image.short_id)
        return 0
    rows = [
        (familiar(name) if name else "-", image.short_id, image.architecture or "-", str(len(image.details)), short_size(image.unpacked_bytes))
        for image in found
        for name in image.names or ("",)
    ]
    rows.sort(key=lambda row: row[0] == "-")
    width = os.get_terminal_size(1).columns if os.isatty(1) else None
    for line in lay_out(_COLUMNS, rows, width or None)["no-header" in options :]:
        print(line)
    return 0
