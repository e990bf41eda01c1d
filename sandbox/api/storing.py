"""Writes entries of prepared launches for `stored`: what they depend on, the table with nothing of one run in it, and the rest as plain values."""

from __future__ import annotations

import marshal
import os
import sys
import time

from sandbox.api.listener import Listener
from sandbox.api.stored import ID_BYTES, MAXIMUM_BYTES, describe_backend, file_state, seal, shape_of, store_path
from sandbox.store import open_directory, write_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

    from sandbox.api.prepare import Prepared

MAXIMUM_ENTRIES = 128
"""With more, those that were made longest ago go."""

_SETTLED_NS = 2_000_000_000  # coarser than any file system's clock
# Fields of a prepared launch that each run has of its own.
_OWN = ("run_id", "command", "environment", "backend", "anchor", "kept", "opened")


def listen(prepare: Callable[[], Prepared]) -> tuple[Prepared, Noted | None]:
    """Prepare a launch and note what it depends on.

    Returns:
        the launch, and what `keep` needs; None where it cannot be stored.
    """
    import resource
    from importlib import import_module

    prepare_module: Any = import_module("sandbox.api.prepare")
    recall_module: Any = import_module("sandbox.api.recall")
    host_module: Any = import_module("sandbox.rootfs.host")
    machine_module: Any = import_module("sandbox.rootfs.machine_view")
    listener = Listener()
    environ = os.environ
    noted = Noted(listener)
    passing_module: Any = import_module("sandbox.rootfs.environment")
    matching = passing_module.matching_variables
    limits, find, load, compose = resource.getrlimit, prepare_module.find_backend, recall_module.load_filter, host_module.compose_environment
    model = machine_module.read_model

    def getrlimit(number: int) -> tuple[int, int]:
        listener.look_at("/proc/self/limits")
        return limits(number)

    def find_backend() -> Any:
        before = {kind: dict(answers) for kind, answers in listener.notes.items()}
        found = find()
        if found is not None:  # looked for again by every run: what it depends on (who is in our cgroup) is another each time
            for kind, answers in before.items():
                listener.notes[kind].clear()
                listener.notes[kind].update(answers)
        return found

    def read_model() -> str:
        listener.look_at("/proc/sys/kernel/random/boot_id")  # processors are what they are until then; their clock is read otherwise each time
        found: str = listener.aside(model)()
        return found

    def load_filter(*args: Any, **named: Any) -> Any:
        from sandbox.seccomp.cache import libseccomp_version

        libseccomp_version()
        return listener.aside(load)(*args, **named)

    def compose_environment(profile: Any, environment: Any, *, path: str, extra: Mapping[str, str]) -> dict[str, str]:
        from sandbox.rootfs.environment import fixed_variables

        noted.fixed = tuple(fixed_variables(profile, path=path, extra=extra).items())
        composed: dict[str, str] = compose(profile, environ, path=path, extra=extra)
        return composed

    def matching_variables(patterns: Any, environment: Any) -> dict[str, str]:
        found: dict[str, str] = matching(patterns, environ)  # their values are the run's own
        if "PATH" in found:
            environment.get("PATH")  # but this one, by which the program is found
        return found

    replaced: tuple[tuple[Any, str, Any, Any], ...] = (
        (resource, "getrlimit", getrlimit, limits), (prepare_module, "find_backend", find_backend, find),
        (recall_module, "load_filter", load_filter, load), (host_module, "compose_environment", compose_environment, compose),
        (passing_module, "matching_variables", matching_variables, matching),
        (machine_module, "read_model", read_model, model),
    )  # fmt: skip
    for module, name, made, _ in replaced:
        setattr(module, name, made)
    try:
        with listener:
            prepared = prepare()
    finally:
        for module, name, _, before in replaced:
            setattr(module, name, before)
    profile = prepared.profile
    keep = not listener.void and not profile.time_namespace and prepared.root.entries and not prepared.command.files
    return prepared, noted if keep else None


