"""A zygote: an interpreter in a server's root, with modules imported, of which each run is a fork; see docs/explanation/launching.md.

To its client it is a server like any other. Inside, the loop is the reference executor's, whose text is handed over, with that of `zygote_inside`, because none
of our files are there.
May import plan, kernel, abi.
"""

from __future__ import annotations

import errno
import os

from sandbox.abi.tables import syscall_number
from sandbox.errors import ProtocolError, SandboxError, SetupError
from sandbox.launch.resident import Channel, Server, ServerGoneError, receive_record
from sandbox.launch.spawn import REFERENCE, Launched, Owned
from sandbox.plan import codec, fds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.abi.arch import Arch
    from sandbox.plan.codec import Record

READY = b"+"
FAILED = b"-"
_INSIDE = os.path.join(os.path.dirname(__file__), "zygote_inside.py")
_IMPORT_MS = 120_000
_CALLS = (
    "clone3", "wait4", "ppoll", "read", "write", "kill", "getrusage", "signalfd4", "clock_gettime", "exit_group", "setns", "unshare", "close_range", "prctl",
    "mmap", "madvise", "mincore",
)  # fmt: skip


def serving_text(arch: Arch) -> str:
    """Return Python that defines `serve_forked`: the reference executor, with the few things of ours that it imports written out."""
    numbers = {name: syscall_number(arch, name) for name in _CALLS}
    lines = ["from __future__ import annotations", "import struct"]
    lines += [f"def native_arch(): return {str(arch)!r}", f"def syscall_number(arch, name): return {numbers!r}[name]"]
    for name in ("HEADER", "ROW", "RECORD", "REQUEST", "COMMAND"):
        lines.append(f"{name} = struct.Struct({getattr(codec, name).format!r})")
    for name in ("MAGIC", "REQUEST_MAGIC", "COMMAND_MAGIC", "NO_ROW"):
        lines.append(f"{name} = {getattr(codec, name)!r}")
    for kind in (codec.Op, codec.Kind, codec.Flag, codec.Ask):
        lines += [f"class {kind.__name__}:", *(f"    {member.name} = {int(member)}" for member in kind)]
    lines += ["class fds:", *(f"    {name} = {value}" for name, value in vars(fds).items() if name.isupper() and isinstance(value, int))]
    for path in (REFERENCE, _INSIDE):
        with open(path, encoding="utf-8") as file:
            source = file.read().partition('if __name__ == "__main__":')[0]
        lines += [line for line in source.split("\n") if not line.startswith(("from sandbox.", "sys.path.insert(", "from __future__"))]
    return "\n".join(lines)


def serving_function(arch: Arch, *, token: bytes = b"", forget: tuple[str, ...] = ()) -> str:
    """Return Python that defines `serve_zygote`, to be called when all is imported: it says so on standard output, serves, and comes back in each member.

    A member has no module that the ones that were asked for have not brought, and standard input is its own.

    Args:
        arch: the machine's.
        token: what stands before a word, so that nothing printed before can be mistaken for it.
        forget: variables that only the zygote was to have.
    """
    return f"""
def serve_zygote():
    import os, sys
    known = set(sys.modules)
    names = {{"__name__": "zygote"}}
    exec(compile({serving_text(arch)!r}, "<zygote>", "exec"), names)
    unfit = names["fit_to_fork"]()
    os.write(1, {token!r} + ("-" + unfit if unfit else "+").encode())
    if unfit:
        os._exit(1)
    names["serve_forked"]()
    for name in set(sys.modules) - known:
        del sys.modules[name]
    for name in {forget!r}:
        os.environ.pop(name, None)
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    if "multiprocessing.process" in sys.modules:
        sys.modules["multiprocessing.process"].current_process().authkey = os.urandom(32)
"""


def zygote_text(arch: Arch, modules: tuple[str, ...]) -> str:
    """Return a text for ``-c`` that imports and serves; what comes after it in the text is run in each member. It leaves no name in ``__main__``."""
    return f"""{serving_function(arch)}
def _import():
    import gc, os
    for name in {modules!r}:
        try:
            __import__(name)
        except BaseException as error:
            os.write(1, b"-" + f"{{name}}: {{type(error).__name__}}: {{error}}".encode("utf-8", "replace")[:500])
            os._exit(1)
    gc.collect()
    gc.freeze()
_import()
serve_zygote()
del _import, serve_zygote
"""


