"""Where `sandbox judge --output` writes: whole or not at all, and nothing is left beside it, whatever ends the judge."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from sandbox.cli import judge
from sandbox.cli.options import UsageError
from sandbox.errors import SandboxError
from tests.conftest import ROOT


@pytest.fixture(params=[False, True], ids=["nameless", "no such files here"])
def nameless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without a file system that has files without a name."""
    if request.param:
        real = os.open

        def refuse(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "no")
            return real(path, flags, mode, dir_fd=dir_fd)

        monkeypatch.setattr(os, "open", refuse)


@pytest.mark.usefixtures("nameless")
def test_a_report_is_there_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "report.xml"
    target.write_text("old")
    link = tmp_path / "link"
    link.symlink_to("report.xml")
    with judge._Output(str(link)) as output:
        assert target.read_text() == "old" and sorted(path.name for path in tmp_path.iterdir()) == ["link", "report.xml"]
        output.write("new" * 100_000)
    assert target.read_text() == "new" * 100_000 and link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "report.xml"]
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()


@pytest.mark.usefixtures("nameless")
def test_nothing_is_left_of_a_report_that_was_not_written(tmp_path: Path) -> None:
    with judge._Output(str(tmp_path / "report")):
        pass
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="No such file or directory"), judge._Output(str(tmp_path / "missing" / "x")):
        pass


def test_nothing_is_left_after_a_kill(tmp_path: Path) -> None:
    code = "import os, sys\nfrom sandbox.cli import judge\nwith judge._Output(sys.argv[1]):\n    os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "report")], timeout=120, check=False)
    assert done.returncode == -9 and list(tmp_path.iterdir()) == []


def test_an_odd_caller_leaves_the_judge_what_it_needs() -> None:
    """Rights to its own files, and descriptors as far as the hard limit goes; the bits for others stay as the caller wants them."""
    script = """
import os, resource
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))
os.umask(0o735)
from sandbox.cli.judge import _make_room
_make_room()
print(oct(os.umask(0)), resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, 1024), hard) or hard == resource.RLIM_INFINITY)
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "0o35 True\n"


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def test_a_report_that_cannot_be_printed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SandboxError, match="write the report to standard output: No space left on device"):
            judge._print("a report\n")
        monkeypatch.undo()
        with suppress(OSError):  # what is left of it in the buffer
            full.close()
