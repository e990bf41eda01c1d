"""`sandbox top` at a terminal: what it shows and what the keys do, and that the terminal comes back as it was whatever ends it."""

from __future__ import annotations

import os
import re
import signal
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from kernel.running import Runs, end_of
from kernel.terminal import DEADLINE_S, Terminal

import sandbox

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify, pytest.mark.orphans]

ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"


class Top:
    """`sandbox top` on a terminal of its own; `frames` keeps what a screen of that size would show."""

    def __init__(self, runs: Runs, terminals: list[Any], *words: str, rows: int = 24, columns: int = 80, **env: str) -> None:
        environment = {"SANDBOX_RUNTIME_DIR": runs.directory, "TERM": "xterm", "LANG": "C.UTF-8"} | env
        self.terminal = Terminal([*runs.cli.command, "top", *words], rows, columns, environment)
        terminals.append(self.terminal)
        self.rows = rows

    def frame(self, *patterns: str) -> list[str]:
        """Return the lines of the next frame in which every pattern is found somewhere."""
        deadline = time.monotonic() + DEADLINE_S
        lines: list[str] = []
        while time.monotonic() < deadline:
            match = self.terminal.expect(r"(?s)\x1b\[\?2026h(.*?)\x1b\[0m\x1b\[\?2026l")
            lines = re.split(r"\x1b\[[0-9]+;1H", re.sub(r"\x1b\[[0-9]*[mK]", "", match[1].decode()))[1:]
            if all(re.search(pattern, "\n".join(lines)) for pattern in patterns):
                return lines
        pytest.fail(f"no frame has {patterns}; the last is {lines}")

    def type(self, keys: str) -> None:
        """Press keys."""
        self.terminal.type(keys)

    def ended(self) -> int:
        """Wait for the end; the terminal must be as it was, and the alternate screen left."""
        code = self.terminal.wait()
        assert termios.tcgetattr(self.terminal.slave) == self.terminal.before
        assert self.terminal.seen.endswith(b"\x1b[?7h\x1b[?25h\x1b[?1049l") or LEAVE in self.terminal.seen
        return code


def test_it_shows_runs(runs: Runs, terminals: list[Any]) -> None:
    runs.start("quiet")
    runs.start("busy", "while :; do :; done")
    top = Top(runs, terminals, rows=20)
    top.terminal.expect(re.escape(ENTER.decode()))
    lines = top.frame(r"2 runs ", r"busy +running +\S+ +[1-9]")
    assert len(lines) == 20
    assert all(len(line) <= 80 for line in lines)
    assert lines[1].split()[:3] == ["ID", "NAME", "STATE"]
    assert "busy" in lines[2] and "quiet" in lines[3]  # by CPU
    assert lines[-1].startswith("q quit  p pause")
    top.type("q")
    assert top.ended() == 0


def test_keys(runs: Runs, terminals: list[Any]) -> None:
    process = runs.start("one")
    top = Top(runs, terminals, columns=100)
    top.frame(r"1 run ", r"one +strict +running")
    top.type("p")
    top.frame(r"1 run \(1 paused\)", r"one +strict +paused", r"\npaused [0-9a-f]{8}")
    assert runs.handle("one").stats().state is sandbox.RunState.PAUSED
    top.type("r")
    top.frame(r"one +strict +running", r"resumed")
    top.type("k")
    top.frame(r"kill [0-9a-f]{8}, all of it\? y/N  \(sh -c")
    top.type("n")
    top.frame("not killed")
    assert process.poll() is None
    top.type("ky")
    top.frame(r"0 runs", r"nothing is running")
    assert end_of(process)[0] == 137
    top.type("p")
    top.frame(r"\nnothing is running$")
    top.type("\x1b")
    assert top.ended() == 0


