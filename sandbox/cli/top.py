"""``sandbox top``: the running sandboxes, live, with keys to pause, resume and end them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from sandbox.api.run_stats import RunState, RunStats
from sandbox.api.running import Running, survey
from sandbox.cli.columns import (
    Column,
    cut,
    lay_out,
    memory_share,
    of_limit,
    short_count,
    short_size,
    short_time,
    shown_command,
    shown_name,
)
from sandbox.cli.options import Option, UsageError, format_options, parse_options
from sandbox.cli.screen import EndedBySignal, Screen, can_draw
from sandbox.errors import SandboxError
from sandbox.record import dataclass

OPTIONS = (
    Option(name="once", short="1", help="print one look and end, as without a terminal"),
    Option(name="all-users", help="other users' runs, too (for root)"),
    Option(name="help", short="h", help="this text"),
)
_PERIOD_S = 1.0
_FIRST_LOOK_S = 0.25  # so that the first figures of CPU come soon
_KEYS = "q quit  p pause  r resume  k kill  c cpu  m memory  n procs  a age"
_COLUMNS = (
    Column(title="ID"),
    Column(title="NAME", rank=3),
    Column(title="PROFILE", rank=6),
    Column(title="STATE", width=8),
    Column(title="AGE", width=6, right=True, rank=2),
    Column(title="CPU%", width=5, right=True),
    Column(title="TIME", width=6, right=True, rank=5),
    Column(title="MEMORY", width=10, right=True, rank=1),
    Column(title="MEM%", right=True, rank=4),
    Column(title="PROCS", width=5, right=True, rank=7),
    Column(title="COMMAND"),
)
_REVERSE, _BOLD, _DIM, _RED, _YELLOW, _PLAIN = "\x1b[7m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[33m", "\x1b[0m"
_NEARLY_FULL = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One run in one look; `share` is processors used since the look before, 1 for one of them."""

    run: Running
    stats: RunStats
    share: float | None


Key = Callable[[Look], tuple[float, str]]
_ORDERS: dict[str, tuple[str, Key]] = {
    "c": ("cpu", lambda look: (-(look.share or 0.0), look.run.run_id)),
    "m": ("memory", lambda look: (-(look.stats.memory_bytes or 0), look.run.run_id)),
    "n": ("procs", lambda look: (-(look.stats.processes or 0), look.run.run_id)),
    "a": ("age", lambda look: (-look.stats.age_ns, look.run.run_id)),
}


def run(words: list[str]) -> int:
    """Show the runs until a key ends it."""
    options, operands = parse_options(words, OPTIONS, "top")
    if "help" in options:
        print("usage: sandbox top [OPTION...]\n\nThe running sandboxes, live.\n")
        print("\n".join(format_options(OPTIONS)))
        print(f"\n{_KEYS}\nArrows choose a run. More: sandbox-top(1).")
        return 0
    if operands:
        raise UsageError(f"`sandbox top` takes no `{operands[0]}`", hint=f"`sandbox stats --watch {operands[0]}` watches one run")
    view = View(all_users="all-users" in options)
    if "once" in options or not can_draw():
        view.look()
        time.sleep(_FIRST_LOOK_S)
        view.look()
        width = os.get_terminal_size(1).columns if os.isatty(1) else None
        print("\n".join([view.summary(), *view.table(width or None)]))
        return 0
    try:
        with Screen() as screen:
            _live(screen, view)
    except EndedBySignal as ended:
        return 0 if ended.number == signal.SIGINT else 128 + ended.number
    return 0


def _live(screen: Screen, view: View) -> None:
    view.look()
    due = time.monotonic() + _FIRST_LOOK_S
    while True:
        screen.draw(view.frame(*screen.size()))
        key = screen.wait(due)
        if not key:
            view.look()
            due = time.monotonic() + _PERIOD_S
        elif view.press(key):
            return


