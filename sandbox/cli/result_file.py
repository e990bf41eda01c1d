"""Where `sandbox exec --result` puts a result. Only `exec` imports it, and only where it is asked for."""

from __future__ import annotations

import errno
import os

from sandbox.errors import PolicyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.result import Result


class ResultFile:
    """Where ``--result`` goes, settled before the run: a payload that may write there could put a link in the way meanwhile.

    Args:
        path: as the caller wrote it. A regular or new file is replaced whole, so that a reader never sees half of it; anything else (``/dev/fd/3``,
            a FIFO) is opened now and written to at the end.

    Raises:
        PolicyError: nothing can be written there.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._device = self._directory = -1
        directory, self._name = os.path.split(path)
        try:
            if os.path.exists(path) and not os.path.isfile(path):
                self._device = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
                return
            self._directory = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if not os.access(".", os.W_OK | os.X_OK, dir_fd=self._directory):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            self.close()
            hint = f"is `{directory or '.'}` a directory that you may write to?"
            raise PolicyError(f"`--result {path}` cannot be written: {error.strerror}", hint=hint) from None

    def write(self, result: Result) -> None:
        """Write the JSON."""
        import json

        data = json.dumps(result.to_dict(), indent=2, ensure_ascii=True).encode("ascii") + b"\n"
        try:
            if self._device >= 0:
                _write_all(self._device, data)
                return
            temporary = f".{self._name}.{os.urandom(8).hex()}"
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=self._directory)
            try:
                try:
                    _write_all(fd, data)
                finally:
                    os.close(fd)
                os.rename(temporary, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            except OSError:
                os.unlink(temporary, dir_fd=self._directory)
                raise
        except OSError as error:
            raise PolicyError(f"`--result {self._path}` cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Let go of the place."""
        for fd in (self._device, self._directory):
            if fd >= 0:
                os.close(fd)
        self._device = self._directory = -1


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
