"""Kept runs for front ends and for Python: found by name, listed, shown, applied, discarded, named.

Nothing of a run's own path is here; `sandbox exec` imports it only for a run that changed something.
"""

from __future__ import annotations

import os

from sandbox.changes.keep import Opened, discard
from sandbox.changes.model import Change, Facts, Kind, Record, State, Tree, Type
from sandbox.changes.place import changes_path, open_place
from sandbox.changes.record import read_all, snapshot_runs
from sandbox.changes.snapshots import check_snapshot_name, drop_snapshot, make_snapshot
from sandbox.changes.status import Source, Standing, Status, stand
from sandbox.errors import PolicyError, SandboxError
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sandbox.changes.choose import Choices, Chosen


class ConflictError(SandboxError):
    """Changes cannot be applied as they are; nothing was touched. `conflicts` and `autorun` name them, each with the reason."""

    def __init__(self, message: str, *, origin: str, hint: str, conflicts: Sequence[tuple[str, str]], autorun: Sequence[tuple[str, str]]) -> None:
        super().__init__(message, origin=origin, hint=hint)
        self.conflicts = tuple(conflicts)
        self.autorun = tuple(autorun)


class ApplyError(SandboxError):
    """Some changes could not be made; those that were are made. `failed` names the others, each with the reason."""

    def __init__(self, message: str, *, origin: str, hint: str, failed: Sequence[tuple[str, str]]) -> None:
        super().__init__(message, origin=origin, hint=hint)
        self.failed = tuple(failed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `apply` did, or would do.

    Attributes:
        changes: those that were made, or would be, in their order.
        done: how many were as the run left them already.
        autorun: files among the changes that run by themselves, and those that were left out for it: (path, reason).
        left: what was left out: (path, reason).
        notes: other things to know, as text.
        removed: everything is applied, so the run is not kept any more.
    """

    changes: tuple[Change, ...]
    done: int
    autorun: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    removed: bool = False


class RunChanges:
    """What one run changed, kept on the disk until it is applied or discarded.

    Args:
        path: the directory of kept runs.
        record: the run's.
    """

    def __init__(self, path: str, record: Record) -> None:
        self._path = path
        self._record = record

    def __repr__(self) -> str:
        return f"<changes of run {self.run_id}: {', '.join(f'{count} {kind}' for kind, count in self.counts.items()) or 'not listed'}>"

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._record.run

    @property
    def short_id(self) -> str:
        """The part of the id that is enough wherever a run is asked for."""
        return self._record.run.rpartition("-")[2]

    @property
    def record(self) -> Record:
        """All that is recorded of the run."""
        return self._record

    @property
    def counts(self) -> dict[str, int]:
        """How many names were added, deleted, modified and replaced."""
        return dict(self._record.counts)

    def list(self) -> list[Change]:
        """Return every change, in the order of trees and paths; an interrupted run is looked at now.

        Raises:
            PolicyError: the run is not kept any more, or is still running.
        """
        with self.open() as opened:
            return list(opened.changes())

    def diff(self, path: str | None = None) -> str:
        """Return the unified differences of text files, and a line for each other change.

        Args:
            path: of one change or a directory, or a glob; None is everything.

        Raises:
            PolicyError: there is no change there.
        """
        from sandbox.changes.difference import difference

        lines: list[str] = []
        with self.open() as opened:
            for change in look_at(opened, () if path is None else (path,)):
                lines += difference(opened, change)
        return "".join(line + "\n" for line in lines)

    def apply(
        self,
        *patterns: str,
        dry_run: bool = False,
        force: bool = False,
        skip_conflicts: bool = False,
        autorun: str = "ask",
        set_id: bool = False,
        special: bool = False,
        keep: bool = False,
    ) -> Report:
        """Make the changes in the original.

        Args:
            patterns: paths or globs below the tree; none means everything.
            dry_run: look and touch nothing.
            force: the run's version wins over what the original became meanwhile.
            skip_conflicts: leave out what is in conflict.
            autorun: ``ask`` refuses where there are files that run by themselves (a git hook, `.envrc`), ``apply`` makes them too, ``skip`` does not.
            set_id: keep set-user-id and set-group-id bits.
            special: make FIFOs, too.
            keep: keep the run even when everything is applied.

        Raises:
            ConflictError: something is in conflict, or runs by itself; nothing was touched.
            ApplyError: some changes could not be made.
            PolicyError: a pattern means nothing, or the run cannot be applied.
        """
        from sandbox.changes.choose import Choices

        choices = Choices(
            patterns=patterns, force=force, skip_conflicts=skip_conflicts, autorun=autorun, set_id=set_id, special=special,
            search=os.environ.get("PATH", ""),
        )  # fmt: skip
        return _apply(self, choices, dry_run=dry_run, keep=keep)

    def discard(self) -> bool:
        """Let the changes go; return False where the files stay because a snapshot or another run needs them."""
        from sandbox.changes.takeup import tidy

        if self._record.listed:
            try:
                with self.open() as opened:
                    tidy(opened)
            except PolicyError:
                pass  # running, which `discard` says; or its original is gone, and what was left there with it
        gone = discard(self._path, self.run_id)
        _let_images_go(self._path)
        return gone

    def snapshot(self, name: str) -> None:
        """Give the run a name, which `resume=` takes; its files stay as long as the name does."""
        make_snapshot(self._path, self.run_id, name)

    def open(self) -> Opened:
        """Open it, for one `with`."""
        return Opened(self._path, self.run_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """All that is kept: runs, the oldest first, and snapshots by name."""

    runs: tuple[RunChanges, ...]
    snapshots: dict[str, str]
    path: str


def open_shelf(environ: Mapping[str, str] | None = None) -> Shelf:
    """Return what is kept.

    Raises:
        PolicyError: the directory cannot be trusted.
    """
    path = changes_path(os.environ if environ is None else environ)
    place = open_place(path, make=False)
    if place is None:
        return Shelf(runs=(), snapshots={}, path=path)
    try:
        runs = tuple(RunChanges(path, record) for record in read_all(place))
        return Shelf(runs=runs, snapshots=snapshot_runs(place), path=path)
    finally:
        os.close(place)


def kept_runs() -> list[RunChanges]:
    """Return the runs whose changes are kept, the oldest first."""
    return [run for run in open_shelf().runs if not run.record.hidden]


def find_kept(word: str, shelf: Shelf | None = None, *, hidden: bool = False) -> RunChanges:
    """Return the kept run that a word names: its id, the beginning of it or of its second part, or a snapshot.

    Args:
        word: what somebody wrote.
        shelf: of `open_shelf`.
        hidden: a run that was discarded, and is there for another's sake, counts too; by a snapshot's name it always does.

    Raises:
        PolicyError: it names none, or more than one.
    """
    shelf = shelf or open_shelf()
    known = {run.run_id: run for run in shelf.runs}
    if word in shelf.snapshots and shelf.snapshots[word] in known:
        return known[shelf.snapshots[word]]
    runs = [run for run in shelf.runs if hidden or not run.record.hidden]
    exact = [run for run in runs if word in (run.run_id, run.short_id)]
    matches = exact or [run for run in runs if word and (run.run_id.startswith(word) or run.short_id.startswith(word))]
    if len(matches) > 1:
        raise PolicyError(f"`{word}` names {len(matches)} kept runs", hint="one of " + ", ".join(run.short_id for run in matches[:8]))
    if not matches:
        from difflib import get_close_matches

        close = get_close_matches(word, [*shelf.snapshots, *(run.short_id for run in runs)], n=1)
        raise PolicyError(f"no kept run is called `{word}`", hint=f"did you mean `{close[0]}`?" if close else "`sandbox changes` lists them")
    return matches[0]


def discard_word(word: str) -> str:
    """Let a snapshot's name or a run go; return what was done, in words.

    Raises:
        PolicyError: nothing has that name, or the run is still running.
    """
    shelf = open_shelf()
    if word in shelf.snapshots:
        drop_snapshot(shelf.path, word)
        _let_images_go(shelf.path)
        return f"snapshot `{word}` is gone"
    run = find_kept(word, shelf)
    if run.discard():
        return f"run `{run.short_id}` is gone"
    needed = [name for name, named in shelf.snapshots.items() if named == run.run_id]
    why = f"snapshot `{needed[0]}` names it" if needed else "another run goes on from it"
    return f"run `{run.short_id}` is discarded; its files stay, for {why}"


def _let_images_go(path: str) -> None:
    """Take away what keeps images in the store for runs that are not kept any more."""
    from sandbox.api.keeping import PIN
    from sandbox.images.lookup import store_path
    from sandbox.images.pins import unpin_image

    try:
        pins = [name for name in os.listdir(f"{store_path(os.environ)}/pins") if name.startswith(PIN)]
    except (OSError, PolicyError):
        return
    for name in pins:
        if not os.path.lexists(os.path.join(path, name[len(PIN) :])):
            unpin_image(os.environ, name)


def look_at(opened: Opened, patterns: Sequence[str]) -> list[Change]:
    """Return the changes that paths or globs name, as `RunChanges.apply` takes them; none names everything.

    Raises:
        PolicyError: one names nothing.
    """
    from sandbox.changes.choose import find_named

    changes = list(opened.changes())
    return [changes[number] for number in sorted(find_named(changes, opened.record.trees, patterns, "look at"))]


def statuses(opened: Opened, changes: Sequence[Change]) -> Iterator[tuple[Change, Status]]:
    """Yield how each change stands to the original now; those of an image are always pending."""
    made: dict[int, set[str]] = {}
    for change in changes:
        if change.kind in (Kind.ADDED, Kind.REPLACED) and change.after is not None and change.after.type is Type.DIRECTORY:
            made.setdefault(change.tree, set()).add(change.path)
    for change in changes:
        if opened.record.trees[change.tree].image:
            yield change, Status(standing=Standing.PENDING)
            continue
        uppers, lowers = opened.layers(change.tree)
        yield change, stand(change, lowers[0], Source(uppers), opened.record.since_ns, made.get(change.tree, ()))


def shown_path(change: Change, trees: Sequence[Tree]) -> str:
    """Return a change's path as it is shown: below the tree where there is one, else whole."""
    return change.path if len(trees) == 1 else os.path.join(trees[change.tree].path, change.path)


def _apply(run: RunChanges, choices: Choices, *, dry_run: bool, keep: bool, on_change: Callable[[Change], object] | None = None) -> Report:
    from sandbox.changes.apply import apply
    from sandbox.changes.choose import choose
    from sandbox.changes.takeup import begin_apply, end_apply, tidy

    with run.open() as opened:
        trees = opened.record.trees
        kept = [] if dry_run else tidy(opened)
        chosen = choose(opened, choices)
        _refuse(run, chosen, choices, trees, dry_run=dry_run)
        report = _report(chosen, choices, trees)
        if dry_run:
            return report
        begin_apply(opened)
        applied = apply(opened, chosen, choices, on_change)
        end_apply(opened)
        failed = [(shown_path(change, trees), reason) for change, reason in applied.failed]
    if failed:
        lines = "\n".join(f"`{_line(path)}`: {reason}" for path, reason in failed[:20])
        more = f"\nand {len(failed) - 20} more" if len(failed) > 20 else ""
        raise ApplyError(
            f"apply run `{run.short_id}`: {len(failed)} of {len(chosen.todo)} changes could not be made, the others are",
            origin=lines + more,
            hint=f"`sandbox apply {run.short_id}` tries those again",
            failed=failed,
        )
    return _finish(run, chosen, report, kept, keep=keep)


def _finish(run: RunChanges, chosen: Chosen, report: Report, kept: Sequence[str], *, keep: bool) -> Report:
    from sandbox.record import replace

    notes = (*report.notes, *(f"`{path}` is of neither the run nor the original, and was left" for path in kept))
    whole = not (chosen.unchosen or report.left or (chosen.conflicts and len(chosen.todo) + chosen.done < len(chosen.named)))
    removed = whole and not keep and run.discard()
    return replace(report, notes=notes, removed=removed)


def _refuse(run: RunChanges, chosen: Chosen, choices: Choices, trees: Sequence[Tree], *, dry_run: bool) -> None:
    """Tell everything that stands in the way at once, before anything is touched."""
    conflicts = [] if choices.force or choices.skip_conflicts else [(shown_path(change, trees), why) for change, why in chosen.conflicts]
    autorun = [(shown_path(change, trees), why) for change, why in chosen.autorun] if choices.autorun == "ask" else []
    if choices.force:  # a directory that is to go and has something in it cannot be forced
        conflicts = [(shown_path(change, trees), why) for change, why in chosen.conflicts if why.endswith(" in it stays")]
        if choices.skip_conflicts:
            conflicts = []
    if dry_run or not (conflicts or autorun):
        return
    words = []
    lines = []
    hints = []
    if conflicts:
        words.append(f"{len(conflicts)} {'is' if len(conflicts) == 1 else 'are'} in conflict with the original")
        lines += [f"conflict: `{_line(path)}`: {_line(why)}" for path, why in conflicts[:50]]
        hints.append("`--skip-conflicts` leaves those out, `--force` lets the run's version win")
    if autorun:
        words.append(f"{len(autorun)} run{'s by itself' if len(autorun) == 1 else ' by themselves'}")
        lines += [f"runs by itself: `{_line(path)}`: {why}" for path, why in autorun[:50]]
        hints.append("look at them with `sandbox changes RUN --diff`; then `--autorun apply` makes them too, `--autorun skip` leaves them out")
    if len(conflicts) > 50 or len(autorun) > 50:
        lines.append("and more")
    raise ConflictError(
        f"apply run `{run.short_id}`: nothing was touched, for of its changes {' and '.join(words)}",
        origin="\n".join(lines), hint="; ".join(hints), conflicts=conflicts, autorun=autorun,
    )  # fmt: skip


def _line(text: str) -> str:
    """Return a name on one line: what comes after a line's end in it must not look like another item."""
    return text.replace("\n", "\\n")


def _report(chosen: Chosen, choices: Choices, trees: Sequence[Tree]) -> Report:
    left = [(shown_path(change, trees), why) for change, why in chosen.left]
    if choices.autorun == "skip":
        left += [(shown_path(change, trees), why) for change, why in chosen.autorun]
    todo = {(change.tree, change.path) for change, _ in chosen.todo}
    left += [(shown_path(change, trees), why) for change, why in chosen.conflicts if (change.tree, change.path) not in todo]
    notes = [f"`{shown_path(change, trees)}`: {why}" for change, why in (*chosen.outward, *chosen.linked)]
    return Report(
        changes=tuple(change for change, _ in chosen.todo),
        done=chosen.done,
        autorun=tuple((shown_path(change, trees), why) for change, why in chosen.autorun),
        left=tuple(left),
        notes=tuple(notes),
    )


__all__ = [
    "ApplyError", "Change", "ConflictError", "Facts", "Kind", "Report", "RunChanges", "Shelf", "Standing", "State", "Type", "check_snapshot_name",
    "discard_word", "find_kept", "kept_runs", "look_at", "open_shelf", "shown_path", "statuses",
]  # fmt: skip
