"""The D-Bus connection against a bus that is played by the test: what is sent, in the specification's bytes, and every way in which the other side can fail."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.cgroup.dbus import Bus, Writer, make_call, parse_message, read_string
from sandbox.cgroup.systemd import BusAddress, find_buses, scope_call
from sandbox.errors import SetupError

JOB = "/org/freedesktop/systemd1/job/7"


def reply(kind: int, serial: int, *, member: str = "", error: str = "", body: bytes = b"", order: str = "<") -> bytes:
    """Marshal a message by hand, as the specification has it; the writer under test is not used."""
    fields = b""

    def text(code: int, kind: bytes, value: str) -> None:
        nonlocal fields
        fields += bytes(-len(fields) % 8) + bytes([code, 1]) + kind + b"\0"
        fields += bytes(-len(fields) % 4) + struct.pack(order + "I", len(value)) + value.encode() + b"\0"

    if member:
        text(1, b"o", "/org/freedesktop/systemd1")
        text(3, b"s", member)
    if error:
        text(4, b"s", error)
    fields += bytes(-len(fields) % 8) + bytes([5, 1]) + b"u\0" + struct.pack(order + "I", serial)
    if body:
        fields += bytes(-len(fields) % 8) + bytes([8, 1]) + b"g\0" + bytes([1]) + b"s\0"
    head = (b"l" if order == "<" else b"B") + bytes([kind, 0, 1]) + struct.pack(order + "III", len(body), 99, len(fields))
    return head + fields + bytes(-len(fields) % 8) + body


def string(value: str, order: str = "<") -> bytes:
    return struct.pack(order + "I", len(value)) + value.encode() + b"\0"


def removed(path: str, result: str, order: str = "<") -> bytes:
    body = struct.pack(order + "I", 7)
    for value in (path, "x.scope", result):
        body += bytes(-len(body) % 4) + string(value, order)
    return body


class FakeBus:
    """Listens on a socket, collects what it is sent, answers with given bytes."""

    def __init__(self, path: Path, answer: bytes | Callable[[bytes], bytes], *, pieces: int = 1 << 20) -> None:
        self.path = str(path)
        self.seen = b""
        self._answer, self._pieces = answer, pieces
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client:
            self.seen = client.recv(65536)
            answer = self._answer(self.seen) if callable(self._answer) else self._answer
            for at in range(0, len(answer), self._pieces):
                client.sendall(answer[at : at + self._pieces])
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass

    def close(self) -> None:
        self._thread.join()
        self._listener.close()


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Callable[..., tuple[str, FakeBus]]]:
    buses: list[FakeBus] = []

    def play(answer: bytes | Callable[[bytes], bytes], *, direct: bool = False, pieces: int = 1 << 20) -> tuple[str, FakeBus]:
        fake = FakeBus(tmp_path / f"bus{len(buses)}", answer, pieces=pieces)
        buses.append(fake)
        bus = Bus(fake.path, direct=direct, timeout_s=10)
        try:
            return bus.start_job(scope_call("a.scope", 4242, 3), 3), fake
        finally:
            bus.close()

    yield play
    for bus in buses:
        bus.close()


GOOD = (
    b"OK 1234\r\n" + reply(2, 1, body=string(":1.5")) + reply(4, 0, member="NameAcquired", body=string(":1.5")) + reply(2, 2)
    + reply(4, 0, member="JobRemoved", body=removed("/other/job", "failed")) + reply(2, 3, body=string(JOB))
    + reply(4, 0, member="JobRemoved", body=removed(JOB, "done"))
)  # fmt: skip


@pytest.mark.parametrize("pieces", [1 << 20, 1, 7])
def test_a_job_that_is_done(play: Callable[..., tuple[str, FakeBus]], pieces: int) -> None:
    result, fake = play(GOOD, pieces=pieces)
    assert result == "done"
    assert fake.seen.startswith(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\nBEGIN\r\nl\1\0\1")
    assert fake.seen.count(b"Hello") == 1 and b"member='JobRemoved'" in fake.seen


def test_a_job_whose_end_comes_before_the_reply(play: Callable[..., tuple[str, FakeBus]]) -> None:
    answer = b"OK 1\r\n" + reply(4, 0, member="JobRemoved", body=removed(JOB, "failed")) + reply(2, 3, body=string(JOB))
    assert play(answer)[0] == "failed"


def test_systemd_itself_is_not_greeted(play: Callable[..., tuple[str, FakeBus]]) -> None:
    answer = b"OK 1\r\n" + reply(2, 3, body=string(JOB)) + reply(4, 0, member="JobRemoved", body=removed(JOB, "done"))
    result, fake = play(answer, direct=True)
    assert result == "done" and b"Hello" not in fake.seen and b"AddMatch" not in fake.seen


def test_the_other_byte_order(play: Callable[..., tuple[str, FakeBus]]) -> None:
    answer = b"OK 1\r\n" + reply(2, 3, body=string(JOB, ">"), order=">")
    answer += reply(4, 0, member="JobRemoved", body=removed(JOB, "done", ">"), order=">")
    assert play(answer)[0] == "done"


@pytest.mark.parametrize(
    ("answer", "number", "words"),
    [
        (b"REJECTED EXTERNAL\r\n", errno.EACCES, "authenticate"),
        (b"", errno.ECONNRESET, "talk to"),
        (b"OK 1\r\n", errno.ECONNRESET, "talk to"),
        (b"x" * 5000, errno.EPROTO, "no answer to AUTH"),
        (b"OK 1\r\nHTTP/1.1 400 Bad Request\r\n", errno.EPROTO, "not a D-Bus message"),
        (b"OK 1\r\nl\2\0\1" + struct.pack("<III", 1 << 30, 1, 0), errno.EPROTO, "a D-Bus message of"),
        (b"OK 1\r\n" + reply(2, 3, body=struct.pack("<I", 500) + b"x"), errno.EPROTO, "ends within a string"),
        (b"OK 1\r\n" + reply(3, 3, error="org.x.Denied", body=string("no way")), errno.EACCES, r"it says: no way \(org.x.Denied\)"),
        (b"OK 1\r\n" + reply(3, 1, error="org.x.Full"), errno.EACCES, "org.x.Full"),
    ],
)
def test_failures_are_errors_with_their_reason(play: Callable[..., tuple[str, FakeBus]], answer: bytes, number: int, words: str) -> None:
    with pytest.raises(SetupError, match=words) as caught:
        play(answer)
    assert caught.value.errno == number


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="connect to"):
        Bus(str(tmp_path / "none"), direct=False, timeout_s=1)


def test_the_call_is_what_the_specification_says() -> None:
    """Read back by a parser of its own: header fields, then (s, s, a(sv), a(sa(sv)))."""
    data = scope_call("sandbox-1-ab.scope", 4242, 3)
    parsed = parse_message(data)
    assert parsed is not None
    message, size = parsed
    assert size == len(data) and message.member == "StartTransientUnit" and message.kind == 1
    name, at = read_string(message.body, 0, "<")
    mode, at = read_string(message.body, at, "<")
    assert (name, mode) == ("sandbox-1-ab.scope", "fail")
    at += -at % 4
    (length,) = struct.unpack_from("<I", message.body, at)
    at += 4
    at += -at % 8
    end, found = at + length, {}
    while at < end:
        at += -at % 8
        key, at = read_string(message.body, at, "<")
        kind = message.body[at + 1 : at + 1 + message.body[at]].decode()
        at += message.body[at] + 2
        if kind == "s":
            found[key], at = read_string(message.body, at, "<")
        elif kind == "b":
            at += -at % 4
            found[key], at = bool(struct.unpack_from("<I", message.body, at)[0]), at + 4  # type: ignore[assignment]
        else:
            assert kind == "au"
            at += -at % 4
            found[key], at = struct.unpack_from("<II", message.body, at), at + 8  # type: ignore[assignment]
    assert at == end
    assert found["PIDs"] == (4, 4242)  # type: ignore[comparison-overlap]
    assert found["Delegate"] is True and found["CollectMode"] == "inactive-or-failed"  # type: ignore[comparison-overlap]
    assert message.body[at : at + 4] == bytes(4), "no auxiliary units"


def test_messages_are_split_where_they_end() -> None:
    call = make_call(1, "X", destination="a.b", path="/p", interface="i.f")
    for cut in range(len(call)):
        assert parse_message(call[:cut]) is None
    assert parse_message(call + b"more") is not None
    assert make_call(1, "X", destination="a.b", path="/p", interface="i.f")[8:12] == struct.pack("=I", 1)
    writer = Writer()
    writer.string("ab")
    assert bytes(writer.data) == string("ab")


# ---- which sockets are asked -----------------------------------------------------------------------------------------


def listening(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
    return str(path)


def test_sockets_in_their_order(tmp_path: Path) -> None:
    uid = os.geteuid()
    session, bus = listening(tmp_path / "dbus-1"), listening(tmp_path / str(uid) / "bus")
    own = listening(tmp_path / str(uid) / "systemd" / "private")
    environ = {"DBUS_SESSION_BUS_ADDRESS": f"tcp:host=x;unix:path={session},guid=1;unix:abstract=/tmp/dbus%2dx"}
    assert find_buses(environ, uid, runtime=str(tmp_path)) == (
        BusAddress(path=session),
        BusAddress(path="\0/tmp/dbus-x"),
        BusAddress(path=bus),
        BusAddress(path=own, direct=True),
    )
    assert find_buses({}, uid, runtime=str(tmp_path)) == (BusAddress(path=bus), BusAddress(path=own, direct=True)), "su keeps no variables"
    moved = {"XDG_RUNTIME_DIR": str(tmp_path / str(uid))}
    assert find_buses(moved, uid, runtime="/nonexistent") == (BusAddress(path=bus), BusAddress(path=own, direct=True))


def test_what_is_somebody_elses_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listening(tmp_path / "7" / "bus")
    (tmp_path / "plain").write_text("")
    environ = {"XDG_RUNTIME_DIR": str(tmp_path / "7"), "DBUS_SESSION_BUS_ADDRESS": f"unix:path={tmp_path}/plain"}
    other = os.geteuid() + 1
    assert find_buses(environ, other, runtime=str(tmp_path)) == (), "the directory is not that user's"
    assert len(find_buses(environ, os.geteuid(), runtime=str(tmp_path))) == 1, "a plain file is no socket"
    assert (
        find_buses({"XDG_RUNTIME_DIR": "relative", "DBUS_SESSION_BUS_ADDRESS": "unix:path=%zz;garbage"}, other, runtime="/nonexistent")
        == ()
    )
