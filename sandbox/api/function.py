"""`@sandboxed`: a Python function that runs in a sandbox of its own at every call, and returns its value.

The function goes in as source text, its arguments as plain values (`plain.py`); the value comes back the same way, and is read without running
or looking up anything. What it needs besides must be importable inside: it sees no globals but modules, plain constants and functions of its
own module, which are sent along.
"""

from __future__ import annotations

import ast
import builtins
import dis
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, ParamSpec, TypeVar, overload

from sandbox.api import plain, run
from sandbox.audit.events import escape_untrusted
from sandbox.errors import SandboxError

if TYPE_CHECKING:
    import os

    from sandbox.audit.sinks import Sink
    from sandbox.policy.profile import Profile, Volume
    from sandbox.result import Result

_Arguments = ParamSpec("_Arguments")
_Returned = TypeVar("_Returned")

_SHOWN = 1000

# Runs inside. The value has a descriptor of its own: what the function prints, or a child of it, cannot be mistaken for it.
_MAIN = """
import os, sys
_channel = os.fdopen(os.dup(1), "w", encoding="ascii")
os.dup2(2, 1)
_namespace = {"__name__": "__sandboxed__"}
_given = load_plain(sys.stdin.read())
for _name in _given["modules"]:
    __import__(_given["modules"][_name])
    _namespace[_name] = sys.modules[_given["modules"][_name]]
_namespace.update(_given["constants"])
try:
    exec(compile(_given["source"], _given["file"], "exec"), _namespace)
    for _name, (_some, _named) in _given["defaults"].items():
        _namespace[_name].__defaults__, _namespace[_name].__kwdefaults__ = tuple(_some) or None, _named or None
    _answer = {"value": _namespace[_given["function"]](*_given["args"], **_given["kwargs"])}
    _text = dump_plain(_answer)
except BaseException as _error:
    import traceback
    _lines = traceback.format_exception(type(_error), _error, _error.__traceback__.tb_next if _error.__traceback__ else None)
    _text = dump_plain({"error": type(_error).__name__, "message": str(_error), "traceback": "".join(_lines)[-20000:]})
_channel.write(_text)
_channel.close()
"""


