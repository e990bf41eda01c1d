"""Prepared launches on disk: the command line's next run like this one neither loads a profile nor builds a plan.

An entry is named by what the caller said (options, the command's first word, working directory, ids, names of variables, kernel, interpreter). It holds
the table that was run, what the supervisor and the result need, every question that was put to the host while it was prepared, with its answer
(`questions`), and the state of every file of ours that had a part in it. All of that is checked before it is used; where anything differs, is damaged, or
could have been written by somebody else, there is no entry. What may be secret is not in it: the words after the first, and the values of variables.

`storing` writes entries. Only `cli.exec` imports this module, and it imports little: a hit is worth as much as it leaves unimported.
"""

from __future__ import annotations

import marshal
import os
import sys
import time
from struct import Struct

from sandbox.api.questions import digest, holds
from sandbox.store import cache_path, mark_of, open_directory, read_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping
    from typing import Any

    from sandbox.api.prepare import Prepared
    from sandbox.cgroup.model import CgroupRun
    from sandbox.plan.codec import Table
    from sandbox.plan.steps import Plan
    from sandbox.result import Enforcement

VARIABLE = "SANDBOX_CACHE"
"""Set to ``off``, prepared launches are neither read nor written."""

MAXIMUM_BYTES = 4 << 20
_MAGIC = b"sandbox launch 2"
_HEAD = Struct("<16s8sI")
ID_BYTES = 20  # of a run's id
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def store_path(environ: Mapping[str, str]) -> str | None:
    """Return ``$XDG_CACHE_HOME/sandbox/launches`` (default ``~/.cache``), or None where there is none or it is turned off."""
    return None if environ.get(VARIABLE) == "off" else cache_path(environ, "launches")


def entry_name(words: tuple[object, ...], environ: Mapping[str, str]) -> str:
    """Return the name of the entry for what the caller said, and for what else is fixed for the life of a process."""
    host = os.uname()
    here = (
        sys.hexversion, sys.executable, _PACKAGE, host.release, host.version, host.machine, os.getuid(), os.geteuid(), os.getegid(),
        tuple(sorted(os.getgroups())), tuple(sorted(environ)), words,
    )  # fmt: skip
    return digest(repr(here).encode()).hex()


def recall(
    name: str, command: Command, environ: Mapping[str, str], again: Callable[[], Prepared],
    checked: Container[tuple[str, tuple[int, ...]]] = (),
) -> Stored | None:  # fmt: skip
    """Return the launch of an entry, if there is one and it is what would be prepared now.

    Args:
        name: of `entry_name`.
        command: what this run has of its own.
        environ: the caller's environment.
        again: prepares the launch anew, should what is decoded late be damaged.
        checked: files of ours with the state that this process has found them in.
    """
    path = store_path(environ)
    directory = open_directory(path, make=False)
    if directory is None:
        return None
    try:
        content = read_entry(directory, name, MAXIMUM_BYTES)
    finally:
        os.close(directory)
    data = _open(name, content) if content is not None else None
    if data is None:
        return None
    if not all((file, state) in checked or file_state(file) == state for file, state in data["code"]) or not holds(data["questions"], environ):
        return None
    backend = None
    if data["backend"] is not None:
        from sandbox.cgroup.find import find_backend

        backend = find_backend(environ=environ)
        if describe_backend(backend) != data["backend"]:
            return None
    return Stored(data, command, environ, backend, again)


def seal(name: str, data: dict[str, Any], fields: bytes) -> bytes:
    """Return an entry's bytes. Its name is in it, so that one cannot stand in for another.

    Args:
        name: of `entry_name`.
        data: what every run needs.
        fields: what is seldom needed; it has a digest of its own, in `data`.
    """
    main = marshal.dumps(data | {"name": name, "fields": digest(fields)})
    return _HEAD.pack(_MAGIC, mark_of(main), len(main)) + main + fields


def _open(name: str, content: bytes) -> dict[str, Any] | None:
    """Return what `seal` was given, or None for anything else than what it returned; only the digest of the fields is not compared yet."""
    if len(content) < _HEAD.size:
        return None
    magic, mark, size = _HEAD.unpack_from(content)
    view = memoryview(content)
    main = view[_HEAD.size : _HEAD.size + size]
    if magic != _MAGIC or len(main) != size or mark_of(main) != mark:
        return None
    data: dict[str, Any] = marshal.loads(main)
    data["late"] = view[_HEAD.size + size :]
    return data if data["name"] == name else None


def file_state(path: str) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def describe_backend(backend: Any) -> tuple[object, ...] | None:
    """Return what of a place for cgroups decides about the launch; the rest, such as who is in it, is looked at for each run."""
    return None if backend is None else (type(backend).__name__, backend.name, backend.ready, tuple(sorted(backend.provides)))


