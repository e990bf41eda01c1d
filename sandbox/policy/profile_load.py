"""Makes a `Profile` from TOML: finds the file, follows `extends`, checks every key, remembers where each came from.

Reads files, touches nothing else. An unknown key, a wrong type or a doubtful value refuses the profile: a typing mistake must never give
a weaker sandbox. `api`, `cli` and the tests import this module.
"""

from __future__ import annotations

import os

from sandbox.errors import PolicyError
from sandbox.policy.locate import names, resolve
from sandbox.policy.nearest import suggest
from sandbox.policy.places import Where
from sandbox.policy.profile import Limits, Profile, Volume
from sandbox.policy.profile_fields import FIELDS, LIMITS, TABLES, TOP_KEYS, check_variable
from sandbox.policy.profile_volumes import check_volume_targets
from sandbox.policy.toml_source import TomlSource, read_toml
from sandbox.record import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

_MAXIMUM_DEPTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileInfo:
    """One line of ``sandbox profiles``; a profile that does not load has the reason as its description."""

    name: str
    description: str
    path: str


@dataclass(slots=True)
class _Gathered:
    """What the files of one profile have said so far; later files win, volumes and variables add up."""

    values: dict[str, Any]
    origins: dict[str, str]
    sources: list[TomlSource]


def load_profile(name_or_path: str) -> Profile:
    """Load a profile by name or path, with everything it extends.

    Args:
        name_or_path: a bare name (shipped profiles, then ``$XDG_CONFIG_HOME/sandbox/profiles``; never the working directory), or a
            path, which has a ``/`` or ends in ``.toml``.

    Raises:
        PolicyError: unknown name, unreadable file, or anything in a file that is not understood; `origin` has file, line and key.
    """
    path = os.path.abspath(resolve(name_or_path, "profiles"))
    gathered = _Gathered({}, {}, [])
    _gather(path, gathered, ())
    values = gathered.values
    for key in ("description", "policy"):
        if key not in values:
            raise PolicyError(f"profile has no `{key}`", origin=path)
    import hashlib

    digest = hashlib.sha256()
    for source in gathered.sources:
        # The length keeps bytes from moving between files without changing the digest.
        digest.update(len(source.data).to_bytes(8, "little") + source.data)
    limits = {FIELDS[key][0]: value for key, value in values.items() if key.startswith("limits.")}
    rest = {FIELDS[key][0]: value for key, value in values.items() if not key.startswith("limits.")}
    profile = Profile(
        name=os.path.basename(path).removesuffix(".toml"),
        path=path,
        digest=digest.hexdigest(),
        limits=Limits(**limits),
        origins=tuple(sorted(gathered.origins.items())),
        sources=tuple(source.path for source in gathered.sources),
        **rest,
    )
    check_volume_targets(profile.volumes)
    return profile


def list_profiles() -> tuple[ProfileInfo, ...]:
    """Return every profile that a bare name can mean, sorted by name. Never raises for a bad file: it is listed with its error."""
    infos = []
    for name in names("profiles"):
        try:
            profile = load_profile(name)
            infos.append(ProfileInfo(name=name, description=profile.description, path=profile.path))
        except PolicyError as error:
            infos.append(ProfileInfo(name=name, description=f"does not load: {error.message}", path=error.origin or ""))
    return tuple(infos)


