"""All mistakes of a policy file at once, for whoever corrects it. A run stops at the first, which is enough to refuse.

Each rule that is wrong is taken out, its lines kept, and the rest is read again. Only reads files. Imported by the policy tools and tests.
"""

from __future__ import annotations

import os
import re

from sandbox.errors import PolicyError
from sandbox.policy import locate
from sandbox.policy.check import check_policy
from sandbox.policy.lines import scan_lines
from sandbox.policy.load import GROUPS, load_policy, parse_layer, read_stack
from sandbox.policy.merge import merge_layers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.policy.model import Layer, SyscallPolicy

_MAXIMUM = 50


def load_or_explain(name_or_path: str) -> tuple[SyscallPolicy | None, tuple[PolicyError, ...]]:
    """Load and check a policy, or return every mistake of its file that can be told apart from the others.

    Args:
        name_or_path: as for `load.load_policy`.

    Returns:
        the policy and nothing, or None and the mistakes in the file's order; at most 50.

    Raises:
        PolicyError: there is no such file, or it cannot be read.
    """
    path = locate.resolve(name_or_path, "policies")
    try:
        return load_policy(name_or_path), ()
    except PolicyError as error:
        if error.origin is None:
            raise  # it cannot be opened, or is no file of a policy's size
        first = error
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read().replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return None, (first,)
    return None, _collect(text, path)


def _collect(text: str, path: str) -> tuple[PolicyError, ...]:
    found: list[PolicyError] = []
    alive: list[int] = []  # the original numbers of the rules that are still there
    unread = True  # rules that cannot be read are being looked for, not yet what they mean together
    while len(found) < _MAXIMUM:
        try:
            layer = parse_layer(text.encode(), path, GROUPS)
            if unread and found:
                break  # without the rules that could not be read, what is left undecided proves nothing
            unread = False
            check_policy(merge_layers(stack_of(layer), GROUPS))
        except PolicyError as error:
            tables = [table for table in scan_lines(text)[1:] if table.name.strip("\"'") == "rule"]
            alive = alive or list(range(1, len(tables) + 1))
            found.append(_renumbered(error, path, alive))
            match = re.match(rf"{re.escape(path)}:\d+, rule\[(\d+)\]", error.origin or "")
            if match is None:
                break
            index = int(match[1]) - 1
            text = _without(text, tables[index].line)
            del alive[index]
            if not alive:
                break
            continue
        break
    return tuple(found)


def stack_of(layer: Layer) -> tuple[Layer, ...]:
    """Return the stack of a file that was read already; see `load.read_stack`."""
    upwards: dict[str, Layer] = {}
    for text, place in zip(layer.extends, layer.extends_places, strict=True):
        where = f"{place}, extends"
        below = locate.resolve(text, "policies", base=os.path.dirname(layer.path) or ".", where=where)
        for each in reversed(read_stack(below, GROUPS)):
            upwards.setdefault(os.path.realpath(each.path), each)
    return (layer, *reversed(upwards.values()))


def _without(text: str, line: int) -> str:
    """Return a text whose table that begins at `line` is empty lines."""
    starts = [table.line for table in scan_lines(text)[1:] if table.line > line]
    lines = text.split("\n")
    end = starts[0] - 1 if starts else len(lines)
    lines[line - 1 : end] = [""] * (end - line + 1)
    return "\n".join(lines)


def _renumbered(error: PolicyError, path: str, alive: list[int]) -> PolicyError:
    def original(match: re.Match[str]) -> str:
        return f"{match[1]}rule[{alive[int(match[2]) - 1]}]"

    origin = re.sub(rf"({re.escape(path)}:\d+, )rule\[(\d+)\]", original, error.origin) if error.origin is not None else None
    return PolicyError(error.message, origin=origin, hint=error.hint)
