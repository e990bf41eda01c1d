"""``sandbox image prune``: what nothing needs."""

from __future__ import annotations

from sandbox.cli.columns import short_size
from sandbox.cli.image_text import HELP, JSON, need, note, parse, print_json
from sandbox.cli.options import Option

OPTIONS = (Option(name="all", short="a", help="every image that no run uses"), JSON, HELP)
_TEXT = """Take away images without a name, and blobs, layers and leftovers of crashed
imports that no image needs."""


def run(words: list[str]) -> int:
    """Prune the store."""
    parsed = parse(words, OPTIONS, "prune", "[--all]", _TEXT)
    if parsed is None:
        return 0
    options, operands = parsed
    need(operands, 0, 0, "", "prune")
    from sandbox.api import images

    done = images.prune(all="all" in options)
    if "json" in options:
        print_json({"images": list(done.images), "blobs": done.blobs, "layers": done.layers, "bytes": done.bytes, "complete": done.complete})
        return 0
    for digest in done.images:
        print(f"removed {digest}")
    print(f"{len(done.images)} images, {done.layers} layers, {done.blobs} blobs of {short_size(done.bytes)}")
    if not done.complete:
        note("another command has the store open, or a file could not be removed: what is left goes with the next `sandbox image prune`")
    return 0
