"""Names in a directory of the original: made, exchanged and taken away so that nothing of somebody else's is lost, whoever is at work there at the same moment.

What comes out of an exchange must be what was looked at before, else it goes back. Between two calls at most one more name is there, the temporary one of the
run, which the next `apply` takes up. Only `apply` imports it.
"""

from __future__ import annotations

import errno
import os
import stat

from sandbox.changes.files import look
from sandbox.changes.model import Facts, Type
from sandbox.changes.status import identity, identity_of
from sandbox.changes.takeup import file_format, keep, remove, temporary_name
from sandbox.kernel.calls import RENAME_EXCHANGE, RENAME_NOREPLACE, rename_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)


class ChangedError(Exception):
    """Somebody else changed the original in the very moment."""


class Names:
    """What is done to names for one run; every directory is given by a descriptor."""

    def __init__(self, run: str) -> None:
        self.temporary = temporary_name(run)

    def take_out(self, parent: int, name: str, expected: Facts) -> None:
        """Take away what is no directory, if it is what was looked at."""
        rename_with(parent, name, parent, self.temporary, RENAME_NOREPLACE)
        if self._is_expected(parent, self.temporary, expected):
            os.unlink(self.temporary, dir_fd=parent)
            return
        self._put_back(parent, name, None)

    def put(self, parent: int, name: str, now: Facts | None, make: Callable[[str], None]) -> None:
        """Make something under its name, or exchange it with what has that name now."""
        if now is None:
            make(name)  # EEXIST where somebody was faster
            return
        make(self.temporary)
        self.exchange(parent, name, now)

    def exchange(self, parent: int, name: str, expected: Facts) -> None:
        """Put what was made in the place of what was there, which goes, if that is what was looked at."""
        made = look(parent, self.temporary)
        try:
            rename_with(parent, self.temporary, parent, name, RENAME_EXCHANGE)
        except OSError:
            remove(parent, self.temporary)
            raise
        if self._is_expected(parent, self.temporary, expected):
            try:
                remove(parent, self.temporary)
                return
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
        self._put_back(parent, name, made)

    def _put_back(self, parent: int, name: str, made: os.stat_result | None) -> NoReturn:
        """Give somebody's file its name back; what has that name by now goes only if it is what we made."""
        try:
            rename_with(parent, self.temporary, parent, name, RENAME_NOREPLACE if made is None else RENAME_EXCHANGE)
            came = look(parent, self.temporary)
            if came is not None and made is not None and os.path.samestat(came, made):
                remove(parent, self.temporary)
        except OSError:
            pass  # changed once more: what has the temporary name is kept
        if look(parent, self.temporary) is not None:
            raise ChangedError(f"it was changed in the original at this moment, twice; one version of it is `{keep(parent, self.temporary)}`")
        raise ChangedError("it was changed in the original at this moment")

    @staticmethod
    def _is_expected(parent: int, name: str, expected: Facts) -> bool:
        status = look(parent, name)
        if status is None or stat.S_IFMT(status.st_mode) != file_format(expected.type):
            return False
        if expected.type is Type.DIRECTORY:
            return status.st_ino == expected.inode
        target = os.readlink(name, dir_fd=parent) if expected.type is Type.SYMLINK else ""
        return identity_of(status, target) == identity(expected)

    def create(self, parent: int) -> tuple[int, bool]:
        """Make a file without a name; where the file system has none, one under the temporary name, with no right until it is whole."""
        try:
            return os.open(".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=parent), False
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self.temporary, flags, 0, dir_fd=parent), True

    def give(self, fd: int, named: bool, parent: int, name: str) -> None:
        """Give what `create` made its name, which nothing has."""
        if named:
            self.move_in(parent, name)
        else:
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=parent, follow_symlinks=True)

    def move_in(self, parent: int, name: str) -> None:
        """Give what has the temporary name its own, which nothing has."""
        rename_with(parent, self.temporary, parent, name, RENAME_NOREPLACE)
