"""JSON with the line of every value: an error in somebody's seccomp profile is no help without its place.

Stricter than the standard library's reader: a key twice in one object is refused (the last would win in silence), and so are numbers that are no
integers of 64 bits and nesting beyond what a profile has. Pure; imported by `convert_oci_read.py`.
"""

from __future__ import annotations

import json
import re

from sandbox.errors import PolicyError
from sandbox.record import dataclass

_MAXIMUM_BYTES = 4 << 20
_MAXIMUM_DEPTH = 16
_TOKEN = re.compile(r'[ \t\r\n]*(?:("(?:[^"\\\x00-\x1f]|\\.)*")|(-?[0-9][0-9.eE+-]*)|(true|false|null)|([{}\[\],:]))')
_INTEGER = re.compile(r"0|[1-9][0-9]*")
_LITERALS = {"true": True, "false": False, "null": None}
U64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One value: a dict of nodes, a list of nodes, text, an unsigned integer, a boolean or None; `path` is how it is reached, as ``syscalls[3].op``."""

    value: dict[str, Node] | list[Node] | str | int | bool | None
    file: str
    line: int
    path: str

    def fail(self, message: str, hint: str | None = None) -> PolicyError:
        """Return the error about this value."""
        return PolicyError(message, origin=f"{self.file}:{self.line}" + (f", {self.path}" if self.path else ""), hint=hint)


def read_json(content: bytes, file: str) -> Node:
    """Return a JSON text as nodes.

    Args:
        content: UTF-8, at most 4 MiB.
        file: what errors call it.

    Raises:
        PolicyError: it is not such a text.
    """
    if len(content) > _MAXIMUM_BYTES:
        raise PolicyError(f"read `{file}`: larger than {_MAXIMUM_BYTES} bytes")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PolicyError("profile is not UTF-8", origin=f"{file}:{line}") from None
    reader = _Reader(text, file)
    node = reader.value("", 0)
    reader.end()
    return node


class _Reader:
    """Recursive descent; depth is bounded so that no text can exhaust the stack."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.at = 0
        self.line = 1
        self.kind = ""
        self.token = ""

    def fail(self, message: str, path: str = "") -> PolicyError:
        return Node(value=None, file=self.file, line=self.line, path=path).fail(message)

    def next(self, wanted: str) -> str:
        match = _TOKEN.match(self.text, self.at)
        if match is None:
            rest = self.text[self.at :].lstrip(" \t\r\n")
            self.line += self.text.count("\n", self.at, len(self.text) - len(rest))
            found = f"not `{rest[0]}`" if rest else "but the text ends there"
            raise self.fail(f"profile is not valid JSON: {wanted} is needed, {found}")
        self.line += self.text.count("\n", self.at, match.end())
        self.at = match.end()
        self.kind = ("string", "number", "literal", "sign")[(match.lastindex or 1) - 1]
        self.token = match[match.lastindex or 1]
        return self.token

    def end(self) -> None:
        rest = self.text[self.at :].lstrip(" \t\r\n")
        if rest:
            self.line += self.text.count("\n", self.at, len(self.text) - len(rest))
            raise self.fail(f"profile is not valid JSON: it goes on with `{rest[0]}` where it should end")

    def string(self, path: str) -> str:
        try:
            value = json.loads(self.token)
            value.encode()  # half of a surrogate pair is no text
        except ValueError:
            raise self.fail(f"profile is not valid JSON: {self.token[:40]} is no text", path) from None
        return str(value)

    def value(self, path: str, depth: int, token: str | None = None) -> Node:
        if depth > _MAXIMUM_DEPTH:
            raise self.fail(f"profile is nested more than {_MAXIMUM_DEPTH} deep", path)
        if token is None:
            token = self.next("a value")
        line = self.line
        if self.kind == "string":
            return self.node(self.string(path), line, path)
        if self.kind == "literal":
            return self.node(_LITERALS[token], line, path)
        if self.kind == "number":
            if not _INTEGER.fullmatch(token) or len(token) > 20 or int(token) > U64:
                raise self.fail(f"number `{token[:40]}` is not an integer from 0 to 2^64 - 1", path)
            return self.node(int(token), line, path)
        if token == "{":
            return self.node(self.members(path, depth), line, path)
        if token == "[":
            return self.node(self.items(path, depth), line, path)
        raise self.fail(f"profile is not valid JSON: a value is needed, not `{token}`", path)

    def node(self, value: dict[str, Node] | list[Node] | str | int | bool | None, line: int, path: str) -> Node:
        return Node(value=value, file=self.file, line=line, path=path)

    def members(self, path: str, depth: int) -> dict[str, Node]:
        found: dict[str, Node] = {}
        if self.next("a key or `}`") == "}":
            return found
        while True:
            if self.kind != "string":
                raise self.fail(f"profile is not valid JSON: a key is needed, not `{self.token}`", path)
            key = self.string(path)
            inner = f"{path}.{key}" if path else key
            if key in found:
                raise self.fail(f"key `{key}` is there twice, before in line {found[key].line}", inner)
            if self.next("`:`") != ":":
                raise self.fail(f"profile is not valid JSON: `:` is needed, not `{self.token}`", inner)
            found[key] = self.value(inner, depth + 1)
            if self.next("`,` or `}`") == "}":
                return found
            if self.token != ",":
                raise self.fail(f"profile is not valid JSON: `,` or `}}` is needed, not `{self.token}`", path)
            self.next("a key")

    def items(self, path: str, depth: int) -> list[Node]:
        found: list[Node] = []
        token = self.next("a value or `]`")
        if token == "]" and self.kind == "sign":
            return found
        while True:
            found.append(self.value(f"{path}[{len(found)}]", depth + 1, token))
            if self.next("`,` or `]`") == "]":
                return found
            if self.token != ",":
                raise self.fail(f"profile is not valid JSON: `,` or `]` is needed, not `{self.token}`", path)
            token = self.next("a value")
