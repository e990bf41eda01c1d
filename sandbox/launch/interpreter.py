"""The bootstrap of a warm interpreter: text that a sandbox's own Python runs as ``-c``. It waits for its program and then does what a cold start had done.

Not imported by us: `api.python` sends this file's text in. It runs under whatever Python the sandbox has (3.8 and later), already confined, and leaves no trace
that a cold run has not: it imports nothing that Python itself has not imported, binds no name in ``__main__``, and has one frame, the lowest, below the
program. What cannot be had exactly (a file that does not compile, a directory, a ``.pyc``) is executed cold, in place, with the same arguments.

The command comes as the first bytes of standard input, the rest of which is the program's; it is ours, so `marshal` may read it. Nothing that a program or a
module wrote is ever read here.
"""

import marshal
import os
import sys

TYPE_CHECKING = False  # `typing` is not imported, nor `__future__`
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FunctionType, TracebackType
    from typing import NoReturn

_LONGEST = 500


class Member:
    """One warm interpreter, from its imports to the end of its program. Used as ``with w: w.take()()`` by the last line of the text.

    Args:
        name: what this object is called in the lowest frame.
        token: what is written when it waits, so that nothing printed before can be mistaken for it.
        modules: what to import.
        fork: is called then, in a zygote, and comes back in each fork of it; None where this one takes the program.
    """

    def __init__(self, name: str, token: bytes, modules: "tuple[str, ...]", fork: "Callable[[], None] | None" = None) -> None:
        self._fork = fork
        self._name = name
        self._token = token
        self._modules = modules
        self._imported: set[str] = set()
        self._file = False
        self._cold: tuple[bytes, tuple[bytes, ...], dict[bytes, bytes] | None] = (b"", (), None)

    def __enter__(self) -> "Member":
        """Import, say that it is done, wait for a program, and make it ready."""
        searched = bool(sys.path) and sys.path[0] == ""
        if searched:
            del sys.path[0]  # what lies in the working directory is the run's, and may not be there yet
        self._import()
        fork, self._fork = self._fork, None
        if fork is not None:
            fork()
            self._gc.collect()  # of what served; all else is frozen
            self._freeze_all()
        os.write(1, self._token + b"+")
        kind, name, count, path, words, environment, files = marshal.loads(self._read(int.from_bytes(self._read(8), "little")))
        if environment is not None:
            self._set_environment(environment)
        for file, content in files:
            self._make_file(file, content)
        self._cold = (path, words, environment)
        arguments, target = [os.fsdecode(word) for word in words], os.fsdecode(name)
        shown = target if kind == "f" else "-" + kind
        self._forget_text(kind == "c")
        where = self._place(kind, target)
        if searched and where is not None:
            if self._imported and self._is_shadowed(where):
                self._execute_cold()
            sys.path.insert(0, where)
        sys.argv[:] = [shown, *arguments[len(words) - count :]]
        if hasattr(sys, "orig_argv"):
            sys.orig_argv[:] = arguments
        self._function = self._load(kind, target)
        sys.setrecursionlimit(sys.getrecursionlimit() + 1)  # for the frame that a cold run has not
        return self

    def take(self) -> "FunctionType":
        """Return the program as a function, and leave the lowest frame's variables."""
        self._boot.__dict__.clear()
        return self._function

    def __exit__(self, kind: "type[BaseException] | None", value: "BaseException | None", trace: "TracebackType | None") -> None:
        """The program is over: let Python print and end as it does, with a traceback that begins where the program does."""
        self._thaw()
        if kind is None:
            self._forget_file()
        elif not issubclass(kind, SystemExit):
            theirs = getattr(sys, "excepthook", None)

            def hook(kind: "type[BaseException]", value: "BaseException", trace: "TracebackType | None") -> None:
                self._show(theirs, kind, value, trace and trace.tb_next)

            sys.excepthook = hook

    def _show(self, theirs: object, kind: "type[BaseException]", value: "BaseException", trace: "TracebackType | None") -> None:
        """What PyErr_Print does with an exception, given the hook that is the program's. Source: CPython, Python/pythonrun.c."""
        sys.last_traceback = value.__traceback__ = trace
        if theirs is None:
            del sys.excepthook
            sys.stderr.write("sys.excepthook is missing\n")
            theirs = sys.__excepthook__
        else:
            sys.excepthook = theirs  # type: ignore[assignment]
        try:
            theirs(kind, value, trace)  # type: ignore[operator]
        except SystemExit:
            raise
        except BaseException as second:
            sys.stderr.write("Error in sys.excepthook:\n")
            sys.__excepthook__(type(second), second.with_traceback(second.__traceback__ and second.__traceback__.tb_next), None)
            sys.stderr.write("\nOriginal exception was:\n")
            sys.__excepthook__(kind, value, trace)
        self._forget_file()

    def _import(self) -> None:
        known = set(sys.modules)
        for module in self._modules:
            try:
                __import__(module)
            except BaseException as error:
                text = f"{module}: {type(error).__name__}: {error}"
                os.write(1, self._token + b"-" + text.encode("utf-8", "replace")[:_LONGEST])
                os._exit(1)
        self._imported = {name.partition(".")[0] for name in set(sys.modules) - known}
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        self._freeze()
        if "gc" not in known:
            del sys.modules["gc"]

    def _freeze(self) -> None:
        """The end of Python goes through all objects several times, longer than many a program takes; what is frozen it leaves out. See `_thaw`."""
        import gc

        self._gc = gc
        self._boot = sys.modules["__main__"]  # its variables are those of the lowest frame
        self._freeze_all()

    def _freeze_all(self) -> None:
        """Freeze what there is, and make the program's own module anew after that, or what it holds would never be finalized."""
        mains = (self._boot, sys.modules["__main__"])
        modules = [module for module in sys.modules.values() if type(module) is type(sys) and module not in mains]
        self._frozen = []
        if not self._has_finalizers():
            self._frozen += [(module.__dict__, tuple(module.__dict__.values())) for module in modules]
            kept: list[object] = [self._frozen]
            kept.append(kept)  # a cycle, which frozen is never freed: nor are the modules, one object after the other, at the end
            self._gc.freeze()
        made = type(sys)("__main__")
        made.__dict__.update((name, value) for name, value in self._boot.__dict__.items() if name != self._name)
        sys.modules["__main__"] = made

    def _has_finalizers(self) -> bool:
        """Whether an import left something that must see the end of Python, as a file that is still to be written does."""
        ours: set[int] = set()
        for stream in (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__):
            for name in ("", "buffer", "raw"):
                stream = getattr(stream, name, None) if name else stream
                ours.add(id(stream))
        kinds = {"generator", "coroutine", "async_generator"}
        return any(hasattr(type(each), "__del__") and id(each) not in ours and type(each).__name__ not in kinds for each in self._gc.get_objects())

    def _thaw(self) -> None:
        """Where the program has hung something into a module that was there before it, a cold run's end is needed."""
        if any(len(names) != len(values) or tuple(names.values()) != values for names, values in self._frozen):
            self._gc.unfreeze()

    @staticmethod
    def _make_file(name: bytes, content: bytes) -> None:
        """Make a file of the run's, as it had been there before a cold start."""
        try:
            directory = os.path.dirname(name)
            if directory:
                os.makedirs(directory, exist_ok=True)
            mode = 0o755 if content.startswith((b"#!", b"\x7fELF")) else 0o644
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            try:
                left = memoryview(content)
                while left:
                    left = left[os.write(fd, left) :]
            finally:
                os.close(fd)
        except OSError as error:
            os.write(2, f"warm interpreter: make file `{os.fsdecode(name)}`: {error.strerror}\n".encode())
            os._exit(125)

    def _place(self, kind: str, target: str) -> "str | None":
        """Return the first place where a program looks for modules."""
        if kind == "c":
            return ""
        if kind == "f":
            return os.path.dirname(os.path.realpath(target))
        try:
            return os.getcwd()
        except OSError:
            return None

    def _is_shadowed(self, where: str) -> bool:
        """Whether a cold run would have found one of the imported modules beside the program."""
        try:
            return any(name.partition(".")[0] in self._imported for name in os.listdir(where or "."))
        except OSError:
            return False

    def _load(self, kind: str, target: str) -> "FunctionType":
        if kind == "c":
            function = self._compile(target + "\n", "<string>")
            self._show_text(function.__code__, target + "\n")
            return function
        if kind == "f":
            return self._load_file(target)
        import runpy

        run: FunctionType = runpy._run_module_as_main  # type: ignore[attr-defined]
        # A copy that needs no arguments: a frame of ours between it and the lowest would show in tracebacks.
        return _function(run.__code__, run.__globals__, run.__name__, (target, True))

    def _load_file(self, target: str) -> "FunctionType":
        """Return a script, and set in ``__main__`` what belongs to it."""
        path = target
        if not os.path.isabs(target) and sys.version_info >= (3, 9):
            path = os.getcwd() + "/" + (target[2:] if target.startswith("./") else target)  # as Python joins them, which leaves `..` alone
        data = self._read_file(path)
        if data is None or path.endswith(".pyc") or data[2:4] == b"\r\n" or b"PK\5\6" in data[-65557:]:
            self._execute_cold()
        function = self._compile(data, path)
        main = sys.modules["__main__"].__dict__
        main["__loader__"] = sys.modules["_frozen_importlib_external"].SourceFileLoader("__main__", path)
        main["__file__"] = path
        main["__cached__"] = None
        self._file = True
        return function

    @staticmethod
    def _read_file(path: str) -> "bytes | None":
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            if os.fstat(fd).st_mode & 0o170000 != 0o100000:
                return None
            pieces: list[bytes] = []
            while pieces[-1:] != [b""]:
                pieces.append(os.read(fd, 1 << 20))
            return b"".join(pieces)
        except OSError:
            return None
        finally:
            os.close(fd)

    def _compile(self, source: "str | bytes", path: str) -> "FunctionType":
        held: list[str] = []
        stderr, sys.stderr = sys.stderr, _Held(held)
        try:
            code = compile(source, path, "exec", 0, True)
        except BaseException:
            self._execute_cold()  # with its warnings, and the error in the words of a cold run
        finally:
            sys.stderr = stderr
        for text in held:
            stderr.write(text)
        return _function(code, sys.modules["__main__"].__dict__, "<module>")

    def _execute_cold(self) -> "NoReturn":
        import _signal  # type: ignore[import-not-found]

        path, words, environment = self._cold
        for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # which Python ignores
            _signal.signal(number, _signal.SIG_DFL)
        try:
            os.execve(path, words, os.environb if environment is None else environment)
        except OSError as error:
            os.write(2, f"warm interpreter: {os.fsdecode(path)}: {error.strerror}\n".encode())
        os._exit(126)

    @staticmethod
    def _read(count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = os.read(0, min(1 << 20, count - len(data)))
            if not piece:
                os._exit(0)  # nobody wants it any more
            data += piece
        return data

    @staticmethod
    def _set_environment(environment: "dict[bytes, bytes]") -> None:
        known = os.environb
        for name in [name for name in known if name not in environment]:
            del known[name]
        for name, value in environment.items():
            if known.get(name) != value:
                known[name] = value

    def _forget_file(self) -> None:
        if self._file:
            for name in ("__file__", "__cached__"):
                sys.modules["__main__"].__dict__.pop(name, None)

    def _forget_text(self, needed: bool) -> None:
        """Since 3.13 Python keeps the lines of ``-c``, which are ours, for its tracebacks."""
        kept = sys.modules.get("linecache")
        if hasattr(kept, "_register_code"):
            kept.cache.pop("<string>", None)  # type: ignore[union-attr]
            getattr(kept, "_interactive_cache", {}).clear()
            if not needed and not self._modules:
                del sys.modules["linecache"]

    def _show_text(self, code: "CodeType", text: str) -> None:
        kept = sys.modules.get("linecache")
        if hasattr(kept, "_register_code"):
            kept._register_code(code if hasattr(kept, "_interactive_cache") else "<string>", text, "<string>")  # type: ignore[union-attr]


class _Held:
    """Takes what the compiler warns of, until it is known whether it will be said a second time."""

    def __init__(self, held: "list[str]") -> None:
        self.write = held.append

    def flush(self) -> None:
        """Do nothing, as a stream without a buffer."""


_function: "type[FunctionType]" = type(Member.take)  # type: ignore[assignment]
