"""Programs that talk to each other: a graph of parties and pipes, played to its end, and who caused that.

`graph` says who takes part, `play` plays it (`relay` moves the bytes, `waits` sees who waits for whom, `clocks` whose time it is), `blame` says whose doing
the end was, and `case` makes a verdict of it for interactive problems. Names are imported when they are first used; the functions `play`
and `blame` are in the modules of their names.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.judge.interactive.blame import Blamed
    from sandbox.judge.interactive.case import Interactor, judge_interactive
    from sandbox.judge.interactive.graph import Graph, Party, PartyLimits, Pipe, pair
    from sandbox.judge.interactive.played import Ended, Ending, Played, Stuck

_HOMES = {
    "Blamed": "blame", "Interactor": "case", "judge_interactive": "case", "Graph": "graph", "Party": "graph", "PartyLimits": "graph",
    "Pipe": "graph", "pair": "graph", "Ended": "played", "Ending": "played", "Played": "played", "Stuck": "played",
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


__all__ = [
    "Blamed", "Ended", "Ending", "Graph", "Interactor", "Party", "PartyLimits", "Pipe", "Played", "Stuck", "judge_interactive", "pair",
]  # fmt: skip
