"""An overlay in a user namespace of a child's own, and trees as values: the ground that tests of `sandbox.changes` stand on, without a sandbox."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from sandbox.changes import compare
from sandbox.changes.keep import Kept, Opened, finish_changes, prepare_changes
from sandbox.changes.model import Change, Kind, Record, Tree, Type

CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000
_ids = iter(range(1 << 20, 1 << 30))

View = dict[str, tuple[object, ...]]


def run_id() -> str:
    """Return an id that no other run of this process has."""
    return f"19ffffff{os.getpid():x}-{next(_ids):08x}"


def keep(state: Path, tree: Path, base: Record | None = None) -> Kept:
    """Prepare a kept run of one tree."""
    found = tree.stat()
    return prepare_changes(
        str(state), run_id(), [Tree(path=str(tree), lowers=(str(tree),), device=found.st_dev, inode=found.st_ino)], ["test"], base=base
    )


def in_overlay(kept: Kept, tree: Path, act: Callable[[Path], object]) -> object:
    """Run a function on the merged tree, in a child, and return what it returned, which must be JSON."""
    chain = [f"{Path(kept.path).parent}/{run}/trees/0/upper" for run in kept.record.chain]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            libc = ctypes.CDLL(None, use_errno=True)
            uid, gid = os.geteuid(), os.getegid()
            _check(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS))
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
            merged = Path(kept.path) / "merged"
            merged.mkdir()
            own = f"{kept.path}/trees/0"
            options = f"userxattr,lowerdir={':'.join([*chain, str(tree)])},upperdir={own}/upper,workdir={own}/work"
            _check(libc.mount(b"overlay", os.fsencode(merged), b"overlay", 0, os.fsencode(options)))
            result = json.dumps(act(merged)).encode()
            while result:
                result = result[os.write(writer, result) :]
            code = 0
        except BaseException as error:
            os.write(2, f"in the overlay: {error!r}\n".encode())
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader, "rb") as file:
        answer = file.read()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    with contextlib.suppress(OSError):
        os.rmdir(f"{kept.path}/merged")
    return json.loads(answer)


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def changed(state: Path, tree: Path, act: Callable[[Path], object], base: Record | None = None) -> tuple[Record | None, object]:
    """Keep a run in which a function works on a tree; return its record, and what the function returned."""
    kept = keep(state, tree, base)
    result = in_overlay(kept, tree, act)
    return finish_changes(kept, 0), result


def listed(state: Path, record: Record | None) -> list[Change]:
    """Return the changes of a kept run; none where nothing was kept."""
    if record is None:
        return []
    with Opened(str(state), record.run) as opened:
        return list(opened.changes())


def view(top: Path) -> View:
    """Return a tree as values, path by path: all that counts as a change of a file, and which names are one file."""
    found: View = {}
    first: dict[tuple[int, int], str] = {}
    for directory, directories, files in os.walk(top):
        directories.sort()
        for name in sorted([*directories, *files]):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            mode = stat.S_IMODE(status.st_mode)
            key = os.path.relpath(path, top)
            if stat.S_ISLNK(status.st_mode):
                found[key] = ("symlink", os.readlink(path))
            elif stat.S_ISDIR(status.st_mode):
                found[key] = ("directory", mode, attributes(path))
            elif stat.S_ISREG(status.st_mode):
                same = first.setdefault((status.st_dev, status.st_ino), key) if status.st_nlink > 1 else key
                with open(path, "rb") as file:
                    found[key] = ("file", mode, attributes(path), file.read().hex(), status.st_mtime_ns, same)
            else:
                found[key] = (stat.filemode(status.st_mode)[0], mode)
    return found


def attributes(path: str) -> list[list[str]]:
    """Return a file's own attributes."""
    return [[name, os.getxattr(path, name).hex()] for name in sorted(os.listxattr(path)) if name.startswith("user.")]


def compare_views(before: View, after: View) -> dict[str, tuple[str, frozenset[str]]]:
    """Return what is different of two trees, file by file: kind and, of what is of the same type, in what."""
    found = {}
    for path in before.keys() | after.keys():
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        if old is None:
            found[path] = ("added", frozenset[str]())
        elif new is None:
            found[path] = ("deleted", frozenset[str]())
        elif old[0] != new[0]:
            found[path] = ("replaced", frozenset[str]())
        else:
            names = {"symlink": ["content"], "directory": ["mode", "xattrs"], "file": ["mode", "xattrs", "content", "times", "link"]}
            what = {name for name, one, other in zip(names.get(str(old[0]), ["mode"]), old[1:], new[1:], strict=True) if one != other}
            if what - {"times"}:
                what.discard("times")
            found[path] = ("modified", frozenset(what))
    return found


def as_compared(changes: Sequence[Change]) -> dict[str, tuple[str, frozenset[str]]]:
    """Return changes in the form of `compare_views`."""
    return {change.path: (str(change.kind), frozenset(change.what)) for change in changes}


__all__ = ["Kind", "Type", "as_compared", "changed", "compare", "compare_views", "in_overlay", "keep", "listed", "run_id", "shutil", "view"]
