"""``sandbox image COMMAND``: the store of images. Each command is the module ``image_COMMAND`` beside this one, imported when it is called.

Such a module has `OPTIONS` (for its help and for completion) and ``run(words) -> int``. Exit status: 0, 1 where `verify` finds damage, 125 for errors.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

from sandbox.cli.options import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

_TABLE = {
    "import": "bring an image in from a directory or an archive",
    "pull": "bring an image from a registry",
    "ls": "list the images",
    "show": "what one image is, and how it wants to be run",
    "rm": "take images away",
    "export": "write an image to a directory or an archive",
    "verify": "look for damage in the store",
    "unpack": "unpack an image's layers in another form",
    "commit": "make an image of what a run changed",
    "prune": "take away what nothing needs",
}


def commands() -> dict[str, str]:
    """Return command → what it does, for those that this installation has."""
    return {name: text for name, text in _TABLE.items() if find_spec(_module(name)) is not None}


def load_command(name: str) -> ModuleType:
    """Import the module of a command."""
    return import_module(_module(name))


def _module(name: str) -> str:
    return f"sandbox.cli.image_{name}"


def run(words: list[str]) -> int:
    """Run one of the commands."""
    known = commands()
    if not words or words[0] in ("-h", "--help", "help"):
        print("usage: sandbox image COMMAND [OPTION...] [IMAGE...]\n\nImages: root file systems to run programs in, with what they say of how.\n")
        print("\n".join(f"  {name:<9}{text}" for name, text in known.items()))
        print("\n  sandbox image import debian.tar --name debian:12\n  sandbox exec --image debian:12 -- cat /etc/os-release")
        print("\n`sandbox image COMMAND --help` tells more.")
        return 0 if words else 125
    if words[0] not in known:
        from difflib import get_close_matches

        close = get_close_matches(words[0], known, n=1)
        hint = f"did you mean `sandbox image {close[0]}`?" if close else "see `sandbox image --help`"
        raise UsageError(f"unknown command `image {words[0]}`", hint=hint)
    status = int(load_command(words[0]).run(words[1:]))
    sys.stdout.flush()  # here, where a reader that went away is dealt with
    return status
