"""``sandbox image rm``: names from images, and images that have no other."""

from __future__ import annotations

import sys

from sandbox.cli.image_text import HELP, familiar, need, parse
from sandbox.cli.main import error_text
from sandbox.cli.options import Option
from sandbox.errors import SandboxError

OPTIONS = (Option(name="force", short="f", help="with all its names; no error where it is not there"), HELP)
_TEXT = """Take a name from an image, and the image itself when that was its last one.
An image that a run uses stays."""


def run(words: list[str]) -> int:
    """Remove images; one that refuses does not keep the others."""
    parsed = parse(words, OPTIONS, "rm", "[--force] IMAGE...", _TEXT)
    if parsed is None:
        return 0
    options, operands = parsed
    need(operands, 1, None, "which image", "rm")
    from sandbox.api import images
    from sandbox.images.lookup import MissingImage

    failed: list[SandboxError] = []
    for name in operands:
        try:
            done = images.remove(name, force="force" in options)
        except MissingImage as error:
            if "force" not in options:
                failed.append(error)
            continue
        except SandboxError as error:
            failed.append(error)
            continue
        for each in done.names:
            print(f"untagged {familiar(each)}")
        if done.digest:
            print(f"removed {done.digest}")
    for before in failed[:-1]:
        print(error_text(before), file=sys.stderr)
    if failed:
        raise failed[-1]
    return 0
