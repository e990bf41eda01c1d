"""Making a run's changes in the original.

The run's files and names are hostile, and the original may be changed by others at the same moment. So: every directory of the original is opened from its top
through no link (`open_beneath`), then one name at a time; a new file is written without a name and gets it when whole; an existing one is exchanged with
it, and what comes out must be what was looked at before, else it goes back. Killed at any moment, each file is the old or the new one; what may be
left is one file of the name `temporary_name` in a directory, which the next `apply` takes up. Only `api` imports it.

Attacks that this stops: a link in the original, or one swapped in meanwhile, that leads a write elsewhere (CVE-2018-15664, CVE-2024-28185); set-id bits and
special files (Judge0); hard links to what the run never saw.
"""

from __future__ import annotations

import errno
import os
import stat
from functools import partial

from sandbox.changes.exchange import ChangedError, Names
from sandbox.changes.files import OWN, data_segments, look, open_directory, open_file, xattrs_of
from sandbox.changes.model import Change, Facts, Kind, Type
from sandbox.changes.status import FIRST_MODE, SET_ID, Source, Status
from sandbox.changes.takeup import UNLOCKED, Applied, file_format, note_unlocked, remove
from sandbox.errors import describe_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.changes.choose import Choices, Chosen
    from sandbox.changes.keep import Opened

_CHUNK = 1 << 20
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def apply(opened: Opened, chosen: Chosen, choices: Choices, on_change: Callable[[Change], object] | None = None) -> Applied:
    """Make the chosen changes; one that cannot be made does not keep the others from it.

    Args:
        opened: the run.
        chosen: of `choose`.
        choices: the same.
        on_change: is told of each change that was made.
    """
    applied = Applied()
    for number in range(len(opened.record.trees)):
        uppers, lowers = opened.layers(number)
        todo = [(change, status) for change, status in chosen.todo if change.tree == number]
        unlock = partial(note_unlocked, opened, number)
        _Tree(opened.record.run, lowers[0], Source(uppers), choices, applied, on_change, unlock).run(todo)
    return applied


