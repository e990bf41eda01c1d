"""``sandbox image export``: an image as a directory or an archive."""

from __future__ import annotations

from sandbox.cli.image_text import HELP, ProgressLine, need, parse
from sandbox.cli.options import Option

OPTIONS = (
    Option(name="format", metavar="FORMAT", help="default: oci-archive for *.tar and -, else oci",
           values=("oci", "oci-archive", "docker-archive")),
    Option(name="force", short="f", help="replace a file that is there"),
    HELP,
)  # fmt: skip
_TEXT = """Write an image: `oci`, an OCI layout in a new directory; `oci-archive`, the same
as a tar archive; `docker-archive`, for `docker load`. TARGET may be - for
standard output."""


def run(words: list[str]) -> int:
    """Export an image."""
    parsed = parse(words, OPTIONS, "export", "[OPTION...] IMAGE TARGET", _TEXT)
    if parsed is None:
        return 0
    options, operands = parsed
    need(operands, 2, 2, "which image, and where to", "export")
    from sandbox.api import images

    name, target = operands
    form = options.get("format", ["oci-archive" if target == "-" or target.endswith(".tar") else "oci"])[0]
    with ProgressLine() as progress:
        images.export(name, target, format=form, force="force" in options, progress=progress)
    return 0