def test_choosing_and_sorting(runs: Runs, terminals: list[Any]) -> None:
    for number in range(3):
        runs.start(f"n{number}", "sleep 601 & " * number + "exec sleep 600")
    top = Top(runs, terminals, columns=120)
    top.type("n")
    lines = top.frame("by procs", "n2.*\n.*n1.*\n.*n0")
    assert [line.split()[1] for line in lines[2:5]] == ["n2", "n1", "n0"]
    top.type("a")
    top.frame("by age", "n0.*\n.*n1.*\n.*n2")
    top.type("\x1b[B\x1bOBp")  # two down, in both ways that terminals send it
    top.frame("1 paused", "n2 .*paused")
    top.type("\x1b[Hp")
    top.frame("2 paused", "n0 .*paused")
    top.type("\x1b[99~\x1b[Fr\x0c")  # a key that it does not know, End, redraw
    top.frame("1 paused", "n2 .*running")
    top.type("q")
    assert top.ended() == 0


@pytest.mark.parametrize(("rows", "columns"), [(24, 80), (10, 40), (3, 20), (1, 1), (50, 200)])
def test_every_size(runs: Runs, terminals: list[Any], rows: int, columns: int) -> None:
    runs.start("one")
    top = Top(runs, terminals, rows=rows, columns=columns)
    lines = top.frame()
    assert len(lines) <= rows
    assert all(len(line) <= columns for line in lines)
    top.type("q")
    assert top.ended() == 0


def test_it_follows_the_size(runs: Runs, terminals: list[Any]) -> None:
    runs.start("one")
    top = Top(runs, terminals)
    assert len(top.frame("one")) == 24
    top.terminal.resize(8, 50)
    top.terminal.process.send_signal(signal.SIGWINCH)
    while len(lines := top.frame("running")) != 8:
        pass
    assert all(len(line) <= 50 for line in lines)
    top.type("q")
    assert top.ended() == 0


def test_more_runs_than_lines(runs: Runs, terminals: list[Any]) -> None:
    for number in range(5):
        runs.start(f"n{number}")
    top = Top(runs, terminals, rows=6, columns=100)
    top.type("a")
    assert {line.split()[1] for line in top.frame("by age", "n0")[2:4]} == {"n0", "n1"}
    top.type("\x1b[F")
    assert {line.split()[1] for line in top.frame("n4")[2:4]} >= {"n4"}
    top.type("q")
    assert top.ended() == 0


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT"])
def test_signals_give_the_terminal_back(runs: Runs, terminals: list[Any], name: str) -> None:
    top = Top(runs, terminals)
    top.frame("0 runs")
    assert termios.tcgetattr(top.terminal.slave) != top.terminal.before
    number = getattr(signal, f"SIG{name}")
    top.terminal.process.send_signal(number)
    assert top.ended() == (0 if name == "INT" else 128 + number)


def test_the_interrupt_key(runs: Runs, terminals: list[Any]) -> None:
    top = Top(runs, terminals)
    top.frame("0 runs")
    top.type("\x03")
    assert top.ended() == 0


def test_an_error_of_ours_gives_the_terminal_back(runs: Runs, terminals: list[Any], tmp_path: Path) -> None:
    """The second look raises: the message stands on the ordinary screen."""
    program = (
        "import sandbox.cli.top as top, sandbox.cli.main as main\n"
        "look, seen = top.View.look, []\n"
        "def broken(self):\n"
        " seen.append(1)\n"
        " if len(seen) == 2: raise RuntimeError('broken look')\n"
        " look(self)\n"
        "top.View.look = broken\n"
        "raise SystemExit(main.main(['top']))\n"
    )
    environment = {"SANDBOX_RUNTIME_DIR": runs.directory, "TERM": "xterm"}
    terminal = Terminal([runs.cli.command[0], "-I", "-c", program], env=environment)
    terminals.append(terminal)
    assert terminal.wait() == 125
    assert termios.tcgetattr(terminal.slave) == terminal.before
    screen, _, after = terminal.seen.partition(LEAVE)
    assert ENTER in screen
    assert b"error: bug: RuntimeError" in after


