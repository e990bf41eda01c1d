"""Programs of the package itself: validators, graders, and what is put beside every submission. Read as bytes; nothing is run."""

from __future__ import annotations

from sandbox.judge.errors import PackageError
from sandbox.judge.package.words import fill_in
from sandbox.judge.problem import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.judge.package.confine import Entry, Tree

MAXIMUM_PROGRAM_BYTES = 64 << 20
_MAXIMUM_FILES = 5_000
_JUNK = frozenset(("__pycache__", "__MACOSX", "Thumbs.db", "desktop.ini"))
_SCRIPTS = ("build", "run")
_HEADERS = frozenset(("h", "hh", "hpp", "hxx", "inc", "inl", "tcc"))
# Endings of the package format's table of languages.
_SOURCES = frozenset(
    (
        "adb ads a68 apl sh c cob cc cpp cxx c++ C cr cs d dart ex erl fth forth frt f90 fs ss go hs java js jl kt lisp cl lua mod m nim ml odin pas pl pm "
        "php py py2 py3 rkt rb rs scala sim st sno swift ts vb zig"
    ).split()
)
_DOCUMENTS = frozenset(("md", "txt", "tex", "pdf", "html", "rst", "yaml", "yml", "in", "ans", "out", "json", "log"))
_SCRIPTS_OF_INPUTS = frozenset(("ctd", "viva"))


def read_files(tree: Tree, entry: Entry, constants: Mapping[str, str]) -> tuple[dict[str, bytes], frozenset[str]]:
    """Return the files of a program, a file or a directory, by their names in it, and which of them may be executed.

    Raises:
        PackageError: it is larger than any program, or cannot be read.
    """
    if entry.trouble is not None:
        raise entry.trouble
    what = f"program `{entry.name}`"
    if not entry.directory:
        data = _filled(tree, entry.path, tree.read(entry.path, MAXIMUM_PROGRAM_BYTES, what), constants)
        return {entry.name: data}, frozenset((entry.name,) if entry.executable else ())
    files: dict[str, bytes] = {}
    executable = set()
    size = 0
    for name, each in tree.walk(entry.path):
        if _JUNK.intersection(name.split("/")) or name.endswith(".pyc"):
            continue
        if each.trouble is not None:
            tree.leave_out(each)
            continue
        files[name] = _filled(tree, each.path, tree.read(each.path, MAXIMUM_PROGRAM_BYTES, what), constants)
        size += len(files[name])
        if size > MAXIMUM_PROGRAM_BYTES or len(files) > _MAXIMUM_FILES:
            raise PackageError(f"read {what}: larger than {MAXIMUM_PROGRAM_BYTES} bytes or {_MAXIMUM_FILES} files", origin=tree.place(entry.path))
        if each.executable:
            executable.add(name)
    return files, frozenset(executable)


def _filled(tree: Tree, path: str, data: bytes, constants: Mapping[str, str]) -> bytes:
    filled = fill_in(data, constants, MAXIMUM_PROGRAM_BYTES)
    if filled is None:
        raise PackageError(f"fill in constants: larger than {MAXIMUM_PROGRAM_BYTES} bytes with them", origin=tree.place(path))
    tree.count(max(0, len(filled) - len(data)))
    if filled != data and path.startswith("submissions/"):
        tree.warn("constants are filled in, as the format says; BAPCtools leaves submissions as they are", path)
    return filled


def is_junk(entry: Entry) -> bool:
    """Whether an entry is what tools leave behind."""
    return entry.name in _JUNK or entry.name.endswith((".pyc", ".class"))


def is_no_submission(entry: Entry, *, answers: bool) -> bool:
    """Whether an entry among submissions was put out of use by its name, or is a document, which may be an answer where `answers` can be submitted."""
    document = entry.name.startswith("README") or (not answers and _ending(entry.name) in _DOCUMENTS)
    return entry.name.endswith((".disabled", ".template")) or (not entry.directory and document)


def read_programs(tree: Tree, path: str, constants: Mapping[str, str], *, one: bool = False, inputs: bool = False) -> tuple[Source, ...]:
    """Return the programs in a directory.

    Each directory in it is one, and each file of source code; header files that lie beside are given to each of those. A script ``build`` or ``run`` makes
    the whole directory one.

    Args:
        tree: the package.
        path: the directory; an absent one has none.
        constants: what is filled in.
        one: the directory is one program, as that of a 2025-09 output validator is: all that lies in it, unless that is a single directory.
        inputs: the programs are input validators, which may be scripts of Checktestdata and VIVA.

    Raises:
        PackageError: one cannot be read.
    """
    entries = [entry for entry in tree.list(path) if not is_junk(entry)]
    whole = next((entry for entry in tree.list(path.rpartition("/")[0]) if entry.path == path), None)
    if whole is None or not entries:
        return ()
    languages = _SOURCES | _SCRIPTS_OF_INPUTS if inputs else _SOURCES
    code = [entry for entry in entries if not entry.directory and _ending(entry.name) in languages]
    if any(entry.name in _SCRIPTS and not entry.directory for entry in entries) or (one and code):
        files, executable = read_files(tree, whole, constants)
        name = code[0].name if one and len(files) == 1 and code else path.rpartition("/")[2]
        return (Source(name=name, files=files, executable=executable, left_out=_left_out(tree, path, whole)),)
    headers: dict[str, bytes] = {}
    for entry in entries:
        if not entry.directory and _ending(entry.name) in _HEADERS:
            if entry.trouble is not None:
                tree.leave_out(entry)
            else:
                headers.update(read_files(tree, entry, constants)[0])
    found = []
    for entry in entries:
        if not entry.directory and entry not in code:
            _say_left_out(tree, entry)
            continue
        files, executable = read_files(tree, entry, constants)
        if not files:
            tree.warn("program without files; it is not run", entry.path)
            continue
        given = files if entry.directory else {**headers, **files}
        found.append(Source(name=entry.name, files=given, executable=executable, left_out=_left_out(tree, path, entry)))
    if one and len(found) > 1:
        raise PackageError(f"`{path}` must be one program, not {len(found)}", origin=tree.place(path))
    return tuple(found)


def _left_out(tree: Tree, path: str, program: Entry) -> tuple[str, ...]:
    """Return the places of what was left out of a program, or beside it in the directory of programs."""
    return tuple(tree.place(each) for each in tree.left_out if each.startswith(f"{program.path}/") or each.rpartition("/")[0] == path)


def read_include(tree: Tree, constants: Mapping[str, str]) -> dict[str, dict[str, bytes]]:
    """Return what is put beside submissions, by language; ``default`` is for all. Raises `PackageError`."""
    found = {}
    for entry in tree.list("include"):
        if entry.directory and not is_junk(entry):
            found[entry.name] = read_files(tree, entry, constants)[0]
        elif not is_junk(entry):
            tree.warn("belongs to no language; it is not included", entry.path)
    return found


def _say_left_out(tree: Tree, entry: Entry) -> None:
    ending = _ending(entry.name)
    if ending in _SCRIPTS_OF_INPUTS:
        tree.warn("scripts of Checktestdata and VIVA check inputs and nothing else; it is not run", entry.path)
    elif entry.trouble is not None:
        tree.leave_out(entry)
    elif ending not in _HEADERS | _DOCUMENTS and entry.name not in ("Makefile", "README", "LICENSE"):
        tree.warn("is no program in a language of the package format; it is not run", entry.path)


def _ending(name: str) -> str:
    return name.rpartition(".")[2] if "." in name else ""
