"""What a person at a shell expects of signals and terminals: they reach the payload, and the terminal comes back whole."""

from __future__ import annotations

import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import TracebackType
    from typing import Any

    from sandbox.supervise.monitor import Monitor
else:
    import _signal as signal  # `signal` makes enumerations of it

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Forwarder:
    """Context manager: signals become bytes on `fd`, which the supervisor's loop hands to `on_wake`.

    With a terminal of its own the payload also gets window sizes, and ours is raw meanwhile and restored at the end.
    """

    def __init__(self, *, interactive: bool) -> None:
        self._interactive = interactive
        self._before: dict[int, Any] = {}
        self._terminal: list[Any] | None = None
        self._master = -1
        self.fd = -1
        self._write_fd = -1

    def __enter__(self) -> Forwarder:
        self.fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in (*_FORWARDED, *((signal.SIGWINCH,) if self._interactive else ())):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
                self._before[number] = signal.signal(number, _do_nothing)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        # The terminal first: a signal that comes after the handlers are gone ends us on the spot.
        if self._terminal is not None:
            import termios

            termios.tcsetattr(0, termios.TCSAFLUSH, self._terminal)
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for fd in (self.fd, self._write_fd, self._master):
            if fd >= 0:
                os.close(fd)

    def on_wake(self, monitor: Monitor) -> None:
        """Forward what came."""
        try:
            numbers = os.read(self.fd, 64)
        except BlockingIOError:
            return
        for number in numbers:
            if number == signal.SIGWINCH:
                self._copy_window_size()
            else:
                monitor.signal(number)

    def attach_terminal(self, master: int) -> None:
        """Remember the master of the payload's terminal, for window sizes, and make ours raw."""
        import termios
        import tty

        self._master = os.dup(master)
        self._copy_window_size()
        self._terminal = termios.tcgetattr(0)
        tty.setraw(0)

    def _copy_window_size(self) -> None:
        if self._master >= 0:
            import termios

            try:
                size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
                fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
            except OSError:
                pass  # a terminal without a size is still a terminal


def _do_nothing(number: int, frame: object) -> None:
    """A handler must exist for the wake-up descriptor to be written."""