class ModulesError(SandboxError):
    """A module could not be imported, or has made the interpreter unfit to be forked; `import_failure` says which and why."""

    import_failure = ""


class Zygote(Channel):
    """A running zygote; thread-safe, of use only in the process that started it. Made by `start`."""

    __slots__ = ("_channel", "_launched", "_words", "pid")

    def __init__(self) -> None:
        super().__init__()
        self.pid = 0
        """Of the interpreter, as this process sees it."""
        self._launched = Launched()
        self._channel: object = None
        self._words = -1

    @classmethod
    def start(cls, server: Server, table_fd: int, *, flags: int, explain: Callable[[int, int], SandboxError], token: bytes = b"") -> Zygote:
        """Start a zygote and wait until it serves.

        Args:
            server: with a template; it lives as long as the zygote.
            table_fd: a memory file with the table of `build_zygote_plan`; borrowed.
            flags: of `clone_flags`.
            explain: turns (row, errno) of a failure into an error.
            token: what its words begin with.

        Raises:
            SandboxError: it could not be started, or a module could not be imported; nothing is left.
        """
        zygote = cls()
        try:
            zygote._start(server, table_fd, flags, explain, token)
        except BaseException:
            zygote.close()
            raise
        return zygote

    def _start(self, server: Server, table_fd: int, flags: int, explain: Callable[[int, int], SandboxError], token: bytes) -> None:
        import _socket

        with Owned() as own:
            sender, receiver = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC, 0)
            self._sender = sender
            requests = own(receiver.detach())
            self._words, words = os.pipe2(os.O_CLOEXEC)
            own(words)
            null = own(os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC))
            server.launch(self._launched, table_fd, stdio=(requests, words, null), flags=flags)
        self._channel = _socket.socket(fileno=self._launched.descriptors.status)
        self._launched.descriptors.status = -1
        while True:
            record: Record | None = receive_record(self._channel)
            if record is None:
                raise ServerGoneError("start the zygote", errno.ECONNRESET, hint="its server was killed, or ran out of memory")
            if record.kind is codec.Kind.FAILED:
                raise explain(record.row, record.a)
            if record.kind is codec.Kind.READY:
                self.pid = record.pid
                self.pidfd = os.pidfd_open(record.pid)
                os.write(self._launched.descriptors.go, bytes([fds.WORD_GO]))
                break
        self._await_word(token)

    def _await_word(self, token: bytes) -> None:
        import select

        poll = select.poll()
        poll.register(self._words, select.POLLIN)
        words = b""
        # What a module prints goes nowhere.
        while not words.endswith(token + READY):
            if not poll.poll(_IMPORT_MS):
                raise SetupError("import modules in the zygote", errno.ETIMEDOUT)
            chunk = os.read(self._words, 4096)
            if not chunk:
                break
            words = (words + chunk)[-4096:]
        else:
            return
        _, mark, told = words.rpartition(token + FAILED)
        if not mark:
            raise ProtocolError("the zygote ended before it could serve")
        text = "".join(letter if letter.isprintable() else "?" for letter in told.decode("utf-8", "replace"))
        failure = ModulesError(f"warm interpreter: import `{text}`", hint="`modules` are imported in the sandbox, with what is installed there")
        failure.import_failure = text
        raise failure

    def close(self) -> None:
        """End it and with it all its runs; idempotent. A fork only lets go. The server reaps it."""
        self._drop()
        channel, self._channel = self._channel, None
        pidfd, self.pidfd = self.pidfd, -1
        self._launched.close()  # the end of its control pipe: its init kills it
        if pidfd >= 0:
            os.close(pidfd)
        if self._words >= 0:
            os.close(self._words)
            self._words = -1
        if channel is not None:
            if os.getpid() == self.made_by:
                while receive_record(channel) is not None:
                    pass
            channel.close()  # type: ignore[attr-defined]
