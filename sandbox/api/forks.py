"""Runs that are forks of a warm interpreter: one zygote in each server that needs one. Only `api.pool_python` makes a `Forks`."""

from __future__ import annotations

import os
import threading
from functools import partial

from sandbox.abi.arch import Arch
from sandbox.api.finish import explain_failure
from sandbox.api.python import token, zygote_text
from sandbox.api.requesting import build_request
from sandbox.api.served import Served
from sandbox.launch.spawn import sealed_memory
from sandbox.launch.zygote import Zygote, serving_function
from sandbox.plan.lower import lower_plan
from sandbox.plan.template import clone_flags
from sandbox.plan.zygote import FORK_FLAGS, SINGLE, build_forked_plan, build_zygote_plan, zygote_refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.api.house import House
    from sandbox.api.prepare import Prepared
    from sandbox.api.python import Python
    from sandbox.api.resident import Residents
    from sandbox.api.start import Start
    from sandbox.errors import SandboxError
    from sandbox.launch.spawn import Launched
    from sandbox.plan.build import Request
    from sandbox.plan.steps import Plan


class Forked(Served):
    """A run that is a fork of a zygote; `zygote` is set before it begins."""

    kind = "forked"
    zygote: Zygote
    release: Callable[[], None] | None = None
    """Told once that this run needs its zygote no more."""

    def _plan(self, request: Request) -> Plan:
        return build_forked_plan(request)

    def _ask(self, launched: Launched, table_fd: int, children: tuple[int, int, int], extra: tuple[int, ...]) -> None:
        self.zygote.launch(launched, table_fd, stdio=children, extra=extra, flags=FORK_FLAGS)

    def _lose(self) -> None:
        pass  # the next run starts another zygote

    def close(self) -> None:
        """See `Start.close`."""
        release, self.release = self.release, None
        if release is not None:
            release()
        super().close()


class _Warm:
    """A zygote, what it was made with, how many runs are forks of it, and whether another has taken its place."""

    __slots__ = ("made_with", "replaced", "users", "zygote")

    def __init__(self, zygote: Zygote, made_with: tuple[object, ...]) -> None:
        self.zygote, self.made_with, self.users, self.replaced = zygote, made_with, 0, False


class Forks:
    """A launcher of warm interpreters; thread-safe.

    Args:
        residents: whose servers the zygotes live in.
        python: what is forked.
    """

    def __init__(self, residents: Residents, python: Python) -> None:
        self._residents = residents
        self._python = python
        self._lock = threading.Lock()
        self._zygotes: dict[House, _Warm] = {}

    def open(self, prepared: Prepared, held: bool = False) -> Start:
        """See `Launcher.open`. What cannot be forked is started, and its notes say so."""
        refusal = zygote_refusal(build_request(prepared, outside_id=-1, cgroup=None))
        start = self._residents.open(prepared, held, None if refusal else Forked)
        if not isinstance(start, Forked):
            start.notes = (*start.notes, f"interpreter started, not forked: {refusal or 'no server with a template'}")
            return start
        try:
            warm = self._zygote(start.house, prepared)
        except BaseException:
            start.close()
            raise
        start.zygote = warm.zygote
        start.release = partial(_release, self._lock, warm)
        start.parent = start.zygote.pid
        return start

    def _zygote(self, house: House, prepared: Prepared) -> _Warm:
        # The house has the same root; what an interpreter has been started with is its variables and where it is.
        wanted = prepared.environment, prepared.root.argv0
        with self._lock:
            known = self._zygotes.get(house)
            if known is not None and known.zygote.alive and known.made_with == wanted:
                known.users += 1
                return known
            made = _Warm(self._start(house, prepared), wanted)
            made.users = 1
            self._zygotes[house] = made
            if known is not None:
                known.replaced = True
                if not known.users or not known.zygote.alive:
                    known.zygote.close()

        zygotes = self._zygotes  # not we ourselves: through a server we would keep its owner alive

        def end() -> None:
            if zygotes.get(house) is made:
                del zygotes[house]
            made.zygote.close()

        house.before_close.append(end)
        return made

    def _start(self, house: House, prepared: Prepared) -> Zygote:
        assert house.server is not None
        arch = Arch(prepared.arch)
        ours = {name for name, _ in SINGLE}
        forget = tuple(sorted(ours - {name for name, _ in prepared.environment}))

        def serving(word: bytes) -> str:
            return serving_function(arch, token=word, forget=forget)

        plan = build_zygote_plan(
            build_request(prepared, outside_id=-1, cgroup=None),
            text=zygote_text(self._python, serving),
            command=self._python.command,
            environment=tuple(pair for pair in prepared.environment if pair[0] not in ours),
        )
        table = lower_plan(plan)

        def explain(row: int, error: int) -> SandboxError:
            return explain_failure(plan, table, row, error)

        memory = sealed_memory(table)
        try:
            flags = clone_flags(template=True, recycled_network=False)
            return Zygote.start(house.server, memory, flags=flags, explain=explain, token=token())
        finally:
            os.close(memory)


def _release(lock: threading.Lock, warm: _Warm) -> None:
    with lock:
        warm.users -= 1
        over = warm.replaced and not warm.users
    if over:
        warm.zygote.close()
