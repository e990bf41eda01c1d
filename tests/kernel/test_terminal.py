"""A person at a terminal: the run has one of its own, sizes and keys reach it, and ours comes back as it was.

The CLI runs as the session leader of a pty that this test holds; nothing here needs a real terminal.
"""

from __future__ import annotations

import os
import re
import select
import signal
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from kernel.terminal import DEADLINE_S, Terminal

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify, pytest.mark.orphans]

SHELL = ("exec", "-q", "-p", "shell", "--cwd", "no", "-e", "PS1=ready> ", "--", "sh")


@pytest.fixture
def shell(sandbox_cli: Any, terminals: list[Terminal]) -> Terminal:
    """Return an interactive shell in a sandbox that shows its prompt."""
    terminals.append(Terminal([*sandbox_cli.command, *SHELL]))
    terminals[0].expect("ready> ")
    return terminals[0]


def test_it_has_a_terminal_of_its_own(shell: Terminal) -> None:
    shell.type("tty; ls /dev/pts\n")
    shell.expect(r"/dev/pts/0\r\n")
    shell.expect(r"0  ?ptmx\r\n")
    shell.type("test -t 0 && test -t 1 && test -t 2 && echo all-three\n")
    shell.expect(r"(?<!echo )all-three\r\n")
    shell.type("stty -a </dev/tty | head -1\n")
    shell.expect(r"speed .* baud; rows 24; columns 80;")


def test_exit_code(shell: Terminal) -> None:
    shell.type("exit 7\n")
    assert shell.wait() == 7


def test_end_of_file_key(shell: Terminal) -> None:
    shell.type("\x04")
    assert shell.wait() == 0


def test_interrupt_key_stops_the_payload_and_not_us(shell: Terminal) -> None:
    for key, code in (("\x03", 130), ("\x1c", 131)):
        shell.type("sh -c 'echo go$((1 + 1)); exec sleep 600'; echo code $?\n")
        shell.expect(r"go2\r\n")
        shell.type(key)
        shell.expect(rf"code {code}\r\nready> " if code != 130 else "ready> ")  # an interrupted line is not finished by dash
        shell.type("echo still $((40 + 2))\n")
        shell.expect(r"still 42\r\nready> ")
        assert shell.process.poll() is None


def test_job_control(shell: Terminal) -> None:
    shell.type("set -m; sleep 600 & jobs; kill -KILL %1; wait %1; echo code $?\n")
    shell.expect(r"Running.*sleep 600")
    shell.expect(r"code 137\r\n")


def test_window_size_is_passed_and_follows(sandbox_cli: Any, terminals: list[Terminal]) -> None:
    script = "trap 'stty size' WINCH; stty size; while :; do sleep 0.02; done"
    terminal = Terminal([*sandbox_cli.command, *SHELL, "-c", script], rows=33, columns=111)
    terminals.append(terminal)
    terminal.expect(r"33 111\r\n")
    for rows, columns in ((50, 132), (1, 2), (24, 80)):
        terminal.resize(rows, columns)
        terminal.expect(rf"(?<!\d){rows} {columns}\r\n")


def test_our_settings_are_raw_meanwhile_and_come_back(shell: Terminal) -> None:
    during = termios.tcgetattr(shell.slave)
    assert not during[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
    shell.type("stty -echo -icanon raw; echo changed inside; exit\n")
    shell.wait()
    assert termios.tcgetattr(shell.slave) == shell.before


@pytest.mark.parametrize("name", ["TERM", "HUP"])
def test_settings_come_back_after_a_signal(shell: Terminal, name: str) -> None:
    shell.type("exec sleep 600\n")
    shell.expect(r"exec sleep 600\r\n")
    deadline = time.monotonic() + DEADLINE_S
    while shell.process.poll() is None and time.monotonic() < deadline:
        shell.process.send_signal(getattr(signal, f"SIG{name}"))  # a shell ignores SIGTERM: again, until sleep is there
        select.select([], [], [], 0.1)
    number = getattr(signal, f"SIG{name}")
    assert shell.wait() in (128 + number, -number)  # the last one may have come when all was done
    assert termios.tcgetattr(shell.slave) == shell.before


def test_settings_come_back_when_the_set_up_fails(sandbox_cli: Any, terminals: list[Terminal]) -> None:
    terminal = Terminal([*sandbox_cli.command, "exec", "-q", "-p", "strict", "--", "/tmp"])
    terminals.append(terminal)
    assert terminal.wait() in (126, 127)
    assert termios.tcgetattr(terminal.slave) == terminal.before
    assert re.search(rb"error: [^\r]*\r\n", terminal.seen), "output of ours is not staircased"


def test_settings_come_back_after_a_limit(sandbox_cli: Any, terminals: list[Terminal]) -> None:
    terminal = Terminal([*sandbox_cli.command, "exec", "-p", "strict", "-l", "wall=1", "--cwd", "no", "--", "sleep", "60"])
    terminals.append(terminal)
    assert terminal.wait() == 137
    assert termios.tcgetattr(terminal.slave) == terminal.before
    assert b"sandbox: wall-limit: " in terminal.seen


def test_terminal_that_is_hung_up_ends_the_run(shell: Terminal) -> None:
    """The window is closed: the kernel sends SIGHUP to the session leader, which is the CLI."""
    os.close(shell.master)
    shell.master = os.open("/dev/null", os.O_RDONLY)  # for `close`
    shell.process.wait(DEADLINE_S)
    assert shell.process.returncode is not None


def test_no_byte_is_pushed_back_into_our_terminal(shell: Terminal) -> None:
    """TIOCSTI on the terminal inside is refused, and ours cannot be opened (CVE-2017-5226)."""
    program = (
        "import fcntl,os,termios\\nfor p in ('/dev/tty','/dev/pts/0'):\\n"
        " try: fcntl.ioctl(os.open(p,2),termios.TIOCSTI,b'x')\\n except OSError as e: print('refused',e.errno)"
    )
    shell.type(f'printf "{program}" >/tmp/p; python3 /tmp/p\n')
    shell.expect(r"refused \d+\r\nrefused \d+\r\n")


def test_standard_output_to_a_file_means_pipes(sandbox_cli: Any, terminals: list[Terminal], tmp_path: Path) -> None:
    """Only with both ends on a terminal the run is interactive."""
    words = " ".join([*sandbox_cli.command, "exec", "-q", "-p", "strict", "--cwd", "no", "--", "sh", "-c", "'test -t 0; echo $?; tty'"])
    terminal = Terminal(["/bin/sh", "-c", f"{words} >{tmp_path}/out"])
    terminals.append(terminal)
    terminal.type("\x04")
    terminal.wait()
    assert (tmp_path / "out").read_text() == "1\nnot a tty\n"


def test_no_tty_option(sandbox_cli: Any, terminals: list[Terminal]) -> None:
    terminal = Terminal([*sandbox_cli.command, "exec", "-q", "-p", "strict", "--cwd", "no", "--no-tty", "--", "sh", "-c", "tty; exit 4"])
    terminals.append(terminal)
    assert terminal.wait() == 4
    assert b"not a tty" in terminal.seen


def test_big_output_through_the_terminal(sandbox_cli: Any, terminals: list[Terminal]) -> None:
    terminal = Terminal([*sandbox_cli.command, "exec", "-q", "-p", "strict", "--cwd", "no", "--", "seq", "20000"])
    terminals.append(terminal)
    assert terminal.wait() == 0
    assert terminal.seen.replace(b"\r", b"").split() == [str(number).encode() for number in range(1, 20001)]