def test_suspended_and_continued(runs: Runs, terminals: list[Any]) -> None:
    """The suspend key gives the terminal back, and `fg` takes it again."""
    words = " ".join(map(str, [*runs.cli.command, "top"]))
    terminal = Terminal(["/bin/bash", "--norc", "-i"], env={"SANDBOX_RUNTIME_DIR": runs.directory, "TERM": "xterm", "PS1": "ready> "})
    terminals.append(terminal)
    terminal.expect("ready> ")
    terminal.type(f"{words}\n")
    terminal.expect(r"\[\?1049h")
    terminal.expect("0 runs")
    terminal.type("\x1a")
    terminal.expect(r"\[\?1049l")
    terminal.expect("Stopped")
    terminal.expect("ready> ")
    assert termios.tcgetattr(terminal.slave)[3] & termios.ECHO or True
    terminal.type("echo ba''ck\n")
    terminal.expect(r"\nback\r\n|back")
    terminal.type("fg\n")
    terminal.expect(r"\[\?1049h")
    terminal.expect("0 runs")
    terminal.type("q")
    terminal.expect(r"\[\?1049l")
    terminal.type("exit 6\n")
    assert terminal.wait() == 6


def test_a_hanging_supervisor_is_shown(runs: Runs, terminals: list[Any]) -> None:
    process = runs.start("hung")
    process.send_signal(signal.SIGSTOP)
    top = Top(runs, terminals, columns=100)
    top.frame(r"1 run \(1 unresponsive\)", r"hung +strict +unresponsive")
    top.type("p")
    top.frame("does not answer")
    process.send_signal(signal.SIGCONT)
    top.frame(r"hung +strict +running")
    top.type("q")
    assert top.ended() == 0


def test_without_a_terminal_it_prints_one_look(runs: Runs) -> None:
    runs.start("one")
    for env in ({}, {"TERM": "dumb"}):
        done = runs.cli("top", env=env)
        lines = done.stdout.decode().splitlines()
        assert done.returncode == 0
        assert lines[0].startswith("sandbox top  1 run  cpu ")
        assert lines[1].split()[:4] == ["ID", "NAME", "PROFILE", "STATE"]
        assert lines[2].split()[1:4] == ["one", "strict", "running"]
        assert b"\x1b" not in done.stdout


def test_a_dumb_terminal_gets_one_look(runs: Runs, terminals: list[Any]) -> None:
    terminal = Terminal([*runs.cli.command, "top"], env={"SANDBOX_RUNTIME_DIR": runs.directory, "TERM": "dumb"})
    terminals.append(terminal)
    assert terminal.wait() == 0
    assert b"\x1b" not in terminal.seen
    assert b"0 runs" in terminal.seen


def test_no_color(runs: Runs, terminals: list[Any]) -> None:
    runs.start("one")
    runs.handle("one").pause()
    top = Top(runs, terminals, columns=100)
    top.terminal.expect(r"\x1b\[33m")
    top.type("q")
    assert top.ended() == 0
    plain = Top(runs, terminals, columns=100, NO_COLOR="1")
    plain.frame("paused")
    plain.type("q")
    assert plain.ended() == 0
    assert b"\x1b[33m" not in plain.terminal.seen


def test_waiting_costs_nothing(runs: Runs, terminals: list[Any]) -> None:
    """Between two looks it waits for a descriptor: in five frames it uses less CPU time than one busy second would take, by far."""
    top = Top(runs, terminals)
    top.frame("0 runs")
    pid = top.terminal.process.pid

    def ticks() -> int:
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))

    before = ticks()
    for _ in range(5):
        top.frame("0 runs")
    assert (ticks() - before) / os.sysconf("SC_CLK_TCK") < 1.0
    top.type("q")
    assert top.ended() == 0
