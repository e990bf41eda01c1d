"""What is below ``data/``, as names: walked once, so that everything that is decided is decided about the same files."""

from __future__ import annotations

from sandbox.judge.errors import PackageError
from sandbox.judge.package.confine import DanglingError, LinkError
from sandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.judge.package.confine import Tree

_MAXIMUM_CASES = 20_000
_MAXIMUM_DEPTH = 32
_NEEDED = (".in", ".ans", ".out", ".yaml")
_MISNAMED = {"testdata.yml": "testdata.yaml", "test_group.yml": "test_group.yaml"}
"""Names that are read by nobody, beside those that were meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """A directory of test data: names of what is in it. `inputs` are the base names of cases, ``.files`` directories are no directories here."""

    files: frozenset[str]
    directories: tuple[str, ...]
    inputs: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All directories below ``data/`` by their path there ("" is itself), all `paths` of files, and the ``.files`` directories of cases."""

    directories: dict[str, Directory] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)
    case_files: set[str] = field(default_factory=set)

    def cases_below(self, path: str, *, without: frozenset[str] = frozenset()) -> list[str]:
        """Return the names of all cases in a directory and below, in order, but not those below the directories `without`."""
        found: list[str] = []
        pending = [path]
        while pending:
            at = pending.pop()
            directory = self.directories[at]
            found += [f"{at}/{name}" if at else name for name in directory.inputs]
            below = [f"{at}/{name}" if at else name for name in directory.directories]
            pending += [each for each in below if each not in without]
        return sorted(found, key=lambda name: name.split("/"))

    def has_cases(self, path: str) -> bool:
        """Whether there is a case in a directory or below it."""
        return any(each.inputs for name, each in self.directories.items() if name == path or name.startswith(f"{path}/"))


def list_data(tree: Tree, *, legacy: bool) -> Listing:
    """Return what is below ``data/``.

    Args:
        tree: the package.
        legacy: a link that leads nowhere is no file, as the reference tool has it, and not an error.

    Raises:
        PackageError: there is more than will be read, or a file that is needed is a link that cannot be followed.
    """
    listing = Listing()
    pending = [""]
    cases = 0
    while pending:
        at = pending.pop()
        if at.count("/") >= _MAXIMUM_DEPTH:
            raise PackageError(f"read test data: directories nested deeper than {_MAXIMUM_DEPTH}", origin=tree.place("data"))
        path = f"data/{at}" if at else "data"
        entries = tree.list(path)
        files, directories = set(), []
        for entry in entries:
            below = f"{at}/{entry.name}" if at else entry.name
            if entry.trouble is not None:
                _doubt(tree, entry.name, below, entry.trouble, legacy)
            elif not entry.directory:
                files.add(entry.name)
                listing.paths.add(below)
            else:
                directories.append(entry.name)
        for name in sorted(files & _MISNAMED.keys()):
            tree.warn(f"is not read: the name is `{_MISNAMED[name]}`", f"{path}/{name}")
        inputs = {name[:-3] for name in files if name.endswith(".in")}
        for name in tuple(directories):
            if name.endswith(".files") and name[:-6] in inputs:
                directories.remove(name)
                listing.case_files.add(f"{at}/{name}" if at else name)
        cases += len(inputs)
        if cases > _MAXIMUM_CASES:
            raise PackageError(f"read test data: more than {_MAXIMUM_CASES} cases", origin=tree.place("data"))
        listing.directories[at] = Directory(files=frozenset(files), directories=tuple(directories), inputs=frozenset(inputs))
        pending += [f"{at}/{name}" if at else name for name in directories]
    return listing


def _doubt(tree: Tree, name: str, below: str, trouble: LinkError, legacy: bool) -> None:
    """Refuse a link that test data may need, a name without an ending being that of a group; what is for people only is left out with a warning."""
    if (name.endswith(_NEEDED) or "." not in name) and not (legacy and isinstance(trouble, DanglingError)):
        raise trouble
    tree.warn(f"{trouble.message}; it is not read", f"data/{below}")
