"""What the policy tools print alike: places, outcomes, calls, wrapped lists, colours, JSON."""

from __future__ import annotations

import os
import re
import sys

from sandbox.abi.arch import Arch, native_arch
from sandbox.cli import operands
from sandbox.cli.options import Option, UsageError
from sandbox.policy.locate import data_path
from sandbox.policy.nearest import suggest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sandbox.policy.model import RuleRef

HELP = Option(name="help", short="h", help="this text")
JSON = Option(name="json", help="as JSON")
ARCH = Option(name="arch", short="a", metavar="ARCH", help="x86_64 or aarch64; default: this machine's", values=tuple(Arch))
_MINIMUM_WIDTH = 40
_COLOURS = {"good": "32", "bad": "31", "warn": "33", "head": "1"}


def parse(
    words: list[str], options: tuple[Option, ...], command: str, synopsis: str, text: str
) -> tuple[dict[str, list[str]], list[str]] | None:
    """See `operands.parse`."""
    return operands.parse(words, options, f"policy {command}", synopsis, text)


def need(given: Sequence[str], least: int, most: int | None, what: str, command: str) -> None:
    """See `operands.need`."""
    operands.need(given, least, most, what, f"policy {command}")


def choose_arch(options: dict[str, list[str]]) -> Arch:
    """Return the architecture of ``--arch``, by default the machine's own.

    Raises:
        UsageError: there is no such architecture.
    """
    words = options.get("arch")
    if words is None:
        try:
            return native_arch()
        except ValueError as error:
            raise UsageError(str(error), hint=f"say `--arch {Arch.X86_64}` or `--arch {Arch.AARCH64}`") from None
    try:
        return Arch(words[0])
    except ValueError:
        raise UsageError(f"unknown architecture `{words[0]}`; known: {', '.join(Arch)}", hint=suggest(words[0], Arch)) from None


def show_path(path: str) -> str:
    """Return how a file is called: shipped ones by their name alone, as in the summary of a run."""
    return printable(os.path.basename(path) if os.path.dirname(path) == data_path("policies") else path)


def show_place(ref: RuleRef | None) -> str:
    """Return ``file:line``."""
    return f"{show_path(ref.file)}:{ref.line}" if ref is not None else ""


def printable(text: str) -> str:
    """Return a file's text so that it cannot move a terminal's cursor or turn its direction."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def width() -> int:
    """Return how many columns a line may have."""
    import shutil

    return max(_MINIMUM_WIDTH, shutil.get_terminal_size((100, 24)).columns)


def paint(text: str, how: str) -> str:
    """Return text in colour (good, bad, warn, head) where a person looks at it."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_COLOURS[how]}m{text}\x1b[0m"


def wrap(words: Iterable[str], *, first: str = "", indent: str = "", separator: str = ", ", columns: int | None = None) -> list[str]:
    """Return words joined into lines no longer than the terminal, where no single word is."""
    limit = columns or width()
    lines: list[str] = []
    line = first
    fresh = True
    for word in words:
        if not fresh and _columns(line + separator + word + separator.rstrip()) > limit:
            lines.append(line + separator.rstrip())
            line, fresh = indent, True
        line += word if fresh else separator + word
        fresh = False
    return [*lines, line]


def _columns(line: str) -> int:
    """Return how wide a line is without its colours."""
    return len(re.sub("\x1b\\[[0-9]*m", "", line))


def wrap_text(text: str, *, first: str, indent: str) -> list[str]:
    """Return a sentence wrapped at its spaces."""
    return wrap(text.split(" "), first=first, indent=indent, separator=" ")


def print_json(value: object) -> None:
    """Print a value as JSON."""
    import json

    print(json.dumps(value, indent=2))
