"""What an entry says, for whoever reads one: pure, and nothing here believes a word of it."""

from __future__ import annotations

import re

from sandbox.errors import SandboxError
from sandbox.record import dataclass
from sandbox.registry.entry import MAGIC
from sandbox.registry.slot import SLOT_MAGIC

MAXIMUM_BYTES = 8192
_FIELDS = re.compile(r"^(\w+) (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an entry says of its run; `janitor` is (pid, start in clock ticks since boot), both 0 until it was started.

    A slot's entry has the slot's name in `slot`, a `turn` that no other run has there, the pids `keeper` and `server`, and `init` in place of a
    janitor. `began_ns` is CLOCK_MONOTONIC. `argv` is cut where it is long. All of it is text that the caller, or the program that it runs, chose.
    """

    run_id: str
    name: str = ""
    profile: str = ""
    pid: int = 0
    began_ns: int = 0
    janitor: tuple[int, int] = (0, 0)
    argv: tuple[str, ...] = ()
    slot: str = ""
    turn: int = 0
    keeper: int = 0
    server: int = 0
    init: tuple[int, int] = (0, 0)

    @property
    def entry(self) -> str:
        """The name of the file."""
        return self.slot or self.run_id


def is_run_id(text: str) -> bool:
    """Whether it has the form of a run's id."""
    return re.fullmatch(r"[0-9a-f]{8,16}-[0-9a-f]{8}", text) is not None


def decode_facts(data: bytes, name: str = "") -> Facts | None:
    """Return what an entry's bytes say; None where they are no entry, or a slot's that has no run now. Unknown lines are passed over: a later version
    may write more.

    Args:
        data: the file's.
        name: the file's name: the run's id, or a slot's name; empty where there is none to be compared.
    """
    head, blank, words = data[:MAXIMUM_BYTES].partition(b"\n\n")
    text = head.decode("utf-8", "surrogateescape") + "\n"
    is_slot = text.startswith(SLOT_MAGIC)
    if not blank or not (is_slot or text.startswith(MAGIC)):
        return None
    fields = dict(_FIELDS.findall(text.partition("\n")[2]))
    first = fields.get("init" if is_slot else "janitor", "").split()
    numbers = [fields.get(key, "") for key in ("pid", "began", *(("turn", "keeper", "server", "bytes") if is_slot else ()))] + first
    if not is_run_id(fields.get("run", "")) or len(first) != 2 or not all(re.fullmatch(r"[0-9]{1,20}", one) for one in numbers):
        return None
    if is_slot:
        words = words[: int(fields["bytes"])]
        if int(fields["turn"]) & 1:
            return None
    elif name and fields["run"] != name:
        return None
    argv = words.decode("utf-8", "surrogateescape").split("\0")
    process = (int(first[0]), int(first[1]))
    return Facts(
        run_id=fields["run"],
        name=fields.get("name", ""),
        profile=fields.get("profile", ""),
        pid=int(numbers[0]),
        began_ns=int(numbers[1]),
        janitor=(0, 0) if is_slot else process,
        argv=tuple(argv if argv[-1] else argv[:-1]),
        slot=name if is_slot else "",
        turn=int(fields["turn"]) if is_slot else 0,
        keeper=int(fields["keeper"]) if is_slot else 0,
        server=int(fields["server"]) if is_slot else 0,
        init=process if is_slot else (0, 0),
    )


def is_slot(data: bytes) -> bool:
    """Whether a file is the entry of a slot, with a run or without."""
    return data.startswith(SLOT_MAGIC.encode())


def check_name(name: str) -> str:
    """Return a name that a run may have.

    Raises:
        SandboxError: it is no word of letters, digits, dots, underscores and dashes, or is one that could be a run's id.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise SandboxError(
            f"`{name}` cannot be a run's name", hint="1 to 64 of the characters A-Z a-z 0-9 _ . -, the first a letter or digit"
        )
    if is_run_id(name):
        raise SandboxError(f"`{name}` cannot be a run's name: it looks like a run's id")
    return name


def parent_pid(stat: bytes) -> int:
    """Return the parent of a process from its /proc/PID/stat, likewise."""
    fields = stat.rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else 0
