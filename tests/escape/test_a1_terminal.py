"""A1, the terminal: nothing typed into it, nothing changed in it.

CVE-2017-5226 (TIOCSTI), CVE-2023-28100 (TIOCLINUX), CVE-2019-7303 and CVE-2019-10063 (a 64-bit compare of a 32-bit argument). Three walls stand before
the caller's terminal: a session of the run's own, pipes for the standard streams, and the filter.
"""

from __future__ import annotations

import functools
import os

import pytest
from escape.support import Alteration, Run, drop, no_filter, open_terminal, run_payload

from sandbox.plan.steps import NewSession

no_session: Alteration = drop(NewSession)
PROFILES = ("strict", "python", "default", "build", "shell", "judge")


def attack(slave: int, *what: str, alter: tuple[Alteration, ...] = (), tty_as_stdin: bool = False, profile: str = "strict") -> Run:
    return run_payload("a1_terminal.py", *what, alter=alter, profile=profile, direct={0: slave} if tty_as_stdin else {})


@pytest.mark.parametrize("profile", PROFILES)
def test_no_character_reaches_the_callers_terminal(profile: str) -> None:
    """Rule: setsid, no tty of the caller, the filter. Removed: all three; then `x` is typed."""
    with open_terminal() as terminal:
        run = terminal.in_session(functools.partial(attack, terminal.slave, "tty", "push", profile=profile))
        assert run["done"] == "yes" and run["open-tty"] != "ok" and run["push"] != "ok"
        assert terminal.pending() == 0


def test_without_walls_characters_are_pushed() -> None:
    """The same attack with the session, the pipes and the filter taken out: by the stream and by /dev/tty."""
    with open_terminal() as terminal:
        run = terminal.in_session(
            functools.partial(attack, terminal.slave, "tty", "push", alter=(no_session, no_filter), tty_as_stdin=True)
        )
        assert (run["push-tty"], run["push"]) == ("ok", "ok")
        assert terminal.pending() == 2


@pytest.mark.parametrize(("wall", "alter"), [("session", (no_filter,)), ("filter", (no_session,))])
def test_each_wall_alone_stops_the_push(wall: str, alter: tuple[Alteration, ...]) -> None:
    """The terminal itself is standard input. The session alone, or the filter alone, is enough."""
    with open_terminal() as terminal:
        run = terminal.in_session(functools.partial(attack, terminal.slave, "tty", "push", alter=alter, tty_as_stdin=True))
        assert run["done"] == "yes" and run["push"] == {"session": "EPERM", "filter": "ENOTTY"}[wall]
        assert terminal.pending() == 0


@pytest.mark.parametrize("profile", PROFILES)
def test_upper_bits_do_not_pass_the_filter(profile: str) -> None:
    """Rule: arguments that the kernel takes as 32 bits are compared as 32 bits. Only the filter stands here; removed: the filter."""
    with open_terminal() as terminal:
        run = terminal.in_session(
            functools.partial(attack, terminal.slave, "upper", alter=(no_session,), tty_as_stdin=True, profile=profile)
        )
        assert {run["upper-1"], run["upper-31"], run["upper-all"]}.isdisjoint({"ok"})
        assert terminal.pending() == 0
        run = terminal.in_session(
            functools.partial(attack, terminal.slave, "upper", alter=(no_session, no_filter), tty_as_stdin=True, profile=profile)
        )
        assert run["upper-1"] == run["upper-31"] == run["upper-all"] == "ok"
        assert terminal.pending() == 3


@pytest.mark.parametrize(
    ("alter", "tty_as_stdin", "changed"),
    [((), False, False), ((no_filter, no_session), False, False), ((no_session,), True, False), ((no_filter,), True, True)],
    ids=["whole", "pipes alone", "filter alone", "session alone is not enough"],
)
def test_settings_of_the_terminal_stay(alter: tuple[Alteration, ...], tty_as_stdin: bool, changed: bool) -> None:
    """Rule: never pass the tty; termios are the same afterwards. A new session does not stop tcsetattr, so pipes or the filter must."""
    with open_terminal() as terminal:
        before = terminal.attributes()
        run = terminal.in_session(functools.partial(attack, terminal.slave, "settings", alter=alter, tty_as_stdin=tty_as_stdin))
        assert (run["settings"] == "ok") is changed
        assert (terminal.attributes() != before) is changed


def test_other_requests_are_denied_and_recorded() -> None:
    """Rule: TIOCLINUX (paste), TIOCSETD, TIOCSCTTY are filtered. Removed: the filter; then a line discipline is set and the terminal taken."""
    with open_terminal() as terminal:
        run = attack(terminal.slave, "other", tty_as_stdin=True)
        assert [run["paste"], run["discipline"], run["take"]] == ["ENOTTY"] * 3
        assert run.result.denials["ioctl"] == 3
        run = attack(terminal.slave, "other", tty_as_stdin=True, alter=(no_filter,))
        # A pseudo terminal has no selection to paste; on a console the request would work for root of the host only.
        assert (run["discipline"], run["take"]) == ("ok", "ok")


def test_a_terminal_run_has_a_pty_of_its_own_and_no_master() -> None:
    """Rule: the master stays with the supervisor. The payload's terminal is of the run's own devpts, and nothing it holds is a master."""
    with open_terminal() as terminal:
        run = terminal.in_session(functools.partial(run_payload, "a1_terminal.py", "name", "push", "tty", "upper", interactive=True))
        assert run["name"] == "/dev/pts/0" and "ptmx" not in run["descriptors"]
        assert run["push"] != "ok" and run["push-tty"] != "ok" and run["upper-1"] != "ok"
        assert terminal.pending() == 0
        assert int(run["instance"]) != os.fstat(terminal.slave).st_dev, "the payload's terminal is of the host's devpts"
