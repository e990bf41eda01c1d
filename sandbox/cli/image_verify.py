"""``sandbox image verify``: damage in the store."""

from __future__ import annotations

from sandbox.audit.events import escape_untrusted
from sandbox.cli.image_text import BOUNDS, HELP, JSON, ProgressLine, parse, print_json, read_bounds
from sandbox.cli.options import Option

OPTIONS = (
    Option(name="fast", help="blobs only, not unpacked layers"),
    Option(name="repair", help="unpack damaged layers again, drop damaged blobs"),
    *BOUNDS,
    JSON,
    HELP,
)
_TEXT = """Compare every blob with its digest, and every unpacked layer with its archive,
file by file. Without IMAGE: all images. Exit status: 0 without damage or when
all of it was mended, 1 with damage, 125 for errors."""


def run(words: list[str]) -> int:
    """Verify images."""
    parsed = parse(words, OPTIONS, "verify", "[OPTION...] [IMAGE...]", _TEXT)
    if parsed is None:
        return 0
    options, operands = parsed
    from sandbox.api import images

    with ProgressLine() as progress:
        found = images.verify(operands, fast="fast" in options, repair="repair" in options, bounds=read_bounds(options), progress=progress)
    if "json" in options:
        print_json([{"image": each.image, "where": each.where, "what": each.what, "mended": each.mended} for each in found])
    else:
        for each in found:
            where, what = escape_untrusted(each.where, 1000), escape_untrusted(each.what, 1000)
            print(f"{each.image[7:19]}  {where}: {what}{' (mended)' if each.mended else ''}")
    return 1 if any(not each.mended for each in found) else 0
