"""A YAML file as plain values that know their line: the only importer of PyYAML.

Built out of the parser's events, never by its constructors: no tag is looked at, nothing is recursive, and an alias is its anchor's node once more, whose
size counts each time. Scalars stay text; who wants a number says so, and the error has the key and the line.
"""

from __future__ import annotations

import re

from sandbox.errors import UnsupportedError
from sandbox.judge.errors import PackageError
from sandbox.judge.package.confine import shown
from sandbox.judge.package.words import fill_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from sandbox.judge.package.confine import Tree

MAXIMUM_BYTES = 1 << 20
MAXIMUM_TOGETHER = 16 << 20
"""A megabyte takes a second; each case may have a file."""
_MAXIMUM_NODES = 20_000
_MAXIMUM_DEPTH = 32
_MAXIMUM_DIGITS = 64
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(("yes", "true", "on"))
_FALSE = frozenset(("no", "false", "off"))
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:[0-9]*\.[0-9]+|[0-9]+\.?)(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)


class Node:
    """A value of a YAML file.

    Attributes:
        key: its path in the file, ``limits.memory``, for messages.
        line: counted from 1.
        value: text, a list of nodes, or a mapping of nodes.
        plain: a scalar without quotes.
        size: how many values there are in it, aliases followed.
    """

    __slots__ = ("file", "key", "line", "plain", "size", "value")

    def __init__(self, file: str, key: str, line: int, value: str | list[Node] | dict[str, Node], *, plain: bool = False) -> None:
        self.file = file
        self.key = key
        self.line = line
        self.value = value
        self.plain = plain
        self.size = 1

    @property
    def origin(self) -> str:
        """``file:line``."""
        return f"{self.file}:{self.line}"

    @property
    def is_null(self) -> bool:
        """Whether nothing stands there."""
        return self.plain and self.value in _NULL

    def error(self, message: str, *, hint: str | None = None) -> PackageError:
        """Return an error that points here."""
        return PackageError(message, origin=self.origin, hint=hint)

    def wrong(self, wanted: str) -> PackageError:
        """Return the error for a value of the wrong kind."""
        what = f"`{shown(self.value)}`" if isinstance(self.value, str) else "a list" if isinstance(self.value, list) else "a map"
        return self.error(f"`{self.key}` must be {wanted}, not {'empty' if self.is_null else what}")

    def text(self) -> str:
        """Return a scalar as it was written. Raises `PackageError` for anything else."""
        if not isinstance(self.value, str) or self.is_null:
            raise self.wrong("text")
        return self.value

    def boolean(self) -> bool:
        """Return a truth value, in the words of YAML 1.1. Raises `PackageError`."""
        word = self.value.lower() if isinstance(self.value, str) else ""
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        raise self.wrong("`true` or `false`")

    def number(self, wanted: str, *, least: float, above: bool = False, most: float = 1e9) -> float:
        """Return a decimal number of at least `least` (`above`: more than it). Raises `PackageError`, in which `wanted` says what it should be."""
        if isinstance(self.value, str) and len(self.value) <= _MAXIMUM_DIGITS and _NUMBER.fullmatch(self.value):
            found = float(self.value)
            if least <= found <= most and not (above and found == least):
                return found
        raise self.wrong(wanted)

    def integer(self, wanted: str, *, least: int, most: int = 1 << 40) -> int:
        """Return a whole number; ``2.0`` is one. Raises `PackageError`."""
        if isinstance(self.value, str) and (_INTEGER.fullmatch(self.value) or re.fullmatch(r"[0-9]{1,15}\.0*", self.value, re.ASCII)):
            found = int(self.value.partition(".")[0])
            if least <= found <= most:
                return found
        raise self.wrong(wanted)

    def mapping(self) -> dict[str, Node]:
        """Return a map; an empty value is an empty one. Raises `PackageError`."""
        if self.is_null:
            return {}
        if not isinstance(self.value, dict):
            raise self.wrong("a map")
        return self.value

    def items(self, wanted: str = "a list") -> list[Node]:
        """Return the items of a list. Raises `PackageError`."""
        if self.is_null:
            return []
        if not isinstance(self.value, list):
            raise self.wrong(wanted)
        return self.value

    def words(self) -> tuple[str, ...]:
        """Return a list of text; a single text is a list of one. Raises `PackageError`."""
        if isinstance(self.value, str) and not self.is_null:
            return (self.value,)
        return tuple(each.text() for each in self.items("text or a list of it"))


