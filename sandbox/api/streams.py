"""The standard streams of one run: the payload's ends, and the pumps that move what goes through them."""

from __future__ import annotations

import os
import stat

from sandbox.errors import InternalError
from sandbox.record import dataclass
from sandbox.supervise.pump import Pump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.api.sealed import SealedInput
    from sandbox.launch.idmap import HostId


@dataclass(slots=True, kw_only=True)
class Streams:
    """Where the standard streams of one run go.

    `stdin` is bytes, a descriptor (borrowed), a file to be made for the run, or None for an empty one. `stdout` and `stderr` are descriptors (borrowed)
    or None to capture.
    With `terminal` the payload has a pty of its own between the descriptors `stdin` and `stdout`; `terminal` is told its master (borrowed) before
    anything moves. `made` makes the payload's ends and the pumps of ours instead, for a run whose streams are known only later; `pipe` makes one pipe.
    """

    stdin: bytes | int | SealedInput | None = None
    stdout: int | None = None
    stderr: int | None = None
    terminal: Callable[[int], None] | None = None
    made: Callable[[], tuple[tuple[int, int, int], list[Pump]]] | None = None
    pipe: Callable[[], tuple[int, int]] | None = None


def open_children(pumps: list[Pump], streams: Streams, host_id: HostId | None) -> tuple[int, int, int]:
    """Open the streams of a run and add ours to `pumps`; return the payload's ends, for `close_children` once they are passed on."""
    children, made = _open_streams(streams)
    pumps += made
    if host_id is not None and streams.terminal is None:
        try:
            # Pipes belong to who made them; `echo >/dev/stderr` opens one anew, which only its owner may.
            for fd in children:
                give_away(fd, host_id.number)
        except BaseException:
            close_children(children, pumps)
            raise
    return children


def give_away(fd: int, number: int) -> None:
    """Make a pipe the payload's; nothing else, whatever went wrong: root would give it any file.

    Raises:
        InternalError: it is no pipe, nor a file without a name.
    """
    found = os.fstat(fd)
    if not stat.S_ISFIFO(found.st_mode) and (found.st_nlink or not stat.S_ISREG(found.st_mode)):
        raise InternalError(f"a stream of a run is descriptor {fd}, which is {os.readlink(f'/proc/self/fd/{fd}')}")
    os.fchown(fd, number, number)


def close_children(children: tuple[int, ...], pumps: list[Pump]) -> None:
    """Close the payload's ends, but for those that a pump keeps."""
    kept = {pump.writer for pump in pumps}
    for fd in children:
        if fd not in kept:
            os.close(fd)


def _open_streams(streams: Streams) -> tuple[tuple[int, int, int], list[Pump]]:
    """Make the payload's ends (for the child, to be closed after the spawn) and the pumps of ours.

    Pipes always, never the caller's own files: through /proc/self/fd a same-uid payload could reopen those for writing.
    """
    if streams.made is not None:
        return streams.made()
    if streams.terminal is not None:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        return (null, os.dup(null), os.dup(null)), []
    made: list[int] = []
    try:
        pairs = []
        given = streams.stdin
        piped = given is None or isinstance(given, (bytes, int))
        for _ in range(3 if piped else 2):
            pairs.append(os.pipe2(os.O_CLOEXEC) if streams.pipe is None else streams.pipe())
            made += pairs[-1]
        (stdout_r, stdout_w), (stderr_r, stderr_w) = pairs[-2:]
        if given is None or isinstance(given, (bytes, int)):
            stdin_r, stdin_w = pairs[0]
            made.remove(stdin_w)  # its pump's, which may close it at once: interrupted then, we would close another's
            if isinstance(given, int):
                feed = Pump(given, stdin_w, close_source=False, close_destination=True)
            else:
                feed = Pump(-1, stdin_w, data=given or b"", close_destination=True)
        else:
            stdin_r = given.open()
            made.append(stdin_r)
            feed = Pump(-1, -1)  # nothing to move
        out = _make_output(stdout_r, stdout_w, streams.stdout)
        err = _make_output(stderr_r, stderr_w, streams.stderr)
    except BaseException:
        for fd in made:
            os.close(fd)
        raise
    return (stdin_r, stdout_w, stderr_w), [feed, out, err]


def _make_output(source: int, writer: int, destination: int | None) -> Pump:
    """Return the pump of an output. Where somebody reads along, the payload's closing of it is passed on."""
    if destination is None:
        return Pump(source, -1, count=True, writer=writer)
    return Pump(source, destination, count=True)
