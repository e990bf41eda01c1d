"""A new policy file that allows or refuses a little more than another: its text, checked before anybody sees it.

Pure but for reading the policies that it extends; writing the file is the tool's. Imported by the policy tools and tests.
"""

from __future__ import annotations

import os
import re

from sandbox.errors import PolicyError
from sandbox.policy.check import check_policy
from sandbox.policy.load import GROUPS, parse_layer
from sandbox.policy.locate import is_path
from sandbox.policy.merge import merge_layers
from sandbox.policy.mistakes import stack_of
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.policy.model import SyscallPolicy

_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One rule to write: a system call or ``@group``, what happens to it, and the condition (empty for every call). `comment` is one line or empty."""

    syscall: str
    action: str
    condition: str
    comment: str = ""


def new_text(path: str, extends: list[str], description: str, wishes: list[Wish], head: str = "") -> str:
    """Return the text of a policy file.

    Args:
        path: where it is to stand; its stem is the policy's name.
        extends: names, or paths from the working directory.
        description: one line.
        wishes: its rules; those with a condition are put first, so that one for the rest of a system call may follow.
        head: comment lines to begin with, without ``#``.

    Raises:
        PolicyError: the file's name cannot be a policy's.
    """
    stem = os.path.basename(path).removesuffix(".toml")
    if not path.endswith(".toml") or not _NAME.fullmatch(stem):
        raise PolicyError(
            f"`{path}` cannot be a policy's file: it needs a name of lower-case letters, digits and hyphens, and `.toml`",
            hint="as in `./mine.toml`",
        )
    base = os.path.dirname(path) or "."
    below = [os.path.relpath(word, base) if is_path(word) else word for word in extends]
    lines = [f"# {line}".rstrip() for line in head.splitlines()]
    lines += [
        f"name = {_quote(stem)}",
        f"description = {_quote(description)}",
        f"extends = [{', '.join(_quote(word if '/' in word or not is_path(word) else f'./{word}') for word in below)}]",
    ]
    plain: dict[tuple[str, str], list[Wish]] = {}
    for wish in wishes:
        if wish.condition:
            lines += ["", *_rule([wish])]
        else:
            plain.setdefault((wish.action, wish.comment), []).append(wish)
    # A system call named by itself must come before a group that it is in.
    for alike in sorted(plain.values(), key=lambda alike: alike[0].syscall.startswith("@")):
        lines += ["", *_rule(alike)]
    return "\n".join(lines) + "\n"


def _rule(wishes: list[Wish]) -> list[str]:
    first = wishes[0]
    lines = ["[[rule]]" + (f" # {first.comment}" if first.comment else "")]
    lines.append(f"syscalls = [{', '.join(_quote(wish.syscall) for wish in wishes)}]")
    lines.append(f"action = {_quote(first.action)}")
    if first.condition:
        lines.append(f"when = {_quote(first.condition)}")
    return lines


def _quote(text: str) -> str:
    """Return a TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in escaped) + '"'


def policy_of(text: str, path: str) -> SyscallPolicy:
    """Return the checked policy of a text that is no file yet.

    Raises:
        PolicyError: its meaning, or that of a file it extends, is wrong.
    """
    policy = merge_layers(stack_of(parse_layer(text.encode(), path, GROUPS)), GROUPS)
    check_policy(policy)
    return policy
