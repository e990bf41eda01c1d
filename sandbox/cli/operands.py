"""Options and operands in any order, for verbs of verbs: ``sandbox policy explain``, ``sandbox image ls``."""

from __future__ import annotations

from sandbox.cli.options import Option, UsageError, format_options, parse_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def parse(
    words: list[str], options: tuple[Option, ...], command: str, synopsis: str, text: str
) -> tuple[dict[str, list[str]], list[str]] | None:
    """Split words into options and operands, which may be mixed; print the help and return None when that was asked for."""
    found: dict[str, list[str]] = {}
    operands: list[str] = []
    left = words
    while left:
        some, rest = parse_options(left, options, command)
        for name, values in some.items():
            if name in found and not next(option for option in options if option.name == name).many:
                raise UsageError(f"option `--{name}` is given twice")
            found.setdefault(name, []).extend(values)
        ended = len(rest) < len(left) and left[len(left) - len(rest) - 1] == "--"
        operands += rest if ended else rest[:1]
        left = [] if ended else rest[1:]
    if "help" in found:
        print(f"usage: sandbox {command} {synopsis}\n\n{text}\n")
        print("\n".join(format_options(options)))
        return None
    return found, operands


def need(operands: Sequence[str], least: int, most: int | None, what: str, command: str) -> None:
    """Refuse too few or too many operands."""
    if len(operands) < least:
        raise UsageError(f"say {what}", hint=f"see `sandbox {command} --help`")
    if most is not None and len(operands) > most:
        raise UsageError(f"surplus operand `{operands[most]}`", hint=f"see `sandbox {command} --help`")


__all__ = ["need", "parse"]
