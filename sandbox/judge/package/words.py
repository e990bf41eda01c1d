"""Texts of a package that are split, matched or filled in: flags, globs, constants. Linear in what they are given."""

from __future__ import annotations

import re
import shlex

from sandbox.judge.package.confine import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.judge.package.confine import Tree
    from sandbox.judge.package.yaml_source import Node

_SEQUENCE = re.compile(rb"\{\{([a-zA-Z_][a-zA-Z0-9_]{0,99}(?:\.[a-zA-Z_][a-zA-Z0-9_]{0,99})?)\}\}")
_MAXIMUM_FLAGS = 4096
_MAXIMUM_GLOB = 1024
_STARS = re.compile(r"\*+|[^*]+")


def split_flags(node: Node, tree: Tree, path: str) -> tuple[str, ...]:
    """Return the words of a text of flags, split as a shell does; blanks alone where the quotes do not match."""
    text = node.text()
    if len(text) > _MAXIMUM_FLAGS or "\0" in text:
        raise node.error(f"`{node.key}` must be at most {_MAXIMUM_FLAGS} characters without a null byte")
    try:
        return tuple(shlex.split(text))
    except ValueError:
        tree.warn(f"`{node.key}` has a quote without its other; it is split at blanks", path, node.line)
        return tuple(text.split())


def fill_in(data: bytes, constants: Mapping[str, str], limit: int) -> bytes | None:
    """Return a text with ``{{name}}`` replaced by the constants' values; what is no UTF-8, and names that are not known, stay as they are.

    None where it would be longer than `limit` bytes: a short text can name a long value many times.
    """
    if not constants or b"{{" not in data:
        return data
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return data
    values = {name.encode(): value.encode() for name, value in constants.items()}
    size = len(data)
    for found in _SEQUENCE.finditer(data):
        size += len(values[found[1]]) - len(found[0]) if found[1] in values else 0
    return None if size > limit else _SEQUENCE.sub(lambda found: values.get(found[1], found[0]), data)


class Glob:
    """A pattern of the package format: ``*`` within a name, ``{a,b}``, and nothing else; matches a path, or a directory above it.

    Args:
        pattern: the text; a slash at its end is the same as none.

    Attributes:
        cost: how many steps a match takes for each letter of a path, at most.

    Raises:
        ValueError: it is longer than anybody's, or has braces in braces.
    """

    __slots__ = ("_parts", "cost", "pattern")

    def __init__(self, pattern: str) -> None:
        if len(pattern) > _MAXIMUM_GLOB:
            raise ValueError(f"longer than {_MAXIMUM_GLOB} characters")
        self.pattern = pattern
        # Outside of braces a part is letters or a star; braces are a part that is a list of such lists.
        self._parts: list[str | list[list[str | None]] | None] = []
        text = pattern.removesuffix("/")
        at = 0
        while (begin := text.find("{", at)) >= 0 and (end := text.find("}", begin)) >= 0:
            inner = text[begin + 1 : end]
            if "{" in inner:
                raise ValueError("has braces in braces")
            self._parts += (*_parts(text[at:begin]), [_parts(word.strip()) for word in inner.split(",")])
            at = end + 1
        self._parts += _parts(text[at:])
        self.cost = 1 + sum(sum(len(word) + 1 for word in part) if isinstance(part, list) else 1 for part in self._parts)

    def matches(self, path: str) -> bool:
        """Whether the pattern matches a path or a directory that it is in."""
        places = {0}
        for part in self._parts:
            places = set().union(*(_follow(word, places, path) for word in part)) if isinstance(part, list) else _follow([part], places, path)
            if not places:
                return False
        return any(place == len(path) or path[place] == "/" for place in places)


def _parts(text: str) -> list[str | None]:
    """Return letters and stars in their order; several stars are as good as one."""
    return [None if each[0] == "*" else each for each in _STARS.findall(text)]


def _follow(parts: list[str | None], places: set[int], path: str) -> set[int]:
    """Return where in a path one can be after letters and stars, having been at `places`."""
    for part in parts:
        if part is None:
            reached: set[int] = set()
            for place in sorted(places):
                if place not in reached:
                    end = path.find("/", place)
                    reached.update(range(place, (len(path) if end < 0 else end) + 1))
            places = reached
        else:
            places = {place + len(part) for place in places if path.startswith(part, place)}
    return places


def looks_doubtful(pattern: str) -> str:
    """Return what in a pattern means nothing here though it may have been meant to: ``?``, ``[``, ``**``; "" for none."""
    for each in ("**", "?", "["):
        if each in pattern:
            return shown(each)
    return ""