class Noted:
    """What preparing a launch asked of the host, and the variables that are no caller's."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.began_ns = time.time_ns()
        self.fixed: tuple[tuple[str, str], ...] = ()


def keep(name: str, prepared: Prepared, noted: Noted, environ: Mapping[str, str]) -> None:
    """Store a launch that was run; failing to is no error."""
    directory = open_directory(store_path(environ))
    if directory is None:
        return
    try:
        data = _describe_launch(prepared, noted)
        if data is not None:
            fields = Encoder().record({name: getattr(prepared, name) for name in prepared.__slots__ if name not in _OWN})
            content = seal(name, data, marshal.dumps(fields))
            if len(content) <= MAXIMUM_BYTES:
                _make_room(directory)
                write_entry(directory, name, content)
    except OSError:
        pass
    finally:
        os.close(directory)


def _make_room(directory: int) -> None:
    """Remove the entries that were made longest ago where there are too many."""
    names = os.listdir(directory)
    if len(names) < MAXIMUM_ENTRIES:
        return
    ages = []
    for name in names:
        try:
            ages.append((os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime_ns, name))
        except OSError:
            continue
    for _, name in sorted(ages)[: len(ages) - MAXIMUM_ENTRIES * 3 // 4]:
        try:
            os.unlink(name, dir_fd=directory)
        except OSError:
            continue


def _describe_launch(prepared: Prepared, noted: Noted) -> dict[str, Any] | None:
    """Return what an entry holds; None where a run's table cannot be told from another's."""
    from sandbox.api.requesting import build_request, inner_argv
    from sandbox.api.tables import ANY_ID, generalize
    from sandbox.plan.build import build_plan
    from sandbox.plan.codec import Op
    from sandbox.plan.lower import lower_plan
    from sandbox.record import replace
    from sandbox.registry.entry import entry_names

    command = prepared.command
    bare = replace(prepared, command=replace(command, argv=command.argv[:1]), environment=())
    cgroup = None if prepared.backend is None else prepared.backend.reserve(prepared.run_id, prepared.cgroup_limits)
    try:
        request = build_request(bare, outside_id=-1, cgroup=cgroup, entries=entry_names(prepared.run_id))
        shape = shape_of(cgroup, prepared.run_id)
    finally:
        if cgroup is not None:
            cgroup.close()
    code = tuple((file, file_state(file)) for file in _code_files())
    # What was changed a moment before, or since, is perhaps not what was loaded.
    if any(state is None or state[-1] > noted.began_ns - _SETTLED_NS for _, state in code):
        return None
    plan = build_plan(generalize(request, prepared.run_id))
    table = lower_plan(plan)
    mark, ids, at = ANY_ID.encode(), [], table.data.find(ANY_ID.encode())
    while at >= 0:
        ids.append(at)
        at = table.data.find(mark, at + 1)
    calls = [index for index, row in enumerate(table.rows) if row.op is Op.CALL and row.label.startswith("execve ")]
    if len(mark) != ID_BYTES or len(prepared.run_id) != ID_BYTES or len(calls) != 1:
        return None
    profile, policy = prepared.profile, prepared.policy
    inner, listener = inner_argv(prepared)[0], noted.listener
    fixed = noted.fixed if listener.environment is None else tuple(profile.env_set)
    return {
        "code": code,
        "questions": noted.listener.notes,
        "backend": describe_backend(prepared.backend),
        "shape": shape,
        "table": table.data.replace(mark, bytes(ID_BYTES)),
        "ids": tuple(ids),
        "row": calls[0],
        "plain": {
            "profile": {
                "name": profile.name, "digest": profile.digest, "measure_instructions": profile.measure_instructions, "time_namespace": False,
                "uid": profile.uid, "gid": profile.gid, "limits": _plain_fields(profile.limits),
            },
            "machine": None if prepared.machine is None else _plain_fields(prepared.machine),
            "cgroup_limits": _plain_fields(prepared.cgroup_limits),
            "policy": {"name": policy.name, "digest": policy.digest},
            "notes": prepared.notes, "sampled": tuple(sorted(prepared.sampled)), "as_root": prepared.as_root, "external_map": prepared.external_map,
            "owners": prepared.owners,
            "arch": str(prepared.arch), "passed": tuple(profile.env_pass), "fixed": fixed, "below": listener.environment, "before": listener.before,
            "image": "" if prepared.image is None else prepared.image.digest, "cwd": command.cwd,
            "enforced": tuple((entry.what, entry.how, entry.weaker) for entry in prepared.enforced),
            "volumes": tuple(tuple(getattr(use, name) for name in use.__slots__) for use in prepared.volumes),
            "require_cgroup": command.require_cgroup, "inner": inner if inner != command.argv[0] else None, "plan_notes": tuple(plan.notes),
        },
    }  # fmt: skip


def _code_files() -> list[str]:
    """Return the files of ours that are loaded: an edit of any of them may make another launch of the same answers."""
    files = (getattr(module, "__file__", None) for name, module in list(sys.modules.items()) if name.partition(".")[0] == "sandbox")
    return sorted({file for file in files if file})


def _plain_fields(record: Any) -> dict[str, Any]:
    return {name: value for name in record.__slots__ if _is_plain(value := getattr(record, name))}


def _is_plain(value: object) -> bool:
    return value is None or type(value) in (int, str, bytes, bool) or (type(value) is tuple and all(map(_is_plain, value)))


class Encoder:
    """Turns records into what `marshal` takes: each record once, in a list, and its index in a list of one wherever it is meant."""

    def __init__(self) -> None:
        self._objects: list[tuple[str, dict[str, Any]]] = []
        self._known: dict[int, tuple[object, int]] = {}

    def record(self, fields: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return plain values for named values."""
        encoded = {name: self.encode(value) for name, value in fields.items()}
        return encoded, self._objects

    def encode(self, value: Any) -> Any:
        """Return a plain value.

        Raises:
            TypeError: it is nothing that a prepared launch has.
        """
        kind = type(value)
        if value is None or kind in (int, str, bytes, bool, float):
            return value
        if kind is tuple:
            return tuple([self.encode(item) for item in value])
        if kind is frozenset:
            return frozenset(value) if all(map(_is_plain, value)) else _refuse(value)
        if kind is dict:
            return {"items": [(self.encode(key), self.encode(item)) for key, item in value.items()]}
        if hasattr(kind, "__record_fields__"):
            known = self._known.get(id(value))
            if known is None:
                fields = {spec.name: self.encode(getattr(value, spec.name)) for spec in kind.__record_fields__}
                known = self._known[id(value)] = value, len(self._objects)
                self._objects.append((f"{kind.__module__}:{kind.__qualname__}", fields))
            return [known[1]]
        if hasattr(kind, "_value2member_map_"):
            return [f"{kind.__module__}:{kind.__qualname__}", value.value]
        return _refuse(value)


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"a launch with a {type(value).__name__} cannot be stored")


__all__ = ["MAXIMUM_ENTRIES", "Encoder", "Noted", "keep", "listen"]
