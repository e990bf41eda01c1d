"""Which changes `apply` is to make: what was named, what those need, and what stands in the way, all of it known before anything is touched.

Only this floor and `api` import it.
"""

from __future__ import annotations

import os

from sandbox.changes.autorun import hooks_of, may_be_of_bare, why_autorun
from sandbox.changes.files import look, open_directory, open_file
from sandbox.changes.model import Change, Kind, Type
from sandbox.changes.status import SET_ID, Source, Standing, Status, is_outward, stand
from sandbox.changes.takeup import is_applying, temporary_name
from sandbox.errors import PolicyError
from sandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox.changes.keep import Opened
    from sandbox.changes.model import Tree


_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the caller said.

    Attributes:
        patterns: paths or globs, below a tree or absolute; none means everything.
        force: the run's version wins over what the original became meanwhile.
        skip_conflicts: leave out what is in conflict.
        autorun: ``ask`` refuses where there are files that run by themselves, ``apply`` makes them too, ``skip`` leaves them out.
        set_id: keep set-user-id and set-group-id bits.
        special: make FIFOs, too.
        search: the caller's PATH.
    """

    patterns: tuple[str, ...] = ()
    force: bool = False
    skip_conflicts: bool = False
    autorun: str = "ask"
    set_id: bool = False
    special: bool = False
    search: str = ""


@dataclass(slots=True, kw_only=True)
class Chosen:
    """What is to be done, and what is to be said of it; each list has (change, reason).

    Attributes:
        named: all changes that were named, whatever is to become of them.
        todo: pending changes and, with `force`, those in conflict, with how they stand.
        done: how many are as the run left them already.
        conflicts: changed by somebody else as well.
        autorun: files that run by themselves.
        left: never applied unless asked, and not asked.
        outward: links that lead out of the tree.
        linked: originals with other names, which keep the old content.
        unchosen: how many were not named.
    """

    named: list[Change] = field(default_factory=list)
    todo: list[tuple[Change, Status]] = field(default_factory=list)
    done: int = 0
    conflicts: list[tuple[Change, str]] = field(default_factory=list)
    autorun: list[tuple[Change, str]] = field(default_factory=list)
    left: list[tuple[Change, str]] = field(default_factory=list)
    outward: list[tuple[Change, str]] = field(default_factory=list)
    linked: list[tuple[Change, str]] = field(default_factory=list)
    unchosen: int = 0


def choose(opened: Opened, choices: Choices) -> Chosen:
    """Choose from a run's changes.

    Raises:
        PolicyError: a pattern matches nothing, the run is of an image, its listing is not complete, or its original is another directory now.
    """
    record = opened.record
    if not record.complete:
        raise PolicyError(
            f"apply run `{record.run}`: it has more changes than are listed",
            hint=f"its files are in `trees` of the run's directory; `sandbox discard {record.run}` lets them go",
        )
    for number, tree in enumerate(record.trees):
        _check_tree(opened, number, tree, choices)
    changes = list(opened.changes())
    wanted = _select(changes, record.trees, choices.patterns)
    chosen = Chosen(unchosen=len(changes) - len(wanted))
    sources = {number: Source(opened.layers(number)[0]) for number in range(len(record.trees))}
    chosen.named = [changes[number] for number in sorted(wanted)]
    below = [{change.path for change in changes if change.tree == number and _makes_directory(change)} for number in range(len(record.trees))]
    again = is_applying(opened)
    hooks = [_find_hooks(opened.layers(number)[1][0]) for number in range(len(record.trees))]
    for change in chosen.named:
        tree = record.trees[change.tree]
        status = stand(change, opened.layers(change.tree)[1][0], sources[change.tree], record.since_ns, below[change.tree], again=again)
        if status.standing is Standing.DONE:
            chosen.done += 1
            continue
        if reason := _why_left(change, choices):
            chosen.left.append((change, reason))
            continue
        reason = why_autorun(change, tree.path, choices.search, bare=_is_in_bare(opened.layers(change.tree)[1][0], change))
        if reason or (reason := _why_hook(change, hooks[change.tree])):
            chosen.autorun.append((change, reason))
            if choices.autorun == "skip":
                continue
        if status.standing is Standing.CONFLICT:
            chosen.conflicts.append((change, status.reason))
            if choices.skip_conflicts or not choices.force:
                continue
        if is_outward(change):
            chosen.outward.append((change, f"it leads to `{change.after.target if change.after else ''}`"))
        if change.before is not None and change.before.links > 1 and change.before.type is Type.FILE and "content" in change.what:
            chosen.linked.append((change, f"{change.before.links - 1} other names of it in the original keep what they have"))
        chosen.todo.append((change, status))
    _leave_out_below(chosen)
    _find_newcomers(opened, chosen)
    return chosen


def _check_tree(opened: Opened, number: int, tree: Tree, choices: Choices) -> None:
    if tree.image:
        raise PolicyError(
            f"apply run `{opened.record.run}`: `{tree.path}` is of the image `{tree.image}`, which never changes",
            hint=f"`sandbox image commit {opened.record.run} NAME` makes a new image of it",
        )
    found = os.fstat(opened.layers(number)[1][0])
    if (found.st_dev, found.st_ino) != (tree.device, tree.inode) and not choices.force:
        raise PolicyError(
            f"apply run `{opened.record.run}`: `{tree.path}` is another directory now than the run has seen",
            hint="`--force` applies it all the same",
        )


def find_named(changes: Sequence[Change], trees: Sequence[Tree], patterns: Sequence[str], what: str) -> set[int]:
    """Return the numbers of the changes that paths or globs name; no pattern names everything.

    Args:
        changes: of a run.
        trees: its trees.
        patterns: below a tree, or absolute.
        what: what is to be done with them, for messages.

    Raises:
        PolicyError: a pattern names nothing.
    """
    if not patterns:
        return set(range(len(changes)))
    chosen: set[int] = set()
    for text in patterns:
        if not text:
            raise PolicyError(f"{what} ``: an empty path names nothing", hint="leave it out for everything; a shell's variable may be empty")
        parts = [_parse(text, tree) for tree in trees]
        found = {
            number for number, change in enumerate(changes) if (wanted := parts[change.tree]) is not None and _matches(change.path.split("/"), wanted)
        }
        if not found:
            raise PolicyError(f"{what} `{text}`: the run has no change there", hint="paths are below the tree, or absolute; `sandbox changes RUN`")
        chosen |= found
    return chosen


def _select(changes: Sequence[Change], trees: Sequence[Tree], patterns: Sequence[str]) -> set[int]:
    """Return the numbers of the changes that are named, and of those without which they cannot be made."""
    chosen = find_named(changes, trees, patterns, "apply")
    if not patterns:
        return chosen
    made = {(change.tree, change.path): number for number, change in enumerate(changes) if _makes_directory(change)}
    for number in list(chosen):
        change = changes[number]
        if change.kind is Kind.DELETED:
            continue
        path = change.path
        while "/" in path:
            path = path.rpartition("/")[0]
            if (change.tree, path) in made:
                chosen.add(made[change.tree, path])
    return chosen


def _makes_directory(change: Change) -> bool:
    return change.kind in (Kind.ADDED, Kind.REPLACED) and change.after is not None and change.after.type is Type.DIRECTORY


def _parse(text: str, tree: Tree) -> tuple[str, ...] | None:
    """Return a pattern's words below a tree, or None where it does not lie there."""
    if text.startswith("/"):
        whole = os.path.normpath(text)
        if whole == tree.path:
            return ()
        if not whole.startswith(tree.path.rstrip("/") + "/"):
            return None
        text = whole[len(tree.path.rstrip("/")) + 1 :]
    return tuple(part for part in text.split("/") if part not in ("", "."))


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a pattern means a path or a directory above it; ``**`` stands for any number of names."""
    from fnmatch import fnmatchcase

    ends = {0}
    for part in pattern:
        if part == "**":
            ends = set(range(min(ends), len(path) + 1))
        else:
            ends = {at + 1 for at in ends if at < len(path) and (path[at] == part or fnmatchcase(path[at], part))}
        if not ends:
            return False
    return True


def _why_left(change: Change, choices: Choices) -> str:
    after = change.after
    if after is None:
        return ""
    if after.type is Type.FIFO and not choices.special and change.kind is not Kind.MODIFIED:
        return "a FIFO; `--special` makes it"
    if after.type in (Type.SOCKET, Type.DEVICE) and change.kind is not Kind.MODIFIED:
        return f"a {after.type}: nobody would answer there"
    if after.mode & SET_ID and not choices.set_id and change.what == ("mode",):
        before = change.before.mode if change.before is not None else 0
        if (before | SET_ID) == (after.mode | SET_ID):
            return "a set-id bit; `--set-id` applies it"
    return ""


def _leave_out_below(chosen: Chosen) -> None:
    """What a directory of the run was to hold stays out with it."""
    todo = {(change.tree, change.path) for change, _ in chosen.todo}
    out = {(change.tree, change.path) for change, _ in chosen.conflicts if _makes_directory(change)} - todo
    if not out:
        return
    kept = []
    for change, status in chosen.todo:
        parts = change.path.split("/")
        above = next((path for size in range(1, len(parts)) if (change.tree, path := "/".join(parts[:size])) in out), "")
        if above and change.kind is not Kind.DELETED:
            chosen.conflicts.append((change, f"`{above}` is left out"))
        else:
            kept.append((change, status))
    chosen.todo = kept


def _find_hooks(root: int) -> list[str]:
    """Return where the original's repository has its hooks, if its configuration says so."""
    try:
        directory = open_directory(root, ".git")
    except OSError:
        return []
    try:
        with open(open_file(directory, "config"), "rb") as file:
            return hooks_of(file.read(_CONFIG_BYTES).decode("utf-8", "surrogateescape"))
    except OSError:
        return []
    finally:
        os.close(directory)


