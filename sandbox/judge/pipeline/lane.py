"""One submission on its way through the cases: what was run, what is being run, what may be run ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sandbox.judge.model import CaseResult
from sandbox.judge.pipeline.workers import Board
from sandbox.judge.problem import Case


class Lane:
    """The cases of one submission; each is run at most once, whoever needs it.

    Args:
        board: whose lock guards what is here.
        order: every case, in the order of judging.
        execute: runs one; called without the lock, by any worker.
    """

    def __init__(self, board: Board, order: Sequence[Case], execute: Callable[[Case], CaseResult]) -> None:
        self._board = board
        self._order = order
        self._index = {case.name: index for index, case in enumerate(order)}
        self._execute = execute
        self._results: dict[str, CaseResult] = {}
        self._claimed: set[str] = set()
        self._ahead = len(order)  # nothing is run ahead before the first case is asked for
        self._closed = False

    def need(self, case: Case) -> CaseResult:
        """Return the result of a case, running it, or helping others while somebody else does.

        Raises:
            Stopped: the judging was called off.
        """
        board = self._board
        index = self._index[case.name]
        while True:
            with board.turn:
                self._ahead = index + 1
                self._closed = False
                while True:
                    board.check()
                    known = self._results.get(case.name)
                    if known is not None:
                        return known
                    piece: Callable[[], None] | None = None
                    if case.name not in self._claimed:
                        self._claimed.add(case.name)
                        break
                    piece = self.claim_ahead() or board.claim_ahead()
                    if piece is not None:
                        break
                    board.turn.wait()
            if piece is None:
                self._run(case)
            else:
                piece()

    def close(self) -> None:
        """Have nothing run ahead any more, and let go of what is: that it fails from now on is nobody's concern."""
        with self._board.turn:
            self._ahead = len(self._order)
            self._closed = True

    def claim_ahead(self) -> Callable[[], None] | None:
        """Claim the next case that nobody has run; the caller holds the board's lock."""
        while self._ahead < len(self._order):
            case = self._order[self._ahead]
            self._ahead += 1
            if case.name not in self._claimed:
                self._claimed.add(case.name)
                return lambda: self._run(case)
        return None

    def _run(self, case: Case) -> None:
        try:
            result = self._execute(case)
        except Exception:
            with self._board.turn:
                self._claimed.discard(case.name)
                if self._closed:
                    return
            raise
        with self._board.turn:
            self._results[case.name] = result
            self._board.turn.notify_all()


__all__ = ["Lane"]
