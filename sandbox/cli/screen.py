"""A terminal taken over and given back: the alternate screen, single keys, signals and time as things to wait for.

Knows nothing of sandboxes. What is drawn is whole frames, so that a line that somebody else wrote to the terminal is gone a second later.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Any

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # alternate screen, no cursor, no wrapping
_BEGIN, _END = "\x1b[?2026h", "\x1b[0m\x1b[?2026l"  # shown at once, by terminals that know it
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_KEYS = {
    "[A": "up",
    "[B": "down",
    "[5~": "page-up",
    "[6~": "page-down",
    "[H": "home",
    "[F": "end",
    "[1~": "home",
    "[4~": "end",
    "OA": "up",
    "OB": "down",
}
_ESCAPE_MS = 30


class EndedBySignal(Exception):
    """A signal asks to end; `number` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Screen:
    """Context manager over the terminal on descriptors 0 and 1; whatever ends the block, the terminal is as it was before."""

    def __init__(self) -> None:
        self._saved: list[Any] = []
        self._handlers: dict[int, Any] = {}
        self._wake_r = self._wake_w = -1
        self._taken = False
        self._pending: list[str] = []

    def __enter__(self) -> Screen:
        self._saved = termios.tcgetattr(0)
        self._wake_r, self._wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in (*_ENDING, signal.SIGINT, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH):
            self._handlers[number] = signal.signal(number, _do_nothing)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        try:
            self._take()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        # The terminal first: a signal that comes after the handlers are gone ends us on the spot.
        self._give_back()
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for fd in (self._wake_r, self._wake_w):
            os.close(fd)

    def size(self) -> tuple[int, int]:
        """Return columns and lines; 80 and 24 where the terminal does not know."""
        try:
            columns, lines = os.get_terminal_size(1)
        except OSError:
            columns = lines = 0
        return columns or 80, lines or 24

    def draw(self, lines: list[str]) -> None:
        """Show a frame, which has as many lines as the screen, every line whole."""
        # Each line is cleared before it is written: after it the cursor may stand on its last character, which would go.
        text = "".join(f"\x1b[{row};1H\x1b[K{line}" for row, line in enumerate(lines, 1))
        _write(_BEGIN + text + _END)

    def wait(self, until: float) -> str:
        """Wait for a key, a new size or a moment of `time.monotonic`.

        Returns:
            the key (``q``, ``up``, ``enter``, ``escape`` …), ``resize`` when the frame is to be drawn anew, empty when the time has come.

        Raises:
            EndedBySignal: SIGTERM, SIGHUP, SIGINT or SIGQUIT came, or the terminal is gone.
        """
        while True:
            if self._pending:
                return self._pending.pop(0)
            left = until - time.monotonic()
            if left <= 0:
                return ""
            poll = select.poll()
            poll.register(0, select.POLLIN)
            poll.register(self._wake_r, select.POLLIN)
            ready = dict(poll.poll(left * 1000))
            if self._wake_r in ready and self._on_signals():
                return "resize"
            if 0 in ready:
                self._read_keys()

    def _on_signals(self) -> bool:
        """Act on what came; whether to draw anew."""
        anew = False
        for number in os.read(self._wake_r, 64):
            if number in (*_ENDING, signal.SIGINT):
                raise EndedBySignal(number)
            if number == signal.SIGTSTP:
                self._give_back()
                before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
                os.kill(0, signal.SIGTSTP)  # the whole job, as the key does
                signal.signal(signal.SIGTSTP, before)
                self._take()
            anew = True
        return anew

    def _read_keys(self) -> None:
        try:
            data = os.read(0, 256)
        except OSError:
            data = b""
        if not data:
            raise EndedBySignal(signal.SIGHUP)
        text = data.decode("utf-8", "replace")
        while text:
            if text[0] != "\x1b":
                self._pending.append({"\r": "enter", "\n": "enter", "\x0c": "resize", "\x04": "q"}.get(text[0], text[0]))
                text = text[1:]
                continue
            if len(text) == 1 and select.select([0], [], [], _ESCAPE_MS / 1000)[0]:
                text += os.read(0, 256).decode("utf-8", "replace")  # a sequence in two pieces
            for sequence, name in _KEYS.items():
                if text.startswith(sequence, 1):
                    self._pending.append(name)
                    text = text[1 + len(sequence) :]
                    break
            else:
                if len(text) > 1 and text[1] in "[O":  # a key that we do not know
                    end = next((index for index, one in enumerate(text[2:], 3) if "@" <= one <= "~"), len(text))
                    text = text[end:]
                else:
                    self._pending.append("escape")
                    text = text[1:]

    def _take(self) -> None:
        mode = termios.tcgetattr(0)
        mode[3] &= ~(termios.ICANON | termios.ECHO)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        self._taken = True
        termios.tcsetattr(0, termios.TCSADRAIN, mode)
        _write(_ENTER + "\x1b[2J")

    def _give_back(self) -> None:
        if self._taken:
            self._taken = False
            try:
                _write(_LEAVE)
                termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
            except (OSError, termios.error):
                pass  # the terminal is gone


def can_draw() -> bool:
    """Whether standard input and output are a terminal that knows the usual sequences."""
    return os.isatty(0) and os.isatty(1) and os.environ.get("TERM", "") not in ("", "dumb")


def _write(text: str) -> None:
    sys.stdout.flush()
    data = text.encode()
    while data:
        data = data[os.write(1, data) :]


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """A handler must exist for the wake-up descriptor to be written."""