def _why_hook(change: Change, hooks: Sequence[str]) -> str:
    after = change.after
    if after is None or (after.type is Type.DIRECTORY):
        return ""
    for path in hooks:
        if change.path.startswith(path + "/") or (after.type is Type.SYMLINK and (path + "/").startswith(change.path + "/")):
            return "git executes it, for `core.hooksPath` says so"
    return ""


def _is_in_bare(root: int, change: Change) -> bool:
    """Whether a file lies where git would obey it in the original: a directory with a HEAD is a repository, whatever it is called."""
    directory, below = may_be_of_bare(change.path)
    if not below:
        return False
    try:
        fd = open_directory(root, directory)
    except OSError:
        return False
    try:
        return look(fd, "HEAD") is not None
    finally:
        os.close(fd)


def _find_newcomers(opened: Opened, chosen: Chosen) -> None:
    """A directory that is to go, and that has something in it which stays, cannot go; nor can the one that it is in."""
    gone = {
        (change.tree, change.path)
        for change, _ in chosen.todo
        if change.kind is Kind.DELETED or (change.kind is Kind.REPLACED and change.before is not None)
    }
    kept = []
    for change, status in reversed(chosen.todo):  # what is in a directory comes after it
        goes = change.before is not None and change.before.type is Type.DIRECTORY and change.kind in (Kind.DELETED, Kind.REPLACED)
        stays = _newcomer(opened, change, gone) if goes else ""
        if not stays:
            kept.append((change, status))
            continue
        gone.discard((change.tree, change.path))
        chosen.conflicts.append((change, f"`{stays}` in it stays"))
    chosen.todo = kept[::-1]


def _newcomer(opened: Opened, change: Change, gone: set[tuple[int, str]]) -> str:
    try:
        fd = open_directory(opened.layers(change.tree)[1][0], change.path)
    except OSError:
        return ""
    try:
        ours = temporary_name(opened.record.run)  # of an `apply` that was killed
        with os.scandir(fd) as entries:
            names = (entry.name for entry in entries if entry.name != ours)
            return next((name for name in names if (change.tree, f"{change.path}/{name}") not in gone), "")
    finally:
        os.close(fd)


__all__ = ["Choices", "Chosen", "choose", "find_named"]