class Command:
    """See `prepare.Command`; what one run has of its own. The rest is looked up where somebody asks."""

    __slots__ = ("_stored", "argv", "audit", "executor", "files", "interactive", "name")

    def __init__(self, *, argv: tuple[str, ...], audit: bool, interactive: bool, executor: str, name: str) -> None:
        self.argv, self.audit, self.interactive, self.executor, self.name = argv, audit, interactive, executor, name
        self.files: Mapping[str, bytes] = {}
        self._stored: Stored | None = None


class Stored:
    """A launch from disk, with the attributes of `prepare.Prepared`; those that a run does not need are decoded when they are asked for."""

    def __init__(self, data: dict[str, Any], command: Command, environ: Mapping[str, str], backend: Any, again: Callable[[], Prepared]) -> None:
        self._data = data
        self._again = again
        self._environ = environ
        self._whole: Prepared | None = None
        self.run_id = f"{time.time_ns() // 1_000_000:x}-{os.urandom(4).hex()}"
        self.command = command
        self.backend = backend
        self.anchor = None
        self.kept = self
        self.opened: Any = None
        self.keeping = None  # a copy-on-write run is never stored
        plain = data["plain"]
        self.image: Any = _Image(plain["image"]) if plain["image"] else None
        command.argv = (*plain["before"], *command.argv)
        self.profile: Any = _Light(plain["profile"], lambda: self.whole().profile)
        self.policy: Any = _Light(plain["policy"], lambda: self.whole().policy)
        self.cgroup_limits: Any = _Light(plain["cgroup_limits"], lambda: self.whole().cgroup_limits)
        self.notes = plain["notes"]
        self.sampled = frozenset(plain["sampled"])
        self.as_root: bool = plain["as_root"]
        self.external_map: bool = plain["external_map"]
        self.machine: Any = None if plain["machine"] is None else _Light(plain["machine"], lambda: self.whole().machine)
        self.owners: tuple[int, ...] = plain["owners"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole(), name)

    @property
    def enforced(self) -> tuple[Enforcement, ...]:
        """See `Prepared.enforced`."""
        from sandbox.result import Enforcement

        return tuple([Enforcement(what=what, how=how, weaker=weaker) for what, how, weaker in self._data["plain"]["enforced"]])

    @property
    def volumes(self) -> tuple[Any, ...]:
        """See `Prepared.volumes`."""
        if not self._data["plain"]["volumes"]:
            return ()
        from sandbox.plan.root import VolumeUse

        return tuple([VolumeUse(**dict(zip(VolumeUse.__slots__, values, strict=True))) for values in self._data["plain"]["volumes"]])

    def with_volumes(self, opened: Any) -> Prepared:
        """See `Prepared.with_volumes`."""
        self.opened = opened
        return self.as_prepared()

    @property
    def arch(self) -> Any:
        """See `Prepared.arch`."""
        from sandbox.abi.arch import Arch

        return Arch(self._data["plain"]["arch"])

    @property
    def environment(self) -> tuple[tuple[str, str], ...]:
        """See `Prepared.environment`: with the caller's variables as they are now."""
        from sandbox.rootfs.environment import matching_variables, passed_variables

        plain = self._data["plain"]
        below = plain["below"]
        passed = passed_variables(plain["passed"], self._environ) if below is None else dict(below) | matching_variables(plain["passed"], self._environ)
        return tuple(sorted((passed | dict(plain["fixed"])).items()))

    def as_prepared(self) -> Prepared:
        """Return this, by the type whose attributes it has."""
        made: Any = self
        return made  # type: ignore[no-any-return]

    def whole(self) -> Prepared:
        """Return the prepared launch that this one stands for."""
        if self._whole is None:
            from sandbox.api.prepare import Command as WholeCommand
            from sandbox.api.prepare import Prepared
            from sandbox.record import replace

            late = self._data["late"]
            if digest(late) != self._data["fields"]:
                self._whole = replace(self._again(), run_id=self.run_id)
                return self._whole
            fields = Decoder(marshal.loads(late)).record()
            own = self.command
            command = WholeCommand(
                argv=own.argv, profile=fields["profile"], cwd=self._data["plain"]["cwd"], environ=self._environ, audit=own.audit,
                interactive=own.interactive, executor=own.executor, name=own.name, require_cgroup=self._data["plain"]["require_cgroup"],
            )  # fmt: skip
            self._whole = Prepared(
                run_id=self.run_id, command=command, environment=self.environment, backend=self.backend, anchor=None, kept=None, opened=self.opened, **fields
            )
        return self._whole

    def find_table(self, cgroup: CgroupRun | None, entries: tuple[str, ...]) -> tuple[Plan, Table] | None:
        """Return plan and table of this run; None where they have to be built because the run's cgroup has other files."""
        data = self._data
        if bool(entries) is not True or shape_of(cgroup, self.run_id) != data["shape"]:
            return None
        from sandbox.plan.vectors import replace_vectors

        run_id = self.run_id.encode()
        table = bytearray(data["table"])
        for at in data["ids"]:
            table[at : at + ID_BYTES] = run_id
        inner = data["plain"]["inner"]
        argv = self.command.argv if inner is None else (inner, *self.command.argv[1:])
        words = [word.encode("utf-8", "surrogateescape") for word in argv]
        variables = [f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in self.environment]
        made: Any = Later(replace_vectors(bytes(table), data["row"], words, variables), data["plain"]["plan_notes"], self, cgroup, entries)
        return made, made


