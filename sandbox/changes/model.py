"""What a run changed, as values. Only types and their JSON live here; anybody above `kernel` may import them."""

from __future__ import annotations

from sandbox.enums import StrEnum
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SCHEMA = 1


class Kind(StrEnum):
    """What became of one name."""

    ADDED = "added"
    DELETED = "deleted"
    REPLACED = "replaced"
    MODIFIED = "modified"


class Type(StrEnum):
    """What kind of file a name is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    SOCKET = "socket"
    DEVICE = "device"


class State(StrEnum):
    """How far a kept run has come."""

    RUNNING = "running"
    ENDED = "ended"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One file, as it was found. `target` is a link's text, `links` counts a file's names; `device` to `ctime_ns` say which file it was."""

    type: Type
    mode: int
    size: int
    mtime_ns: int
    device: int
    inode: int
    ctime_ns: int
    links: int = 1
    target: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One name that is not after the run as it was before.

    Attributes:
        tree: number of the tree, of `Record.trees`.
        path: below the tree; a name that is no text has lone surrogates, as in Python.
        kind: what became of it; REPLACED means that its type is another.
        what: of a MODIFIED one: `content`, `mode`, `xattrs`, `link` (it became another name of a file), `times` (alone: only touched).
        before: the original's, at the end of the run; None where there was none.
        after: the run's; None where it is gone.
        link: another path of the tree that is the same file after the run.
    """

    tree: int
    path: str
    kind: Kind
    what: tuple[str, ...] = ()
    before: Facts | None = None
    after: Facts | None = None
    link: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A directory that a run saw copy-on-write.

    Attributes:
        path: where it was inside.
        lowers: the original's directories on the host, topmost first: one for a directory of the host, the layers of an image.
        device: of the original directory, with `inode`: which one it was; 0 for layers, which never change.
        image: the image whose layers these are, or empty.
    """

    path: str
    lowers: tuple[str, ...]
    device: int = 0
    inode: int = 0
    image: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A kept run.

    Attributes:
        run: its id.
        argv: its command.
        state: as the file has it; a RUNNING one that nobody holds was interrupted.
        since_ns: when the first run of its chain began: what became of the original after it, the run has not seen. Nanoseconds of the clock of files.
        began_ns: when it began, likewise.
        trees: what it saw copy-on-write.
        chain: the runs that it goes on from, the last first.
        hidden: discarded by its owner, and there only because another run goes on from it.
        counts: how many changes of each kind, and how many are listed in all.
        bytes: what its files take on the disk.
        complete: all changes are listed; they are not when there are more than `compare.MAXIMUM_CHANGES`.
        exit_code: what the run ended with; None while it runs, and where nobody saw the end.
    """

    run: str
    argv: tuple[str, ...]
    state: State
    since_ns: int
    began_ns: int
    trees: tuple[Tree, ...]
    chain: tuple[str, ...] = ()
    hidden: bool = False
    counts: tuple[tuple[str, int], ...] = ()
    bytes: int = 0
    complete: bool = True
    listed: bool = False
    exit_code: int | None = None

    @property
    def total(self) -> int:
        """How many changes there are."""
        return sum(count for _, count in self.counts)


def record_to_json(record: Record) -> dict[str, Any]:
    """Return plain JSON types."""
    return {
        "schema": SCHEMA,
        "run": record.run,
        "argv": list(record.argv),
        "state": str(record.state),
        "since_ns": record.since_ns,
        "began_ns": record.began_ns,
        "trees": [
            {"path": t.path, "lowers": list(t.lowers), "device": t.device, "inode": t.inode, "image": t.image} for t in record.trees
        ],
        "chain": list(record.chain),
        "hidden": record.hidden,
        "counts": dict(record.counts),
        "bytes": record.bytes,
        "complete": record.complete,
        "listed": record.listed,
        "exit_code": record.exit_code,
    }


def record_from_json(data: dict[str, Any]) -> Record:
    """Read what `record_to_json` wrote.

    Raises:
        ValueError: it is not of this schema.
        KeyError: something is missing.
        TypeError: something is of another type.
    """
    if data["schema"] != SCHEMA:
        raise ValueError(f"schema {data['schema']!r}")
    return Record(
        run=str(data["run"]),
        argv=tuple(str(word) for word in data["argv"]),
        state=State(data["state"]),
        since_ns=int(data["since_ns"]),
        began_ns=int(data["began_ns"]),
        trees=tuple(
            Tree(path=str(t["path"]), lowers=tuple(map(str, t["lowers"])), device=int(t["device"]), inode=int(t["inode"]), image=str(t["image"]))
            for t in data["trees"]
        ),
        chain=tuple(str(run) for run in data["chain"]),
        hidden=bool(data["hidden"]),
        counts=tuple((str(kind), int(count)) for kind, count in data["counts"].items()),
        bytes=int(data["bytes"]),
        complete=bool(data["complete"]),
        listed=bool(data["listed"]),
        exit_code=None if data["exit_code"] is None else int(data["exit_code"]),
    )


def change_to_row(change: Change) -> list[object]:
    """Return a change as one short list, which is one line of the listing."""
    return [
        change.tree, change.path, str(change.kind), list(change.what), _facts_row(change.before), _facts_row(change.after), change.link,
    ]  # fmt: skip


def change_from_row(row: list[Any]) -> Change:
    """Read what `change_to_row` wrote."""
    tree, path, kind, what, before, after, link = row
    return Change(
        tree=tree, path=path, kind=Kind(kind), what=tuple(what), before=_facts_from_row(before), after=_facts_from_row(after), link=link
    )


def _facts_row(facts: Facts | None) -> list[object] | None:
    if facts is None:
        return None
    return [
        str(facts.type), facts.mode, facts.size, facts.mtime_ns, facts.device, facts.inode, facts.ctime_ns, facts.links, facts.target,
    ]  # fmt: skip


def _facts_from_row(row: list[Any] | None) -> Facts | None:
    if row is None:
        return None
    kind, mode, size, mtime_ns, device, inode, ctime_ns, links, target = row
    return Facts(
        type=Type(kind), mode=mode, size=size, mtime_ns=mtime_ns, device=device, inode=inode, ctime_ns=ctime_ns, links=links, target=target
    )  # fmt: skip


__all__ = [
    "Change", "Facts", "Kind", "Record", "State", "Tree", "Type", "change_from_row", "change_to_row", "record_from_json", "record_to_json",
]  # fmt: skip
