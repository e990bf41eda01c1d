"""The ways in which a `Sandbox` can start a run, by the names that `Result.launched` has, and how each is asked for. Used by benchmarks and by the soak."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sandbox import Sandbox, SandboxError
from sandbox.api.prepare import load_command_profile
from sandbox.policy.profile import Profile
from sandbox.result import Result

PYTHON = ("/usr/bin/python3",)
"""How command lines begin that a waiting interpreter may take."""

POOL = 4
"""Runs that are built ahead where nothing else is said."""


class Unavailable(Exception):
    """This tier does not exist in this version, or not on this host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A way to start runs.

    Attributes:
        launched: what `Result.launched` must be.
        arguments: what `Sandbox` needs for it.
        switched_off: shortcuts of the profile's `[launch]` that it must not use.
        note: for tables.
    """

    launched: str
    arguments: Mapping[str, object]
    switched_off: tuple[str, ...] = ()
    note: str = ""


TIERS = {
    "spawned": Tier(launched="spawned", arguments={"resident": False}, note="a process of its own starts each run, as for `sandbox.run` and the command line"),
    "anew": Tier(
        launched="anew", arguments={"resident": True}, switched_off=("template", "recycle-network", "cgroups-ahead"),
        note="a resident server; root, namespaces and cgroup made anew by each run",
    ),
    "template": Tier(launched="template", arguments={"resident": True}, note="a resident server that has the finished root"),
    "pool": Tier(launched="pool", arguments={"pool": POOL}, note=f"{POOL} built ahead"),
    "interpreter-started": Tier(
        launched="interpreter", arguments={"python": {"command": PYTHON, "mode": "started", "size": POOL}}, note="Python already runs; each its own start",
    ),
    "interpreter-forked": Tier(
        launched="interpreter", arguments={"python": {"command": PYTHON, "mode": "forked", "size": POOL}}, note="Python already runs; forks of one",
    ),
}  # fmt: skip


def open_tier(name: str, *, profile: str = "strict", pool: int | None = None, modules: tuple[str, ...] = (), **settings: Any) -> Sandbox:
    """Return a `Sandbox` that starts its runs in one way.

    Args:
        name: a key of `TIERS`.
        profile: a shipped profile.
        pool: another number of runs that are built ahead, where any are.
        modules: what a waiting interpreter has imported.
        settings: other arguments of `Sandbox`.

    Raises:
        Unavailable: this version has no such tier.
    """
    tier = TIERS[name]
    arguments: dict[str, Any] = {**tier.arguments, **settings}
    if pool is not None and "pool" in arguments:
        arguments["pool"] = pool
    if "python" in arguments:
        arguments["python"] = {**arguments["python"], "modules": modules, **({} if pool is None else {"size": pool})}
    try:
        return Sandbox(_without(profile, tier.switched_off), **arguments)
    except TypeError as error:
        if name == "spawned" and "resident" in str(error):
            return Sandbox(profile, **settings)
        raise Unavailable(f"`Sandbox` of this version: {error}") from error
    except SandboxError as error:
        raise Unavailable(str(error)) from error


def _without(profile: str, shortcuts: tuple[str, ...]) -> str | Profile:
    """Return a profile that forbids shortcuts of a launch."""
    if not shortcuts:
        return profile
    with tempfile.NamedTemporaryFile("w", prefix="bench-", suffix=".toml") as file:
        file.write(f'extends = "{profile}"\n[launch]\n' + "".join(f"{shortcut} = false\n" for shortcut in shortcuts))
        file.flush()
        return load_command_profile(file.name)


def check_tier(name: str, result: Result) -> str:
    """Return why a result is none of this tier, empty if it is."""
    launched = getattr(result, "launched", "spawned")
    return "" if launched == TIERS[name].launched else f"launched `{launched}`, not `{TIERS[name].launched}`"
