"""The name that a compiler wants of a file, found in its text: Java's public class, a module's name in Erlang and Modula-2. Pure.

The text is a contestant's. It is read in one pass, of its beginning only, and what comes of it is a word of letters, digits and `_`, or nothing: never a path
and no option of a compiler. Whoever is mistaken about his own file's name gets his compiler's error. `definition` and `task_work` import this module.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_READ = 1 << 18
"""Characters: as much as comments and imports ever are before the first class."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
# Comments and texts match without a group, what is left of the program with one. None can be matched in two ways: repetitions are possessive.
_JAVA = re.compile(r"""//[^\r\n]*|/\*.*?(?:\*/|\Z)|\"""(?:[^"\\]|\\.|"(?!""))*+(?:\""")?|"(?:[^"\\\r\n]|\\.)*+"?|'(?:[^'\\\r\n]|\\.)*+'?|([\w$]+|\S)""", re.S)
_ERLANG = re.compile(r"""%[^\n]*|"(?:[^"\\]|\\.)*+"?|\$(?:\\.|.)|('(?:[^'\\]|\\.)*+'?|[\w@]+|\S)""", re.S)
_MODULA = re.compile(r"""<\*.*?(?:\*>|\Z)|"[^"\n]*"?|'[^'\n]*'?|(\(\*|[\w]+|\S)""", re.S)
_MODULA_COMMENT = re.compile(r"\(\*|\*\)")


def find_name(text: str, rule: str) -> str:
    """Return what a file with this text has to be called, without extension; "" where the rule finds no name, or one of other letters.

    Args:
        text: untrusted.
        rule: one of `RULES`.
    """
    name = RULES[rule](text[:_READ])
    return name if _NAME.fullmatch(name) else ""


def _public_class(text: str) -> str:
    """Source: The Java Language Specification, 7.6: a public class or interface is in a file of its name."""
    tokens = _tokens(_JAVA, text)
    depth, public = 0, False
    for token in tokens:
        if token in ("(", "{"):
            depth += 1
        elif token in (")", "}"):
            depth -= 1
            public = public and (token == ")" or depth > 0)
        elif depth:
            continue
        elif token == ";":
            public = False
        elif token == "public":
            public = True
        elif public and token in ("class", "interface", "enum", "record"):
            return next(tokens, "")
    return ""


def _module_attribute(text: str) -> str:
    """Source: Erlang Reference Manual, Modules: the file's name without extension has to be the module's."""
    last: list[str] = []
    for token in _tokens(_ERLANG, text):
        if token == ")" and last[:3] == ["-", "module", "("] and len(last) == 4:
            return last[3].removeprefix("'").removesuffix("'")
        last = [*last[-3:], token]
    return ""


def _module(text: str) -> str:
    """Source: the manual of gm2: the file of a program module has its name."""
    at = 0
    found = False
    while match := _MODULA.search(text, at):
        at = match.end()
        if match[1] == "(*":  # these nest, and a quote in one begins no text
            depth = 1
            while depth and (edge := _MODULA_COMMENT.search(text, at)):
                depth += 1 if edge[0] == "(*" else -1
                at = edge.end()
            if depth:
                break
        elif found:
            return match[1] or ""
        else:
            found = match[1] == "MODULE"
    return ""


def _tokens(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    return (match[1] for match in pattern.finditer(text) if match[1] is not None)


RULES: dict[str, Callable[[str], str]] = {"public-class": _public_class, "module": _module, "module-attribute": _module_attribute}
"""What a definition's `named-after` may say."""

__all__ = ["RULES", "find_name"]
