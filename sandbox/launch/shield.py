"""Cleaning up that an exception of a signal handler (KeyboardInterrupt) does not cut in two."""

from __future__ import annotations

SIGNALS = tuple(number for number in range(1, 65) if number not in (32, 33))  # the two are glibc's own

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import TracebackType
else:
    import _signal as signal  # `signal` makes enumerations of it


class Shield:
    """While it is entered all signals wait. What a handler raises at the entrance, when signals are blocked already, comes at the end.

    pthread_sigmask runs the handlers of signals that came before it, after it has changed the mask: an exception of one must neither skip what
    is shielded nor leave everything blocked.
    """

    __slots__ = ("_before", "_late")

    def __enter__(self) -> None:
        self._late: BaseException | None = None
        while True:
            try:
                self._before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
                break
            except BaseException as error:
                self._late = error
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        except BaseException as error:
            self._late = error

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)
        if self._late is not None and value is None:
            raise self._late