class _Image:
    """See `images.model.Image`; what is needed to hold it."""

    __slots__ = ("digest", "short_id")

    def __init__(self, digest: str) -> None:
        self.digest, self.short_id = digest, digest[7:19]


class _Light:
    """A record of which the few fields that a run needs are at hand."""

    __slots__ = ("_find", "_plain")

    def __init__(self, plain: dict[str, Any], find: Callable[[], Any]) -> None:
        self._plain, self._find = plain, find

    def __getattr__(self, name: str) -> Any:
        plain = self._plain
        if name not in plain:
            return getattr(self._find(), name)
        value = plain[name]
        return _Light(value, lambda: getattr(self._find(), name)) if type(value) is dict else value


class Later:
    """Plan and table of a stored launch: bytes now, the words for a failure when there is one."""

    def __init__(self, data: bytes, notes: tuple[str, ...], stored: Stored, cgroup: CgroupRun | None, entries: tuple[str, ...]) -> None:
        self.data, self.notes = data, notes
        self._stored, self._cgroup, self._entries = stored, cgroup, entries
        self._built: tuple[Plan, Table] | None = None

    def _build(self) -> tuple[Plan, Table]:
        if self._built is None:
            from sandbox.api.requesting import build_request
            from sandbox.plan.build import build_plan
            from sandbox.plan.lower import lower_plan

            # A host id is in no table: the maps are written from outside.
            plan = build_plan(build_request(self._stored.whole(), outside_id=-1, cgroup=self._cgroup, entries=self._entries))
            self._built = plan, lower_plan(plan)
        return self._built

    @property
    def rows(self) -> Any:
        """See `Table.rows`."""
        return self._build()[1].rows

    def steps(self) -> Any:
        """See `Plan.steps`."""
        return self._build()[0].steps()


def shape_of(cgroup: CgroupRun | None, run_id: str) -> tuple[object, ...]:
    """Return the files of a run's cgroup without its id and the numbers of descriptors: what the table says of them."""
    if cgroup is None:
        return ()
    index: dict[int, int] = {}
    return tuple(
        tuple((index.setdefault(fd, len(index)), path.replace(run_id, "")) for fd, path in files)
        for files in (cgroup.joins, cgroup.removals, cgroup.thaws)
    )  # fmt: skip


class Decoder:
    """The way back; makes records and enumerations of ours and nothing else."""

    def __init__(self, encoded: tuple[Any, ...]) -> None:
        self._fields, objects = encoded
        self._made: list[object] = []
        for name, fields in objects:
            kind = _find_class(name)
            made = object.__new__(kind)
            for key, value in fields.items():
                object.__setattr__(made, key, self._decode(value))
            self._made.append(made)

    def record(self) -> dict[str, Any]:
        """Return the named values."""
        return {name: self._decode(value) for name, value in self._fields.items()}

    def _decode(self, value: Any) -> Any:
        kind = type(value)
        if kind is tuple:
            return tuple([self._decode(item) for item in value])
        if kind is dict:
            return {self._decode(key): self._decode(item) for key, item in value["items"]}
        if kind is list:
            return self._made[value[0]] if len(value) == 1 else _find_class(value[0])(value[1])
        return value


def _find_class(name: str) -> Any:
    module, _, path = name.partition(":")
    if module.partition(".")[0] != "sandbox":
        raise TypeError(f"`{name}` is no class of ours")
    __import__(module)
    found: Any = getattr(sys.modules[module], path)
    if not isinstance(found, type) or not (hasattr(found, "__record_fields__") or hasattr(found, "_value2member_map_")):
        raise TypeError(f"`{name}` is no record")
    return found


__all__ = [
    "MAXIMUM_BYTES", "VARIABLE", "Command", "Decoder", "Stored", "describe_backend", "entry_name", "file_state", "recall", "seal", "shape_of",
    "store_path",
]  # fmt: skip
