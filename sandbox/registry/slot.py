"""The entry of a slot: one file and one socket that are made once, for runs that come one after another.

Readers are told of a run only while it goes on. The file's second line is a counter that is even then; whoever has connected looks at the counter once
more, so that no request for one run ever reaches the next (see `scan.Line`), and the end of a run hangs up on everybody.
"""

from __future__ import annotations

from sandbox.registry.entry import COMMAND_BYTES, Registration, one_line

SLOT_MAGIC = "sandbox-slot 1\n"
TURN = "turn {:020d}\n"
INIT = "init {:10d} {:20d}\n"
_INIT_AT = len(SLOT_MAGIC) + len(TURN.format(0))


class SlotEntry:
    """One slot's entry.

    Args:
        directory: where entries are; taken.
        name: the slot's, in the form of a run's id; no run has it.
        keeper: the pid of the server's keeper, a child of ours.
        server: the server's pid, the keeper's child, of which each init is a child.

    Attributes:
        listener: a listening SOCK_SEQPACKET socket.

    Raises:
        OSError: it cannot be made; nothing of it is left.
    """

    def __init__(self, directory: int, name: str, *, keeper: int, server: int) -> None:
        self._parents = f"keeper {keeper}\nserver {server}\n"
        self._turn = 1
        self._entry = Registration(directory, name, (SLOT_MAGIC + TURN.format(1)).encode())
        self.listener = self._entry.listener

    def begin(self, run_id: str, *, name: str, profile: str, pid: int, began_ns: int, argv: tuple[str, ...]) -> None:
        """Tell of a run.

        Raises:
            OSError: it cannot be written; nothing is told.
        """
        words = "".join([word + "\0" for word in argv]).encode("utf-8", "surrogateescape")[:COMMAND_BYTES]
        head = (
            f"{SLOT_MAGIC}{TURN.format(self._turn)}{INIT.format(0, 0)}{self._parents}run {run_id}\nname {name}\nprofile {one_line(profile)}\n"
            f"pid {pid}\nbegan {began_ns}\nbytes {len(words)}\n\n"
        )
        self._entry.write(head.encode("utf-8", "surrogateescape") + words, 0)
        self._set_turn(self._turn + 1)

    def publish(self, init: int, started: int) -> None:
        """Add init's pid and its start in clock ticks since boot."""
        try:
            self._entry.write(INIT.format(init, started).encode(), _INIT_AT)
        except OSError:
            pass  # the run can be ended by its supervisor only

    def end(self) -> None:
        """Tell of no run any more; harmless when none was told of."""
        if not self._turn & 1:
            try:
                self._set_turn(self._turn + 1)
            except OSError:
                self._turn += 1  # a full disk does not refuse bytes that are there already; and the next run tells its own

    def _set_turn(self, turn: int) -> None:
        self._entry.write(TURN.format(turn).encode(), len(SLOT_MAGIC))
        self._turn = turn

    def forget(self) -> None:
        """See `Registration.forget`."""
        self._entry.forget()
        self.listener = -1

    def close(self) -> None:
        """Remove it and let go; idempotent."""
        self._entry.close()
        self.listener = -1


__all__ = ["INIT", "SLOT_MAGIC", "TURN", "SlotEntry"]
