"""The snapshot of a package's test data: copied once, links resolved, into a private directory that no submission ever sees."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat

from sandbox.errors import SandboxError, describe_errno
from sandbox.judge.errors import PackageError
from sandbox.judge.package.confine import Tree
from sandbox.judge.package.places import make_place, place_of
from sandbox.judge.problem import Case, Group
from sandbox.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.judge.problem import Problem

MAXIMUM_FILE = 2 << 30
MAXIMUM_STAGE = 16 << 30
_CHUNK = 1 << 20


@contextlib.contextmanager
def open_stage(problem: Problem) -> Iterator[Problem]:
    """Copy the test data of a package, and yield the package with the paths of its cases there; remove the copy in the end.

    The stage is a directory of mode 0700 below the cache, locked while it is used. A validator may be shown it (`stage_root`), a submission never.
    What changed in the package since it was read is not noticed, but neither is it used: what was copied is what is judged, and `digest` is of that.

    Raises:
        PackageError: a file cannot be copied any more, or there is more of them than will be copied.
        SandboxError: there is no place for a stage, or no room in it.
    """
    place = make_place("stage")
    try:
        yield _copy_data(problem, place.path)
    finally:
        place.remove()
        unpacked = place_of(problem.root)
        if unpacked is not None:
            unpacked.remove()


def _copy_data(problem: Problem, stage: str) -> Problem:
    try:
        with Tree(problem.root) as tree:
            copier = _Copier(tree, stage, problem.digest)
            data = _group(problem.data, copier)
            invalid = {name: tuple(copier.case(case) for case in cases) for name, cases in problem.invalid.items()}
    except OSError as error:
        raise SandboxError(
            f"write test data into `{stage}`: {describe_errno(error.errno or 0)}", hint="XDG_CACHE_HOME chooses another place"
        ) from None  # fmt: skip
    return replace(problem, root=stage, data=data, invalid=invalid, digest=copier.digest())


def stage_root(problem: Problem) -> str:
    """Return the directory that has all test data of a staged package, to be shown to validators read-only.

    Not the stage itself, into which nobody but the user gets: a validator of root's has an id that is nobody's.
    """
    return os.path.join(problem.root, "data")


class _Copier:
    """Copies files into the stage, each once, counting and hashing."""

    def __init__(self, tree: Tree, stage: str, digest: str) -> None:
        self._tree = tree
        self._stage = stage
        self._hash = hashlib.sha256(digest.encode())
        self._copied: dict[str, str] = {}
        self._bytes = 0

    def digest(self) -> str:
        """Return the digest of the package with all that was copied."""
        return self._hash.hexdigest()

    def case(self, case: Case) -> Case:
        """Return a case with its paths in the stage."""
        return replace(
            case,
            input=self._file(case.input, f"{case.name}.in"),
            answer=self._file(case.answer, f"{case.name}.ans"),
            output=self._file(case.output, f"{case.name}.out"),
            files=self._files(case.files, f"{case.name}.files"),
        )

    def _file(self, source: str, name: str) -> str:
        if not source:
            return ""
        target = os.path.join(self._stage, "data", name)
        self._directory(os.path.dirname(target))
        fd = self._open(source)
        try:
            self._copy(fd, target, source)
        finally:
            os.close(fd)
        return target

    def _files(self, source: str, name: str) -> str:
        """Copy what goes into a submission's working directory."""
        if not source:
            return ""
        target = os.path.join(self._stage, "data", name)
        self._directory(target)
        inside = os.path.relpath(source, self._tree.root)
        for below, entry in self._tree.walk(inside):
            if entry.trouble is not None:
                raise entry.trouble
            self._file(os.path.join(source, below), f"{name}/{below}")
        return target

    def _directory(self, path: str) -> None:
        """Make a directory and those above it; a validator of root's runs under an id that is nobody's, and the stage itself keeps everybody else out."""
        if path != self._stage and not os.path.isdir(path):
            self._directory(os.path.dirname(path))
            os.mkdir(path)
            os.chmod(path, 0o755)

    def _open(self, source: str) -> int:
        inside = os.path.relpath(source, self._tree.root)
        if inside.startswith("../"):
            # A directory that the caller let links lead to, resolved when the package was read.
            with Tree(os.path.dirname(source)) as other:
                return other.open(os.path.basename(source))
        return self._tree.open(inside)

    def _copy(self, fd: int, target: str, source: str) -> None:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise PackageError("copy test data: not a regular file", origin=source)
        if status.st_size > MAXIMUM_FILE:  # before gigabytes of it are written; a file that grows meets the same limit below
            raise PackageError(f"copy test data: more than {MAXIMUM_FILE} bytes", origin=source)
        out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
        size = 0
        try:
            os.fchmod(out, 0o444)
            while part := _read(fd, source):
                size += len(part)
                self._bytes += len(part)
                if size > MAXIMUM_FILE or self._bytes > MAXIMUM_STAGE:
                    raise PackageError(f"copy test data: more than {MAXIMUM_FILE if size > MAXIMUM_FILE else MAXIMUM_STAGE} bytes", origin=source)
                self._hash.update(part)
                view = memoryview(part)
                while view:
                    view = view[os.write(out, view) :]
        finally:
            os.close(out)
        self._hash.update(f"{target[len(self._stage) :]} {size}".encode())


def _read(fd: int, source: str) -> bytes:
    try:
        return os.read(fd, _CHUNK)
    except OSError as error:
        raise PackageError(f"copy `{source}`: {describe_errno(error.errno or 0)}") from None


def _group(root: Group, copier: _Copier) -> Group:
    """Return a group with its cases in the stage. Groups nest no deeper than directories may."""
    children: list[Case | Group] = [_group(each, copier) if isinstance(each, Group) else copier.case(each) for each in root.children]
    return replace(root, children=tuple(children))