class View:
    """What is on the screen: the runs of the last look, which is chosen, what is asked; no terminal is needed to have one."""

    def __init__(self, *, all_users: bool) -> None:
        self._all_users = all_users
        self._looks: list[Look] = []
        self._used: dict[str, tuple[float, int]] = {}
        self._order = "c"
        self._chosen = ""
        self._at = 0
        self._first = 0
        self._page = 1
        self._asked: Running | None = None
        self._message = ""

    def look(self) -> None:
        """Ask every run again."""
        try:
            runs = survey(all_users=self._all_users).runs
        except PermissionError as error:
            raise UsageError(f"`--all-users`: {error.strerror}") from None
        now = time.monotonic()
        looks, used = [], {}
        for run, stats in runs:
            share = None
            before = self._used.get(run.run_id)
            if stats.cpu_ns is not None:
                used[run.run_id] = (now, stats.cpu_ns)
                if before is not None and now > before[0]:
                    share = max(0, stats.cpu_ns - before[1]) / 1e9 / (now - before[0])
            looks.append(Look(run=run, stats=stats, share=share))
        self._used = used
        self._looks = looks
        self._sort()

    def press(self, key: str) -> bool:
        """Act on a key; return whether to end."""
        if self._asked is not None:
            run, self._asked = self._asked, None
            self._message = "not killed"
            if key in ("y", "Y"):
                self._act("killed", run, lambda: run.kill(timeout=0))
            return False
        self._message = ""
        index = self._index()
        moves = {
            "up": index - 1, "down": index + 1, "page-up": index - self._page, "page-down": index + self._page, "home": 0, "end": len(self._looks) - 1,
        }  # fmt: skip
        if key in ("q", "Q", "escape"):
            return True
        if key in moves and self._looks:
            self._chosen = self._looks[min(max(0, moves[key]), len(self._looks) - 1)].run.run_id
        elif key in _ORDERS:
            self._order = key
            self._sort()
        elif key in ("p", "r", "k"):
            if not self._looks:
                self._message = "nothing is running"
                return False
            run = self._looks[index].run
            if key == "k":
                self._asked = run
            elif key == "p":
                self._act("paused", run, run.pause)
            else:
                self._act("resumed", run, run.resume)
        return False

    def frame(self, width: int, height: int) -> list[str]:
        """Return the lines of a screen of this size."""
        self._page = max(1, height - 4)
        index = self._index()
        self._first = max(min(self._first, index, len(self._looks) - self._page), index - self._page + 1, 0)
        header, *rows = self.table(width)
        lines = [_BOLD + cut(self.summary(), width) + _PLAIN, _REVERSE + header.ljust(width)[:width] + _PLAIN]
        for number, row in enumerate(rows[self._first : self._first + self._page], self._first):
            lines.append(self._colour(self._looks[number], number == index) + row.ljust(width)[:width] + _PLAIN)
        if not rows:
            lines.append(cut("nothing is running", width))
        lines = lines[: max(1, height - 1)]
        lines += [""] * (height - 1 - len(lines))
        return [*lines, self._foot(width)][:height]

    def table(self, width: int | None) -> list[str]:
        """Return the header and a line for each run."""
        return lay_out(_COLUMNS, [_row(look) for look in self._looks], width)

    def summary(self) -> str:
        """Return one line about all of them."""
        paused = sum(look.stats.state is RunState.PAUSED for look in self._looks)
        silent = sum(look.stats.state is RunState.UNRESPONSIVE for look in self._looks)
        special = ", ".join([f"{paused} paused"] * bool(paused) + [f"{silent} unresponsive"] * bool(silent))
        shares = [look.share for look in self._looks if look.share is not None]
        memory = [look.stats.memory_bytes for look in self._looks if look.stats.memory_bytes is not None]
        processes = [look.stats.processes for look in self._looks if look.stats.processes is not None]
        runs = f"{len(self._looks)} run{'s' * (len(self._looks) != 1)}" + (f" ({special})" if special else "")
        parts = [f"sandbox top  {runs}", f"cpu {100 * sum(shares):.0f}%", f"memory {short_size(sum(memory))}", f"procs {sum(processes)}"]
        return "  ".join([*parts, time.strftime("%H:%M:%S")])

    def _index(self) -> int:
        """Where the chosen run is; when it has ended, the one that took its place is chosen."""
        known = (index for index, look in enumerate(self._looks) if look.run.run_id == self._chosen)
        self._at = next(known, max(0, min(self._at, len(self._looks) - 1)))
        if self._looks:
            self._chosen = self._looks[self._at].run.run_id
        return self._at

    def _sort(self) -> None:
        self._looks.sort(key=_ORDERS[self._order][1])

    def _act(self, done: str, run: Running, act: Callable[[], object]) -> None:
        try:
            act()
            self._message = f"{done} {run.short_id}"
        except SandboxError as error:
            from sandbox.audit.events import escape_untrusted

            self._message = escape_untrusted(error.message, 200)
        self.look()

    def _foot(self, width: int) -> str:
        if self._asked is not None:
            return _BOLD + _RED + cut(f"kill {self._asked.short_id}, all of it? y/N  ({shown_command(self._asked)})", width) + _PLAIN
        if self._message:
            return _BOLD + cut(self._message, width) + _PLAIN
        return _DIM + cut(f"{_KEYS}  by {_ORDERS[self._order][0]}", width) + _PLAIN

    def _colour(self, look: Look, chosen: bool) -> str:
        share = memory_share(look.stats)
        colour = ""
        if not os.environ.get("NO_COLOR"):
            if look.stats.state is RunState.UNRESPONSIVE or (share is not None and share >= _NEARLY_FULL):
                colour = _RED
            elif look.stats.state is not RunState.RUNNING:
                colour = _YELLOW
        return colour + (_REVERSE if chosen else "")


def _row(look: Look) -> tuple[str, ...]:
    run, now = look.run, look.stats
    share = memory_share(now)
    return (
        run.short_id, shown_name(run.name), shown_name(run.profile), str(now.state), short_time(now.age_ns),
        "-" if look.share is None else f"{100 * look.share:.1f}", short_time(now.cpu_ns),
        of_limit(short_size(now.memory_bytes), short_size(now.memory_limit_bytes)), "-" if share is None else f"{100 * share:.0f}",
        of_limit(short_count(now.processes), short_count(now.processes_limit)), shown_command(run),
    )  # fmt: skip