def override_profile(
    profile: Profile,
    *,
    limits: Mapping[str, object] | None = None,
    volumes: Iterable[Volume] = (),
    env: Mapping[str, str] | None = None,
    env_pass: Iterable[str] = (),
    origin: str = "override",
    **fields: object,
) -> Profile:
    """Return a copy of a profile with what a command line or a caller asked for.

    Args:
        profile: where to start.
        limits: keys as in ``[limits]`` (``open-files`` or ``open_files``), values as in TOML; ``"none"`` or None lifts a limit.
        volumes: appended; one with the target of an earlier volume is refused.
        env: variables to set, over those of the profile.
        env_pass: names or patterns to let through, besides those of the profile.
        origin: who asks, for error messages and `Profile.origins`: ``option `--limit```.
        fields: other keys of the TOML by their last part with ``_`` for ``-``: ``policy``, ``landlock``, ``fallback``, ``cwd``, ``proc``,
            ``network``, ``time``, ``nested``, ``ids``, ``hostname``, ``user``, ``uid``, ``gid``, ``home``, ``etc``, ``system``.
            None means unchanged.

    Raises:
        PolicyError: unknown key or bad value.
    """
    origins = dict(profile.origins)
    changes: dict[str, Any] = {}
    new_limits: dict[str, Any] = {}
    for key, value in (limits or {}).items():
        name = key.replace("_", "-")
        if name not in LIMITS:
            raise PolicyError(f"unknown limit `{key}`", origin=origin, hint=suggest(name, LIMITS))
        attribute, convert = LIMITS[name]
        new_limits[attribute] = convert("none" if value is None else value, Where(key=f"limits.{name}", origin=origin))
        origins[f"limits.{name}"] = origin
    by_last = {key.rpartition(".")[2].replace("-", "_"): key for key in FIELDS if not key.startswith(("limits.", "environment."))}
    by_last.pop("volumes")
    for field, value in fields.items():
        if value is None:
            continue
        if field not in by_last:
            raise PolicyError(f"unknown profile key `{field}`", origin=origin, hint=suggest(field, by_last))
        key = by_last[field]
        attribute, convert = FIELDS[key]
        where = Where(key=key, origin=origin)
        changes[attribute] = convert(list(value) if isinstance(value, tuple) else value, where)
        origins[key] = origin
    added = tuple(volumes)
    if added:
        changes["volumes"] = profile.volumes + added
        check_volume_targets(changes["volumes"])
    if env:
        merged = dict(profile.env_set)
        convert = FIELDS["environment.set"][1]
        merged.update(convert(dict(env), Where(key="environment.set", origin=origin)))  # type: ignore[call-overload]
        changes["env_set"] = tuple(merged.items())
    passed = tuple(env_pass)
    if passed:
        for pattern in passed:
            check_variable(pattern, Where(key="environment.pass", origin=origin), "environment pattern")
        changes["env_pass"] = tuple(dict.fromkeys(profile.env_pass + passed))
    if new_limits:
        changes["limits"] = replace(profile.limits, **new_limits)
    return replace(profile, origins=tuple(sorted(origins.items())), **changes)


def _gather(path: str, gathered: _Gathered, below: tuple[str, ...], named: str | None = None) -> None:
    """Add a file, after the files it extends; `named` is where another file extends it."""
    if path in below:
        chain = " → ".join(f"`{os.path.basename(item)}`" for item in (*below[below.index(path) :], path))
        raise PolicyError(f"profiles extend each other in a circle: {chain}", origin=path)
    if len(below) >= _MAXIMUM_DEPTH:
        raise PolicyError(f"profiles extend each other more than {_MAXIMUM_DEPTH} deep", origin=path)
    source = read_toml(path, origin=named)
    base = os.path.dirname(path)
    for parent in _parents(source):
        where = f"{source.origin('extends')}, extends"
        found = resolve(parent, "profiles", base=base, where=where)
        _gather(os.path.normpath(os.path.join(base, found)), gathered, (*below, path), where)
    gathered.sources.append(source)
    for key, value in _flatten(source):
        origin = source.origin(key)
        converted = FIELDS[key][1](value, Where(key=key, origin=origin, base=base, locate=source.origin))
        before = gathered.values.get(key)
        if before is not None and key == "mounts.volumes":
            converted = (*before, *converted)  # type: ignore[misc]
        elif before is not None and key == "environment.set":
            converted = tuple(dict((*before, *converted)).items())  # type: ignore[misc]
        gathered.values[key] = converted
        gathered.origins[key] = origin


def _parents(source: TomlSource) -> list[str]:
    value = source.table.get("extends", [])
    parents = [value] if isinstance(value, str) else value
    if not isinstance(parents, list) or not all(isinstance(item, str) and item for item in parents):
        where = Where(key="extends", origin=source.origin("extends"))
        where.fail(f"`extends` must be a profile's name or a list of names, not `{value!r}`")
    return parents


def _flatten(source: TomlSource) -> list[tuple[str, object]]:
    """Return (dotted key, value) pairs of the known keys; the first unknown one is an error."""
    pairs: list[tuple[str, object]] = []
    for top, value in source.table.items():
        if top == "extends":
            continue
        where = Where(key=top, origin=source.origin(top))
        if top not in TOP_KEYS:
            dotted = next((key for key in FIELDS if key.rpartition(".")[2] == top), None)
            hint = f"`{top}` belongs to `[{dotted.partition('.')[0]}]`" if dotted else suggest(top, TOP_KEYS)
            where.fail(f"unknown key `{top}`", hint=hint)
        if top not in TABLES:
            pairs.append((top, value))
            continue
        if not isinstance(value, dict):
            where.fail(f"`{top}` must be a table, not `{value!r}`", hint=f"write `[{top}]` on a line of its own")
        known = [key.partition(".")[2] for key in FIELDS if key.startswith(top + ".")]
        for name, item in value.items():
            key = f"{top}.{name}"
            if name not in known:
                Where(key=key, origin=source.origin(key)).fail(f"unknown key `{key}`", hint=suggest(name, known))
            pairs.append((key, item))
    return pairs