class _Tree:
    """The changes of one tree."""

    def __init__(
        self,
        run: str,
        root: int,
        source: Source,
        choices: Choices,
        applied: Applied,
        on_change: Callable[[Change], object] | None,
        unlock: Callable[[str, int], object],
    ) -> None:
        self._unlock = unlock
        self._root = root
        self._source = source
        self._choices = choices
        self._applied = applied
        self._on_change = on_change
        self._names = Names(run)
        self._unlocked: dict[str, int] = {}
        self._unfinished: list[tuple[Change, bool]] = []
        self._as_root = os.geteuid() == 0

    def run(self, todo: list[tuple[Change, Status]]) -> None:
        gone = [item for item in todo if item[0].kind is Kind.DELETED]
        made = [item for item in todo if item[0].kind is not Kind.DELETED]
        try:
            for change, status in reversed(gone):
                self._each(change, status, self._delete)
            for change, status in made:
                if not change.link:
                    self._each(change, status, self._make)
            for change, status in made:
                if change.link:
                    self._each(change, status, self._make_link)
        finally:
            self._finish_directories()

    def _each(self, change: Change, status: Status, act: Callable[[int, str, Change, Status], None]) -> None:
        directory, _, name = change.path.rpartition("/")
        try:
            if name == self._names.temporary:
                raise ChangedError("a name that is ours")
            parent = self._open_parent(directory)
            try:
                act(parent, name, change, status)
            finally:
                os.close(parent)
        except ChangedError as error:
            self._applied.failed.append((change, str(error)))
        except OSError as error:
            self._applied.failed.append((change, describe_errno(error.errno or 0)))
        else:
            self._applied.made += 1
            if change.after is not None and change.after.type is Type.DIRECTORY:
                self._unfinished.append((change, change.kind is not Kind.MODIFIED or status.now is None or status.now.type is not Type.DIRECTORY))
            if self._on_change is not None:
                self._on_change(change)

    def _open_parent(self, path: str) -> int:
        """Open a directory of the original that is to be written to, for a moment against its mode where it is ours."""
        fd = open_directory(self._root, path)
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if mode & UNLOCKED != UNLOCKED and path not in self._unlocked and not self._as_root and os.fstat(fd).st_uid == os.geteuid():
            try:
                self._unlock(path, mode)
                os.fchmod(fd, mode | UNLOCKED)
            except OSError:
                os.close(fd)
                raise
            self._unlocked[path] = mode
        return fd

    # ---- one name ------------------------------------------------------------------------------------------

    def _delete(self, parent: int, name: str, change: Change, status: Status) -> None:
        assert status.now is not None
        if status.now.type is Type.DIRECTORY:
            os.rmdir(name, dir_fd=parent)
            return
        self._names.take_out(parent, name, status.now)

    def _make(self, parent: int, name: str, change: Change, status: Status) -> None:
        after = change.after
        assert after is not None
        if change.kind is Kind.MODIFIED and "content" not in change.what and status.now is not None and status.now.type is after.type:
            self._alter(parent, name, change, after, status.now)
            return
        match after.type:
            case Type.DIRECTORY if status.now is not None and status.now.type is Type.DIRECTORY and change.kind is not Kind.MODIFIED:
                pass  # a killed `apply` has made it
            case Type.DIRECTORY:
                self._names.put(parent, name, status.now, lambda temporary: os.mkdir(temporary, FIRST_MODE, dir_fd=parent))
            case Type.SYMLINK:
                self._names.put(parent, name, status.now, lambda temporary: os.symlink(after.target, temporary, dir_fd=parent))
            case Type.FIFO:
                self._make_fifo(parent, name, after, status)
            case Type.FILE:
                self._write_file(parent, name, change, after, status)
            case Type.SOCKET | Type.DEVICE:
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def _make_link(self, parent: int, name: str, change: Change, status: Status) -> None:
        """Make another name of a file that the original has as the run left it; else a file of its own."""
        after = change.after
        assert after is not None
        directory, _, leaf = change.link.rpartition("/")
        try:
            there = open_directory(self._root, directory)
        except OSError:
            self._make(parent, name, change, status)
            return
        try:
            found = look(there, leaf)
            if found is None or not stat.S_ISREG(found.st_mode) or not self._is_content(there, leaf, change, after):
                self._write_file(parent, name, change, after, status)
                return
            self._names.put(
                parent, name, status.now, lambda temporary: os.link(leaf, temporary, src_dir_fd=there, dst_dir_fd=parent, follow_symlinks=False)
            )
            if not os.path.samestat(found, os.stat(name, dir_fd=parent, follow_symlinks=False)):
                raise ChangedError("the file that it is a name of was changed at this moment")
        finally:
            os.close(there)

    def _is_content(self, there: int, leaf: str, change: Change, after: Facts) -> bool:
        from sandbox.changes.files import same_content

        mine = self._source.parent(change.path, after)
        try:
            first, second = open_file(mine, change.path.rpartition("/")[2], force=True), -1
            try:
                second = open_file(there, leaf)
                return same_content(first, second) and (os.fstat(second).st_mode | SET_ID) & 0o7777 == after.mode | SET_ID
            except OSError:
                return False
            finally:
                os.close(first)
                if second >= 0:
                    os.close(second)
        finally:
            os.close(mine)

    # ---- files ---------------------------------------------------------------------------------------------

    def _write_file(self, parent: int, name: str, change: Change, after: Facts, status: Status) -> None:
        theirs = self._source.parent(change.path, after)
        try:
            source = open_file(theirs, change.path.rpartition("/")[2], force=True)
        finally:
            os.close(theirs)
        try:
            found = os.fstat(source)
            if (found.st_ino, found.st_dev, found.st_size) != (after.inode, after.device, after.size):
                raise ChangedError("the run's file is not what was listed")
            fd, named = self._names.create(parent)
            try:
                _copy(source, fd, after.size)
                self._give(fd, parent, name, status)
                self._set_xattrs(fd, xattrs_of(source))
                os.fchmod(fd, self._mode(after))
                os.utime(fd, ns=(after.mtime_ns, after.mtime_ns))
                if status.now is None:
                    self._names.give(fd, named, parent, name)
                else:
                    if not named:
                        os.link(f"/proc/self/fd/{fd}", self._names.temporary, dst_dir_fd=parent, follow_symlinks=True)
                    self._names.exchange(parent, name, status.now)
            except BaseException:
                if named:
                    remove(parent, self._names.temporary)
                raise
            finally:
                os.close(fd)
        finally:
            os.close(source)

    def _alter(self, parent: int, name: str, change: Change, after: Facts, now: Facts) -> None:
        """Change mode, attributes or times in place, so that every other name of the file has them too."""
        handle = os.open(name, _HANDLE, dir_fd=parent)
        try:
            found = os.fstat(handle)
            if (found.st_ino, found.st_dev) != (now.inode, now.device) or stat.S_IFMT(found.st_mode) != file_format(now.type):
                raise ChangedError("it was changed in the original at this moment")
            path = f"/proc/self/fd/{handle}"
            if "xattrs" in change.what:
                self._alter_xattrs(path, change, after)
            if "mode" in change.what and after.type is not Type.DIRECTORY:  # a directory's comes last
                os.chmod(path, self._mode(after, found.st_mode))
            if after.type is Type.FILE:
                os.utime(path, ns=(after.mtime_ns, after.mtime_ns))
        finally:
            os.close(handle)

    def _alter_xattrs(self, path: str, change: Change, after: Facts) -> None:
        theirs = self._source.parent(change.path, after)
        leaf = change.path.rpartition("/")[2]
        try:
            fd = open_file(theirs, leaf, force=True) if after.type is Type.FILE else open_directory(theirs, leaf)
        finally:
            os.close(theirs)
        try:
            wanted = xattrs_of(fd)
        finally:
            os.close(fd)
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        mine = os.open(path, flags)
        try:
            for name in xattrs_of(mine).keys() - wanted.keys():
                os.removexattr(mine, name)
            self._set_xattrs(mine, wanted)
        finally:
            os.close(mine)

    @staticmethod
    def _set_xattrs(fd: int, wanted: dict[str, bytes]) -> None:
        for name, value in wanted.items():
            if not name.startswith(OWN):  # in the original it would mean something to the next overlay
                os.setxattr(fd, name, value)

    def _give(self, fd: int, parent: int, name: str, status: Status) -> None:
        """Let a file belong to whom the original does, or a new one's directory: root applies in a user's tree, a user in a group's."""
        there = look(parent, name) if status.now is not None else None
        if self._as_root:
            owner = there or os.fstat(parent)
            os.fchown(fd, owner.st_uid, owner.st_gid)
        elif there is not None and there.st_gid != os.fstat(fd).st_gid:
            try:
                os.fchown(fd, -1, there.st_gid)
            except PermissionError:
                pass  # a group that the caller is not in

    def _mode(self, after: Facts, before: int = 0) -> int:
        """Return a file's mode: without set-id bits, unless asked; one that the original has, and the run has left it, stays."""
        return after.mode if self._choices.set_id else after.mode & (~SET_ID | before)

    def _make_fifo(self, parent: int, name: str, after: Facts, status: Status) -> None:
        """Make one under the temporary name, for it has its mode only then."""
        os.mkfifo(self._names.temporary, 0o600, dir_fd=parent)
        try:
            handle = os.open(self._names.temporary, _HANDLE, dir_fd=parent)
            try:
                if not stat.S_ISFIFO(os.fstat(handle).st_mode):
                    raise ChangedError("it was changed in the original at this moment")
                os.chmod(f"/proc/self/fd/{handle}", self._mode(after))
            finally:
                os.close(handle)
            if status.now is None:
                self._names.move_in(parent, name)
        except BaseException:
            remove(parent, self._names.temporary)
            raise
        if status.now is not None:
            self._names.exchange(parent, name, status.now)

    # ---- directories ---------------------------------------------------------------------------------------

    def _finish_directories(self) -> None:
        """Give directories their modes and attributes, the deepest first: one that nobody may write to was written to until now."""
        for change, new in reversed(self._unfinished):
            after = change.after
            assert after is not None
            if not new and "mode" not in change.what:
                continue
            try:
                fd = open_directory(self._root, change.path)
                try:
                    if new:
                        self._finish_new(fd, change, after)
                    kept = stat.S_IMODE(os.fstat(fd).st_mode) & stat.S_ISGID  # as the kernel made it, of the directory above
                    os.fchmod(fd, after.mode if self._choices.set_id else after.mode & ~SET_ID | kept)
                    self._unlocked.pop(change.path, None)
                finally:
                    os.close(fd)
            except OSError as error:
                self._applied.failed.append((change, describe_errno(error.errno or 0)))
        for path, mode in sorted(self._unlocked.items(), reverse=True):
            try:
                fd = open_directory(self._root, path)
            except OSError:
                continue
            try:
                os.fchmod(fd, mode)
            finally:
                os.close(fd)
        self._unlocked = {}

    def _finish_new(self, fd: int, change: Change, after: Facts) -> None:
        if self._as_root:
            parent = open_directory(self._root, change.path.rpartition("/")[0])
            try:
                above = os.fstat(parent)
                os.fchown(fd, above.st_uid, above.st_gid)
            finally:
                os.close(parent)
        theirs = self._source.parent(change.path, after)
        try:
            mine = open_directory(theirs, change.path.rpartition("/")[2])
        finally:
            os.close(theirs)
        try:
            self._set_xattrs(fd, xattrs_of(mine))
        finally:
            os.close(mine)


def _copy(source: int, target: int, size: int) -> None:
    """Copy a file's bytes; what is a hole stays one."""
    os.ftruncate(target, size)
    for begin, end in data_segments(source, size):
        at = begin
        while at < end:
            data = os.pread(source, min(_CHUNK, end - at), at)
            if not data:
                raise ChangedError("the run's file is not what was listed")
            at += os.pwrite(target, data, at)


__all__ = ["apply"]
