"""As much of D-Bus as it takes to call one method of systemd and to hear that the job it began is done.

A connection of our own instead of a library: the shortest of them takes 12 to 27 ms to import, more than ten launches, and this is on the path of a
command's only run. Only `systemd` imports this module.
Source: D-Bus specification, Message Protocol and Authentication Protocol.
"""

from __future__ import annotations

import errno
import os
import struct
import time

from sandbox.errors import SetupError
from sandbox.record import dataclass

_CALL, _REPLY, _ERROR, _SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_LARGEST = 1 << 20  # a longer message is not for us; the protocol allows 128 MiB
_UCRED = struct.Struct("iII")


class RefusedError(SetupError):
    """The other side was reached and said no; asking elsewhere would be asking again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What came: `kind` as in the protocol, `serial` of the call that it answers, `body` and its byte order."""

    kind: int
    serial: int
    member: str
    error: str
    body: bytes
    order: str


class Writer:
    """Marshals values in this machine's byte order, each at its own alignment."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data = bytearray()

    def align(self, size: int) -> None:
        """Pad to a multiple of `size`."""
        self.data += bytes(-len(self.data) % size)

    def number(self, value: int) -> None:
        """Append a ``u`` (or a ``b``)."""
        self.align(4)
        self.data += struct.pack("=I", value)

    def string(self, text: str) -> None:
        """Append an ``s`` or an ``o``."""
        content = text.encode("utf-8")
        self.number(len(content))
        self.data += content + b"\0"

    def signature(self, text: str) -> None:
        """Append a ``g``."""
        self.data += bytes([len(text)]) + text.encode("ascii") + b"\0"

    def array(self, alignment: int, content: bytes) -> None:
        """Append an array whose elements are marshalled already, from an offset that is a multiple of eight."""
        self.number(len(content))
        self.align(alignment)
        self.data += content


def read_string(body: bytes, at: int, order: str) -> tuple[str, int]:
    """Return the string at or after `at`, and where it ends.

    Raises:
        ValueError: the body ends before it does.
    """
    at += -at % 4
    if at + 4 > len(body):
        raise ValueError("a message that ends within a string")
    (size,) = struct.unpack_from(order + "I", body, at)
    if at + 4 + size + 1 > len(body):
        raise ValueError("a message that ends within a string")
    return body[at + 4 : at + 4 + size].decode("utf-8", "replace"), at + 4 + size + 1


def make_call(serial: int, member: str, *, destination: str, path: str, interface: str, signature: str = "", body: bytes = b"") -> bytes:
    """Return a method call, ready to be sent."""
    fields = Writer()
    for code, kind, value in (
        (_PATH, "o", path), (_DESTINATION, "s", destination), (_INTERFACE, "s", interface), (_MEMBER, "s", member), (_SIGNATURE, "g", signature),
    ):  # fmt: skip
        if value:
            fields.align(8)
            fields.data.append(code)
            fields.signature(kind)
            fields.signature(value) if kind == "g" else fields.string(value)
    little = struct.pack("=H", 1) == b"\1\0"
    head = Writer()
    head.data += (b"l" if little else b"B") + bytes([_CALL, 0, 1])
    head.number(len(body))
    head.number(serial)
    head.array(8, bytes(fields.data))
    head.align(8)
    return bytes(head.data) + body


def parse_message(data: bytes) -> tuple[Message, int] | None:
    """Return the first whole message and its size, or None when more bytes are needed.

    Raises:
        ValueError: this is no D-Bus message, or a longer one than systemd sends.
    """
    if len(data) < 16:
        return None
    order = {ord("l"): "<", ord("B"): ">"}.get(data[0])
    if order is None or data[3] != 1:
        raise ValueError("not a D-Bus message")
    body_size, _, fields_size = struct.unpack_from(order + "III", data, 4)
    begin = 16 + fields_size + -fields_size % 8
    if begin + body_size > _LARGEST:
        raise ValueError(f"a D-Bus message of {begin + body_size} bytes")
    if len(data) < begin + body_size:
        return None
    texts, serial, at = {_MEMBER: "", _ERROR_NAME: ""}, 0, 16
    header = data[: 16 + fields_size]
    while at < len(header):
        at += -at % 8
        code, size = header[at], header[at + 1]
        kind = header[at + 2 : at + 2 + size]
        at += 3 + size
        if kind == b"u":
            at += -at % 4
            (value,) = struct.unpack_from(order + "I", header, at)
            serial = value if code == _REPLY_SERIAL else serial
            at += 4
        elif kind in (b"s", b"o"):
            text, at = read_string(header, at, order)
            texts[code] = text
        elif kind == b"g":
            at += header[at] + 2
        else:
            raise ValueError(f"a D-Bus header with a field of type {kind!r}")
    body = bytes(data[begin : begin + body_size])
    message = Message(kind=data[1], serial=serial, member=texts[_MEMBER], error=texts[_ERROR_NAME], body=body, order=order)
    return message, begin + body_size


class Bus:
    """One connection to a bus, or to systemd itself; `close` it.

    Args:
        address: a socket's path, or with a NUL before it an abstract name.
        direct: systemd's own socket, where there is nobody to say hello to.
        timeout_s: how long everything together may take.

    Raises:
        SetupError: nobody answers there, it is somebody else's, or it refuses us.
    """

    def __init__(self, address: str, *, direct: bool, timeout_s: float) -> None:
        import _socket

        self._where = address.replace("\0", "@", 1)
        self._deadline = time.monotonic() + timeout_s
        self._data = bytearray()
        self._removed: dict[str, str] = {}
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
        self._direct = direct
        try:
            self._socket.settimeout(timeout_s)
            self._socket.connect(address)
            _, uid, _ = _UCRED.unpack(self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _UCRED.size))
            if uid not in (os.geteuid(), 0):
                raise SetupError(f"connect to `{self._where}`", errno.EPERM, step="cgroup", hint=f"it belongs to uid {uid}")
        except OSError as error:
            self.close()
            raise self._failure("connect to", error) from None
        except SetupError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._socket.close()

    def start_job(self, call: bytes, serial: int) -> str:
        """Authenticate, send a method call that begins a job, and wait until the job is done.

        Everything goes out in one write: the answers come in order.

        Returns:
            the job's result: ``done``, or how it failed.

        Raises:
            RefusedError: the call is refused.
            SetupError: nobody answers in time, or the other side does not speak D-Bus.
        """
        hello = b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\nBEGIN\r\n"
        if not self._direct:
            rule = Writer()
            rule.string("type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'")
            for number, member, signature, body in ((1, "Hello", "", b""), (2, "AddMatch", "s", bytes(rule.data))):
                hello += make_call(
                    number, member, destination="org.freedesktop.DBus", path="/org/freedesktop/DBus", interface="org.freedesktop.DBus",
                    signature=signature, body=body,
                )  # fmt: skip
        try:
            self._socket.sendall(hello + call)
            self._authenticated()
            job = None
            while True:
                message = self._next()
                if message.kind == _ERROR and message.serial in (1, 2, serial):
                    text = read_string(message.body, 0, message.order)[0] if message.body else ""
                    raise RefusedError(
                        f"ask `{self._where}` for a scope", errno.EACCES, step="cgroup", hint=f"it says: {text} ({message.error})"
                    )
                if message.kind == _REPLY and message.serial == serial:
                    job = read_string(message.body, 0, message.order)[0]
                elif message.kind == _SIGNAL and message.member == "JobRemoved":
                    path, at = read_string(message.body, 4, message.order)
                    _, at = read_string(message.body, at, message.order)
                    self._removed[path] = read_string(message.body, at, message.order)[0]
                if job is not None and job in self._removed:
                    return self._removed[job]
        except OSError as error:
            raise self._failure("talk to", error) from None
        except (ValueError, IndexError, struct.error) as error:
            raise SetupError(f"talk to `{self._where}`", errno.EPROTO, step="cgroup", hint=str(error)) from None

    def _authenticated(self) -> None:
        while b"\r\n" not in self._data:
            if len(self._data) > 4096:
                raise ValueError("no answer to AUTH")
            self._receive()
        line, _, rest = bytes(self._data).partition(b"\r\n")
        if not line.startswith(b"OK"):
            raise SetupError(f"authenticate at `{self._where}`", errno.EACCES, step="cgroup")
        self._data = bytearray(rest)

    def _next(self) -> Message:
        while (found := parse_message(bytes(self._data))) is None:
            self._receive()
        message, size = found
        del self._data[:size]
        return message

    def _receive(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "no answer")
        self._socket.settimeout(left)
        chunk = self._socket.recv(65536)
        if not chunk:
            raise ConnectionResetError(errno.ECONNRESET, "closed")
        self._data += chunk

    def _failure(self, what: str, error: OSError) -> SetupError:
        number = error.errno or (errno.ETIMEDOUT if isinstance(error, TimeoutError) else errno.EIO)
        return SetupError(f"{what} `{self._where}`", number, step="cgroup")