def present(mapping: dict[str, Node], key: str) -> Node | None:
    """Return the value of a key, None where it is missing or empty."""
    found = mapping.get(key)
    return None if found is None or found.is_null else found


def check_keys(mapping: dict[str, Node], known: Iterable[str], where: str = "") -> None:
    """Raise `PackageError` for the first key that is not known."""
    known = frozenset(known)
    for key, node in mapping.items():
        if key not in known:
            near = _nearest(key, known)
            raise PackageError(
                f"unknown key `{where}{shown(key)}`", origin=node.origin, hint=f"`{near}` is known" if near else None
            )


def _nearest(key: str, known: frozenset[str]) -> str:
    import difflib

    return next(iter(difflib.get_close_matches(key[:80], sorted(known), 1)), "")


def read_yaml(tree: Tree, path: str, constants: Mapping[str, str] | None = None) -> tuple[Node, bytes]:
    """Return what a YAML file of a package holds, and its bytes.

    Args:
        tree: the package.
        path: the file.
        constants: what is filled into it before it is read.

    Raises:
        PackageError: it cannot be read, is no YAML, or all YAML files of the package together are larger than any package's.
    """
    data = tree.read(path, MAXIMUM_BYTES, f"`{path.rpartition('/')[2]}`")
    tree.yaml_bytes += len(data)
    if tree.yaml_bytes > MAXIMUM_TOGETHER:
        raise PackageError(f"read YAML: files of more than {MAXIMUM_TOGETHER} bytes together", origin=tree.place(path))
    filled = fill_in(data, constants or {}, MAXIMUM_BYTES)
    if filled is None:
        raise PackageError(f"fill in constants: larger than {MAXIMUM_BYTES} bytes with them", origin=tree.place(path))
    return parse_yaml(filled, tree.place(path)), data


