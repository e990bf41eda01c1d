"""A small option parser: argparse costs more to import than a sandbox costs to start.

One table of `Option` serves parsing, ``--help`` and shell completion. GNU habits: ``--name VALUE``, ``--name=VALUE``, ``-x VALUE``, ``--`` ends options,
and so does the first word that is no option.
"""

from __future__ import annotations

from sandbox.errors import SandboxError
from sandbox.record import dataclass


class UsageError(SandboxError):
    """The command line is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option.

    `metavar` empty means a flag; in brackets, an optional ``=VALUE``. `values` are completed; ``@profiles``, ``@policies``, ``@files`` are looked up.
    """

    name: str
    help: str
    short: str = ""
    metavar: str = ""
    many: bool = False
    values: tuple[str, ...] = ()


def parse_options(words: list[str], options: tuple[Option, ...], command: str) -> tuple[dict[str, list[str]], list[str]]:
    """Split words into option values by name and the operands.

    Returns:
        values by option name (a flag has one empty string for each time it was given), and the words after the options.

    Raises:
        UsageError: unknown option, missing or surplus value, an option twice that may be given once.
    """
    by_word = {f"--{option.name}": option for option in options} | {f"-{option.short}": option for option in options if option.short}
    found: dict[str, list[str]] = {}
    index = 0
    while index < len(words):
        word = words[index]
        if word == "--":
            return found, words[index + 1 :]
        if not word.startswith("-") or word == "-":
            break
        index += 1
        name, equals, value = word.partition("=")
        if name not in by_word and len(word) > 2 and not word.startswith("--") and word[:2] in by_word:
            name, value = word[:2], word[2:]
            equals = "=" if by_word[name].metavar else ""
            if not equals:  # -qp NAME is -q -p NAME; -vSRC:DST has its value
                words = [*words[:index], f"-{value}", *words[index:]]
                value = ""
        option = by_word.get(name)
        if option is None:
            raise UsageError(f"unknown option `{name}`", hint=_nearest(name, by_word, command))
        if option.metavar and not option.metavar.startswith("[") and not equals:
            if index >= len(words):
                raise UsageError(f"option `{name}` needs {option.metavar}", hint=f"see `sandbox {command} --help`")
            value = words[index]
            index += 1
        elif not option.metavar and equals:
            raise UsageError(f"option `{name}` takes no value")
        if option.name in found and not option.many:
            raise UsageError(f"option `{name}` is given twice")
        found.setdefault(option.name, []).append(value)
    return found, words[index:]


def format_options(options: tuple[Option, ...]) -> list[str]:
    """Return aligned help lines."""
    lefts = []
    for option in options:
        short = f"-{option.short}, " if option.short else ""
        value = option.metavar if option.metavar.startswith("[") else f" {option.metavar}" if option.metavar else ""
        lefts.append(f"{short}--{option.name}{value}")
    width = max(len(left) for left in lefts) + 2
    return [f"  {left:<{width}}{option.help}" for left, option in zip(lefts, options, strict=True)]


def _nearest(word: str, known: dict[str, Option], command: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(word, known, n=1)
    return f"did you mean `{close[0]}`?" if close else f"see `sandbox {command} --help`"