class SandboxedError(SandboxError):
    """A sandboxed function raised, was ended, or gave no value.

    `kind` is the name of the exception's class inside, empty when the run ended without an answer; `traceback` is its text, untrusted like
    everything else that comes out. `result` is the run.
    """

    def __init__(self, message: str, result: Result, *, kind: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.traceback = traceback
        self.result = result


@overload
def sandboxed(function: Callable[_Arguments, _Returned], /) -> Callable[_Arguments, _Returned]: ...
@overload
def sandboxed(
    *,
    profile: str | Profile = ...,
    policy: str | None = ...,
    volumes: Sequence[str | Volume] = ...,
    limits: Mapping[str, object] | None = ...,
    timeout: float | None = ...,
    env: Mapping[str, str] | None = ...,
    audit: str | os.PathLike[str] | Sink | None = ...,
    python: str | None = ...,
) -> Callable[[Callable[_Arguments, _Returned]], Callable[_Arguments, _Returned]]: ...
def sandboxed(
    function: Callable[..., object] | None = None,
    /,
    *,
    profile: str | Profile = "python",
    policy: str | None = None,
    volumes: Sequence[str | Volume] = (),
    limits: Mapping[str, object] | None = None,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    audit: str | os.PathLike[str] | Sink | None = None,
    python: str | None = None,
) -> object:
    """Make a function run in a sandbox at every call.

    Arguments and value are plain: None, bool, int, float, str, bytes, and lists, tuples, sets, frozensets and dicts of them. The function may use
    modules that its own module imported (they are imported again inside), plain constants and functions of its module; everything else it
    has to import itself. What it changes stays inside. Its value is data of an untrusted program.

    Args:
        function: a function written with ``def``, without a closure; methods and lambdas are refused.
        profile: as for `sandbox.run`; ``python`` lets it import installed packages.
        policy: as for `sandbox.run`.
        volumes: as for `sandbox.run`.
        limits: as for `sandbox.run`.
        timeout: wall limit of one call, in seconds.
        env: as for `sandbox.run`.
        audit: as for `sandbox.run`.
        python: the interpreter; None is the one that runs now.

    Raises:
        TypeError: when the function is decorated: it has no source, is a closure, or uses a name that cannot be sent; when it is called: an
            argument is not plain.
        SandboxedError: when it is called: it raised, passed a limit, or gave no plain value.
        SandboxError: when it is called: the sandbox failed.
    """

    def decorate(function: Callable[..., object]) -> Callable[..., object]:
        if not isinstance(function, FunctionType):
            raise TypeError("only a function written with `def` can be sandboxed")
        sent = _collect(function)

        @functools.wraps(function)
        def call(*args: object, **kwargs: object) -> object:
            given = plain.dump_plain({**sent, "args": list(args), "kwargs": kwargs})
            result = run(
                [python or sys.executable, "-B", "-c", _inside()],
                profile=profile,
                policy=policy,
                stdin=given,
                volumes=volumes,
                limits=limits,
                timeout=timeout,
                env=env,
                audit=audit,
            )
            return _read_answer(function.__qualname__, result)

        return call

    return decorate if function is None else decorate(function)


@functools.cache
def _inside() -> str:
    return inspect.getsource(plain) + _MAIN


def _read_answer(name: str, result: Result) -> object:
    if not result.ok:
        raise SandboxedError(f"sandboxed function `{name}` ended as {result.verdict}: {result.cause}", result)
    try:
        answer = plain.load_plain(result.stdout or b"")
    except ValueError as error:
        raise SandboxedError(f"sandboxed function `{name}` gave no value: {error}", result) from None
    if type(answer) is dict and set(answer) == {"value"}:
        return answer["value"]
    if type(answer) is dict and set(answer) == {"error", "message", "traceback"} and all(type(text) is str for text in answer.values()):
        kind, text = (escape_untrusted(answer[key], _SHOWN) for key in ("error", "message"))
        raise SandboxedError(f"sandboxed function `{name}` raised {kind}: {text}", result, kind=kind, traceback=answer["traceback"])
    raise SandboxedError(f"sandboxed function `{name}` gave no value: it answered something else", result)


def _collect(function: FunctionType) -> dict[str, object]:
    """Return what has to be sent: the source of a function and of those that it calls, the modules and constants that they use."""
    sources: dict[str, str] = {}
    modules: dict[str, str] = {}
    constants: dict[str, object] = {}
    defaults: dict[str, object] = {}
    pending = [function]
    while pending:
        each = pending.pop()
        if each.__name__ in sources:
            continue
        if each.__closure__:
            raise TypeError(
                f"`{each.__qualname__}` is a closure: it uses {', '.join(f'`{name}`' for name in each.__code__.co_freevars)} from around it"
            )
        sources[each.__name__] = _source(each)
        defaults[each.__name__] = [list(each.__defaults__ or ()), each.__kwdefaults__ or {}]
        try:
            plain.encode_plain(defaults[each.__name__])
        except (TypeError, ValueError) as error:
            raise TypeError(f"`{each.__qualname__}` has a default that cannot be sent into a sandbox: {error}") from None
        for name in sorted(_global_names(each.__code__)):
            if name not in each.__globals__:
                continue  # a builtin, or a name that it will miss inside as it would outside
            value = inspect.unwrap(each.__globals__[name]) if callable(each.__globals__[name]) else each.__globals__[name]
            if isinstance(value, ModuleType):
                modules[name] = value.__name__
            elif isinstance(value, FunctionType) and value.__globals__ is each.__globals__ and value.__name__ == name:
                pending.append(value)
            elif getattr(builtins, name, None) is not value:
                try:
                    plain.encode_plain(value)
                except (TypeError, ValueError):
                    raise TypeError(
                        f"`{each.__qualname__}` uses `{name}`, which cannot be sent into a sandbox: import or define it inside the function"
                    ) from None
                constants[name] = value
    file = inspect.getsourcefile(function) or "<sandboxed>"
    return {
        "source": "\n".join(sources.values()),
        "function": function.__name__,
        "modules": modules,
        "constants": constants,
        "defaults": defaults,
        "file": file.rpartition("/")[2],
    }


def _source(function: FunctionType) -> str:
    try:
        text = textwrap.dedent(inspect.getsource(function))
        (node,) = ast.parse(text).body
    except (OSError, SyntaxError, ValueError):
        raise TypeError(
            f"the source of `{function.__qualname__}` cannot be had; only a function written with `def` can be sandboxed"
        ) from None
    if isinstance(node, ast.AsyncFunctionDef) or not isinstance(node, ast.FunctionDef) or node.name != function.__name__:
        raise TypeError(f"`{function.__qualname__}` is no function written with `def`, so it cannot be sandboxed")
    node.decorator_list = []
    node.returns = None  # annotations name types that need not exist inside
    # Defaults are values of here and now, and are sent: their expressions would be evaluated inside, without the names that they use.
    node.args.defaults = [ast.Constant(None) for _ in node.args.defaults]
    node.args.kw_defaults = [each and ast.Constant(None) for each in node.args.kw_defaults]
    for argument in ast.walk(node.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return ast.unparse(node)


def _global_names(code: CodeType) -> set[str]:
    # Not `co_names`, which has the names of attributes, too.
    found = {str(instruction.argval) for instruction in dis.get_instructions(code) if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _global_names(constant)
    return found