def parse_yaml(data: bytes, file: str) -> Node:
    """Return what a YAML file holds; an empty one holds an empty value.

    Args:
        data: at most 1 MiB of it.
        file: what errors call it.

    Raises:
        PackageError: it is no UTF-8 or no YAML, has several documents, a key twice, tags, or more values or depth than any real one.
    """
    try:
        import yaml
    except ImportError:
        raise UnsupportedError("PyYAML", "sandbox judge", hint="`pip install pyyaml`, or install sandbox with the extra `judge`") from None
    if len(data) > MAXIMUM_BYTES:
        raise PackageError(f"read YAML: larger than {MAXIMUM_BYTES} bytes", origin=file)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PackageError("read YAML: not UTF-8", origin=f"{file}:{data.count(bytes([10]), 0, error.start) + 1}") from None
    try:
        return _Builder(file).build(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = shown((error.problem or error.context or "no YAML").replace("\n", " "))
        raise PackageError(f"read YAML: {words}", origin=f"{file}:{mark.line + 1}" if mark else file) from None
    except yaml.YAMLError as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        raise PackageError("read YAML: has a character that may not be there", origin=f"{file}:{line}") from None
    except (ValueError, OverflowError, RecursionError):
        raise PackageError("read YAML: no YAML", origin=file) from None


class _Open:
    """A map or list that is being filled: the key that waits for its value, and what ``<<`` adds in the end."""

    __slots__ = ("anchor", "key", "merges", "node")

    def __init__(self, node: Node, anchor: str) -> None:
        self.node = node
        self.anchor = anchor
        self.key: Node | None = None
        self.merges: list[dict[str, Node]] = []

    def next_key(self) -> str:
        """Return the path of the value that comes next."""
        if isinstance(self.node.value, list):
            return f"{self.node.key}[{len(self.node.value)}]"
        name = shown(self.key.value) if self.key is not None and isinstance(self.key.value, str) else ""
        return f"{self.node.key}.{name}" if self.node.key else name


class _Builder:
    """Makes nodes of events, with a stack of its own."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._anchors: dict[str, Node] = {}
        self._named: set[str] = set()
        self._stack: list[_Open] = []
        self._root: Node | None = None
        self._count = 0

    def build(self, events: Iterator[Any]) -> Node:
        import yaml

        documents = 0
        for event in events:
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._error("has more than one document", line)
            elif isinstance(event, yaml.AliasEvent):
                anchor = event.anchor or ""
                found = self._anchors.get(anchor)
                if found is None:
                    raise self._error(f"alias `*{shown(anchor)}` has no anchor before it", line)
                self._count_in(found.size, line)
                self._add(found)
            elif isinstance(event, (yaml.ScalarEvent, yaml.SequenceStartEvent, yaml.MappingStartEvent)):
                self._start(event, line, isinstance(event, yaml.ScalarEvent), isinstance(event, yaml.MappingStartEvent))
            elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
                self._end(self._stack.pop())
        return self._root or Node(self._file, "", 1, "", plain=True)

    def _start(self, event: Any, line: int, scalar: bool, mapping: bool) -> None:
        self._count_in(1, line)
        if event.tag is not None:
            raise self._error(f"tag `{shown(event.tag)}`: tags are not read", line)
        if event.anchor:
            if event.anchor in self._named:  # YAML allows it, PyYAML does not; the same name for two things serves nobody
                raise self._error(f"anchor `&{shown(event.anchor)}` is there twice", line)
            self._named.add(event.anchor)
        key = self._stack[-1].next_key() if self._stack else ""
        if scalar:
            self._finish(Node(self._file, key, line, event.value, plain=bool(event.implicit[0])), event.anchor)
            return
        if len(self._stack) >= _MAXIMUM_DEPTH:
            raise self._error(f"nested deeper than {_MAXIMUM_DEPTH}", line)
        self._stack.append(_Open(Node(self._file, key, line, {} if mapping else []), event.anchor or ""))

    def _end(self, ended: _Open) -> None:
        for merged in ended.merges:
            assert isinstance(ended.node.value, dict)
            for key, value in merged.items():
                ended.node.value.setdefault(key, value)
        self._finish(ended.node, ended.anchor)

    def _finish(self, node: Node, anchor: str | None) -> None:
        if anchor:
            self._anchors[anchor] = node
        self._add(node)

    def _add(self, node: Node) -> None:
        if not self._stack:
            self._root = node
            return
        above = self._stack[-1]
        above.node.size += node.size
        if isinstance(above.node.value, list):
            above.node.value.append(node)
            return
        if above.key is None:
            if not isinstance(node.value, str):
                raise self._error("a key must be text", node.line)
            above.key = node
            return
        name, key = above.key, above.next_key()
        above.key = None
        assert isinstance(name.value, str) and isinstance(above.node.value, dict)
        if name.plain and name.value == "<<":
            above.merges += self._maps(node, name.line)
            return
        before = above.node.value.get(name.value)
        if before is not None:
            raise self._error(f"`{shown(name.value)}` is there twice, first in line {before.line}", name.line)
        if node.line != name.line or node.key != key:
            # A map begins a line below its key, and an alias somewhere else.
            again = Node(self._file, key, name.line, node.value, plain=node.plain)
            again.size = node.size
            node = again
        above.node.value[name.value] = node

    def _maps(self, node: Node, line: int) -> list[dict[str, Node]]:
        maps = []
        for each in node.value if isinstance(node.value, list) else [node]:
            if not isinstance(each.value, dict):
                raise self._error("`<<` takes a map", line)
            maps.append(each.value)
        return maps

    def _count_in(self, size: int, line: int) -> None:
        self._count += size
        if self._count > _MAXIMUM_NODES:
            raise self._error(f"more than {_MAXIMUM_NODES} values", line)

    def _error(self, message: str, line: int) -> PackageError:
        return PackageError(f"read YAML: {message}", origin=f"{self._file}:{line}")
