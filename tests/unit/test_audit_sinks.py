"""Sinks: bounded, never raising, one line per event whatever the disk does."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.audit.events import Denial, LogFull
from sandbox.audit.sinks import FileSink, MemorySink, NullSink, Sink
from sandbox.errors import SetupError


def denial(number: int = 1) -> Denial:
    return Denial(
        time_ns=number,
        run="r",
        syscall="mount",
        number=number,
        arch="x86_64",
        args=(0, 0, 0, 0, 0, 0),
        decoded=(),
        pid=1,
        comm=b"x",
        errno="EPERM",
        rule_file="p.toml",
        rule_line=1,
        reason="r",
    )


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """A disk that is full after `limit` bytes: short writes first, then EFBIG (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_file_sink_appends_lines_to_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for number in (1, 2):
        sink = FileSink(str(path))
        sink.write(denial(number))
        sink.close()
        sink.close()
        sink.write(denial(3))
        assert (sink.report().written, sink.report().dropped) == (1, 1)
    assert [record["number"] for record in records(path)] == [1, 2]
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_file_sink_writes_each_record_by_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = FileSink(str(tmp_path / "log"))
    calls: list[bytes] = []
    real = os.write

    def spy(fd: int, data: bytes) -> int:
        calls.append(data)
        return real(fd, data)

    monkeypatch.setattr(os, "write", spy)
    sink.write(denial())
    sink.close()
    assert len(calls) == 1 and calls[0].endswith(b"\n") and calls[0].count(b"\n") == 1


def test_file_sink_stops_at_its_cap_and_says_so_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 5000 + b"\n")  # the cap counts what this sink adds
    sink = FileSink(str(path), limit_bytes=2000)
    for number in range(100):
        sink.write(denial(number))
    sink.close()
    lines = path.read_bytes().splitlines()[1:]
    report = sink.report()
    assert path.stat().st_size - 5001 == report.written_bytes <= 2000
    assert [json.loads(line)["event"] for line in lines] == ["denial"] * (len(lines) - 1) + ["log-full"]
    assert report.dropped == 100 - (len(lines) - 1) and report.lost == 0


def test_cap_has_room_for_the_longest_final_record(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = FileSink(str(path), limit_bytes=256)
    sink.write(LogFull(time_ns=2**70, run='"' * 100, limit_bytes=2**70))
    sink.close()
    assert sink.report().written_bytes <= 256
    with pytest.raises(ValueError, match="leaves no room"):
        FileSink(str(path), limit_bytes=255)


@pytest.mark.parametrize("cut", [10, 200])
def test_full_disk_is_remembered_and_the_log_stays_readable(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "log"
    sink = FileSink(str(path))
    sink.write(denial(1))
    size = path.stat().st_size
    with file_size_limit(size + cut):
        sink.write(denial(2))  # cut short
        sink.write(denial(3))  # refused
    sink.write(denial(4))
    sink.close()
    lines = path.read_bytes().splitlines()
    assert [json.loads(lines[0])["number"], json.loads(lines[-1])["number"]] == [1, 4]
    assert len(lines) == 3  # the torn record has a line of its own
    report = sink.report()
    assert (report.written, report.lost) == (2, 2)
    assert report.error in (errno.ENOSPC, errno.EFBIG)


def test_a_torn_last_line_of_an_earlier_run_is_closed_off(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"event":"den')
    sink = FileSink(str(path))
    sink.write(denial(1))
    sink.close()
    assert json.loads(path.read_bytes().splitlines()[1])["number"] == 1


def test_a_closed_descriptor_is_an_error_remembered_not_raised(tmp_path: Path) -> None:
    sink = FileSink(str(tmp_path / "log"))
    os.close(sink._fd)
    sink.write(denial())
    sink.close()
    assert (sink.report().lost, sink.report().error) == (1, errno.EBADF)


@pytest.mark.parametrize(
    ("kind", "number"), [("link", errno.ELOOP), ("fifo", errno.EINVAL), ("directory", errno.EISDIR), ("none", errno.ENOENT)]
)
def test_file_sink_refuses_what_is_not_a_file(tmp_path: Path, kind: str, number: int) -> None:
    path = tmp_path / "log"
    match kind:
        case "link":
            path.symlink_to(tmp_path / "secret")
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case _:
            path = tmp_path / "missing" / "log"
    before = os.listdir("/proc/self/fd")
    with pytest.raises(SetupError) as caught:
        FileSink(str(path))
    assert caught.value.errno == number
    assert os.listdir("/proc/self/fd") == before
    assert not (tmp_path / "secret").exists()


def test_memory_sink_is_bounded() -> None:
    sink = MemorySink(maximum=3)
    for number in range(10):
        sink.write(denial(number))
    assert [event.time_ns for event in sink.events] == [0, 1, 2]
    assert (sink.report().written, sink.report().dropped) == (3, 7)


def test_null_sink_keeps_nothing() -> None:
    sink: Sink = NullSink()
    sink.write(denial())
    sink.close()
    assert sink.report().written == 0
