"""`@sandboxed`: the function runs inside, its value comes back, and a hostile one can only lie about its own value."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import pytest

from sandbox.api.function import SandboxedError, sandboxed

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

FACTOR = 7
THING = object()


def helper(number: int) -> int:
    """Be sent along with whoever calls it."""
    return number * FACTOR


@sandboxed
def compute(a: int, b: int = 2, *rest: int, key: object = None) -> object:
    """Return something of every kind."""
    print("noise on standard output")
    return {"sum": helper(a) + b, (1, 2): {3}, "floor": math.floor(2.7), "bytes": b"\0\xff", "rest": list(rest), "key": key}


@sandboxed(timeout=10)
def raise_inside() -> None:
    """Raise with text that would turn a terminal red."""
    raise LookupError("no \x1b[31m such\nthing")


@sandboxed
def read_secret(path: str) -> str:
    """Read a file that was not shared."""
    with open(path) as file:
        return file.read()


@sandboxed
def write_raw(data: bytes) -> None:
    """Write to the channel of the value as a hostile function would, and leave."""
    for fd in range(3, 20):
        try:
            os.write(fd, data)
        except OSError:
            continue
    os._exit(0)


@sandboxed(timeout=0.3)
def sleep_long() -> None:
    """Pass the wall limit."""
    time.sleep(60)


@sandboxed
def unplain() -> object:
    """Return what has no plain form."""
    return object()


def test_value_arguments_and_helpers() -> None:
    assert compute(3, key=[1]) == {"sum": 23, (1, 2): {3}, "floor": 2, "bytes": b"\0\xff", "rest": [], "key": [1]}
    assert compute(1, 2, 3, 4)["rest"] == [3, 4]  # type: ignore[index]
    assert compute.__name__ == "compute" and compute.__doc__ == "Return something of every kind."


def test_an_exception_inside_is_an_error_with_its_traceback() -> None:
    with pytest.raises(SandboxedError) as caught:
        raise_inside()
    error = caught.value
    assert error.kind == "LookupError" and "\x1b" not in error.message and "\n" not in error.message
    assert "raise_inside" in error.traceback and "LookupError" in error.traceback
    assert error.result.ok  # the run itself ended well


def test_it_runs_inside(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("token")
    with pytest.raises(SandboxedError) as caught:
        read_secret(str(secret))
    assert caught.value.kind == "FileNotFoundError"


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[1]", b'{"value"', b'{"value":{"$":"os.system","of":["id"]}}', b"cos\nsystem\n(S'id'\ntR.", b'{"error":1,"message":"","traceback":""}'],
)
def test_a_forged_answer_is_no_value(data: bytes) -> None:
    with pytest.raises(SandboxedError, match="gave no value"):
        write_raw(data)


def test_a_forged_value_is_only_data() -> None:
    assert write_raw(b'{"value":{"$":"tuple","of":[1]}}') == (1,)  # type: ignore[func-returns-value]


def test_limits_and_values_without_a_form() -> None:
    with pytest.raises(SandboxedError, match="wall-limit") as caught:
        sleep_long()
    assert caught.value.result.verdict == "wall-limit"
    with pytest.raises(SandboxedError) as caught:
        unplain()
    assert caught.value.kind == "TypeError"
    with pytest.raises(TypeError, match="no plain value"):
        compute(THING)  # type: ignore[arg-type]


def test_what_cannot_be_sent_is_refused_when_decorated() -> None:
    local = 3

    def closure() -> int:
        return local

    def uses_thing() -> object:
        return THING

    async def coroutine() -> None:
        pass

    for function, message in ((closure, "is a closure: it uses `local`"), (uses_thing, "uses `THING`"), (coroutine, "written with `def`")):
        with pytest.raises(TypeError, match=message):
            sandboxed(function)  # type: ignore[arg-type]
    for other in (lambda: 1, print, compute.__class__):
        with pytest.raises(TypeError, match="`def`"):
            sandboxed(other)  # type: ignore[call-overload]


_STEP = 5
_MADE = time.monotonic_ns()


@sandboxed
def with_defaults(one: int, two: int = _STEP * 2, *, three: tuple[int, int] = (_STEP, math.floor(2.5)), four: int = _MADE, five: int) -> object:
    return one, two, three, four, five


def test_defaults_are_those_of_the_definition() -> None:
    assert with_defaults(1, five=3) == (1, 10, (5, 2), _MADE, 3)
    assert with_defaults(1, 2, three=(0, 0), five=3) == (1, 2, (0, 0), _MADE, 3)
    with pytest.raises(SandboxedError, match="TypeError"):
        with_defaults(1)  # type: ignore[call-arg]

    def unsendable(one: object = THING) -> object:
        return one

    with pytest.raises(TypeError, match="a default that cannot be sent"):
        sandboxed(unsendable)
