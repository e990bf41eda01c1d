"""Functions of a submission, called from outside of its sandbox: tests of units whose assertions no submission can reach.

A driver inside loads the submission and answers requests, one line each; values are plain data both ways (`sandbox.api.plain`), everything else stays
inside and is named by a number. What comes out may be any plain value that the submission likes, and nothing else: no class of its own, so no
``__eq__`` that is always true, and ending early passes no test. What is below runs here, and also in the sandbox of tests that are text
(`remote_inside`, which has the driver as well), so it uses nothing of ours but `plain` and what `Channel` asks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from sandbox.api.plain import dump_plain, load_plain


class Channel(Protocol):
    """What requests go out by; `Dialogue` is one."""

    def write(self, data: bytes | str) -> None:
        """Send."""

    def read_bytes_line(self) -> bytes:
        """Return the next line, or raise when there is none."""


class StudentError(Exception):
    """A function of the submission raised.

    `kind` is the name of the exception's class, `message` and `traceback` are its texts; all of them a stranger's.
    """

    def __init__(self, kind: str, message: str, traceback: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        self.message = message
        self.traceback = traceback


class TestError(Exception):
    """The author's test is wrong, whatever the submission does."""

    __test__ = False


class Raises:
    """A context in which a function of the submission has to raise; see `Student.raises_`."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self._kinds = kinds

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, value: object, trace: object) -> bool:
        """End; the exception that was asked for goes no further."""
        if isinstance(value, StudentError):
            if value.kind in self._kinds:
                return True
            raise AssertionError(f"raised {value.kind}, not {' or '.join(self._kinds)}") from value
        if value is None:
            raise AssertionError(f"did not raise {' or '.join(self._kinds)}")
        return False


class Link:
    """Requests and answers over a channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._number = 0

    def ask(self, request: dict[str, object]) -> Any:
        """Send a request and return the value of its answer: plain, or a `Remote`.

        Raises:
            StudentError: the submission raised.
            TestError: the request cannot be sent.
            AssertionError: the submission answered something else.
        """
        self._number += 1
        try:
            line = dump_plain({**request, "id": self._number})
        except (TypeError, ValueError) as error:
            raise TestError(f"arguments must be plain values: {error}") from None
        self._channel.write(line + "\n")
        try:
            answer = load_plain(self._channel.read_bytes_line())
        except ValueError as error:
            raise AssertionError(f"its answer is no value: {error}") from None
        if type(answer) is dict and answer.pop("id", None) == self._number:
            if set(answer) == {"value"}:
                return answer["value"]
            if set(answer) == {"handle", "kind"} and type(answer["handle"]) is int and type(answer["kind"]) is str:
                return Remote(self, answer["handle"], answer["kind"])
            if set(answer) == {"error", "message", "traceback"} and all(type(text) is str for text in answer.values()):
                raise StudentError(answer["error"][:200], answer["message"][:2000], answer["traceback"])
        raise AssertionError("the submission wrote an answer of its own")


def packed(value: object) -> list[object]:
    """Return a value as requests carry it: plain, or by its number."""
    return ["handle", value._handle] if isinstance(value, Remote) else ["plain", value]


class Function:
    """A function or a class of the submission, or a method of an object of it."""

    def __init__(self, link: Link, handle: int, name: str) -> None:
        self._link = link
        self._handle = handle
        self._name = name

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Call it inside; arguments are plain values or objects of the submission."""
        named = {name: packed(value) for name, value in kwargs.items()}
        return self._link.ask(
            {"do": "call", "of": self._handle, "name": self._name, "args": [packed(arg) for arg in args], "kwargs": named}
        )

    def __repr__(self) -> str:
        return f"<`{self._name}` of the submission>"

    def __bool__(self) -> bool:
        raise AssertionError(f"`{self._name}` is a function of the submission: call it, or use `value_` for a constant")


class Remote:
    """An object that stayed inside. Its methods are called like functions; it is equal to nothing but itself, and has no truth."""

    def __init__(self, link: Link, handle: int, kind: str) -> None:
        self._link = link
        self._handle = handle
        self._kind = kind

    def __getattr__(self, name: str) -> Function:
        if name.startswith("__"):
            raise AttributeError(name)
        return Function(self._link, self._handle, name)

    def call_(self, name: str, *args: object, **kwargs: object) -> Any:
        """Call a method by its name, such as ``__eq__``."""
        return Function(self._link, self._handle, name)(*args, **kwargs)

    def value_(self, name: str) -> Any:
        """Return an attribute's value."""
        return self._link.ask({"do": "value", "of": self._handle, "name": name})

    def __len__(self) -> int:
        try:
            found = self.call_("__len__")
        except StudentError as error:
            if error.kind == "AttributeError":
                raise TypeError("it has no length") from None  # as `list` asks, which can do without
            raise
        if type(found) is not int or not 0 <= found < 1 << 62:
            raise AssertionError(f"its length is {found!r}")
        return found

    def __getitem__(self, key: object) -> Any:
        return self.call_("__getitem__", key)

    def __iter__(self) -> Iterator[Any]:
        items = self._link.ask({"do": "iterate", "of": self._handle})
        if not isinstance(items, Remote):
            raise AssertionError("it cannot be iterated over")
        while True:
            try:
                item = self._link.ask({"do": "next", "of": items._handle})
            except StudentError as error:
                if error.kind == "StopIteration":
                    return
                raise
            yield item

    def __repr__(self) -> str:
        return f"<a {self._kind[:100]!a} of the submission>"

    def __bool__(self) -> bool:
        raise AssertionError(f"it is a {self._kind[:100]!a}, no plain value")


class Student:
    """The submission as a module: ``student.median([3, 1, 2])`` calls its function `median` in the sandbox and returns the value.

    Names of its own end in an underscore, so that they hide none of the submission's.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    def __getattr__(self, name: str) -> Function:
        if name.startswith("__"):
            raise AttributeError(name)
        return Function(self._link, 0, name)

    def call_(self, name: str, *args: object, **kwargs: object) -> Any:
        """Call a function by its name."""
        return Function(self._link, 0, name)(*args, **kwargs)

    def value_(self, name: str) -> Any:
        """Return what a name of the module stands for."""
        return self._link.ask({"do": "value", "of": 0, "name": name})

    def has_(self, name: str) -> bool:
        """Whether the module has such a name."""
        return self._link.ask({"do": "has", "of": 0, "name": name}) is True

    def printed_(self) -> str:
        """Return what was printed since the last time; bytes that are not UTF-8 become U+FFFD."""
        found = self._link.ask({"do": "printed"})
        if type(found) is not bytes:
            raise AssertionError("the submission wrote an answer of its own")
        return found.decode("utf-8", "replace")

    def raises_(self, *kinds: str) -> Raises:
        """Return a context that fails unless the submission raises an exception of one of these classes, by name, in it."""
        return Raises(kinds)


def begin(channel: Channel, stdin: bytes) -> Link:
    """Have the driver load the submission, and return the link to it.

    Raises:
        StudentError: loading raised.
    """
    link = Link(channel)
    link._number = -1
    channel.write(dump_plain({"stdin": stdin}) + "\n")
    # The driver answers to a request of its own first; number 0 has been counted.
    link._number = 0
    answer = load_plain(channel.read_bytes_line())
    if (
        type(answer) is dict
        and set(answer) == {"id", "error", "message", "traceback"}
        and all(type(answer[key]) is str for key in answer if key != "id")
    ):
        raise StudentError(answer["error"][:200], answer["message"][:2000], answer["traceback"])
    if answer != {"id": 0, "value": None}:
        raise AssertionError("the submission wrote an answer of its own")
    return link
