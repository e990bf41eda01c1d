"""Taking walls out of a plan: alterations that drop, change or insert steps after `check_plan` has proved the whole one. Pure.

Only `escape.support` imports this module; tests take the names from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from sandbox.abi import uapi
from sandbox.plan.steps import CloneInit, ClonePayload, ForbidNamespaces, InstallFilter, MapIds, Plan, Step

Alteration: TypeAlias = Callable[[Plan], Plan]
Section: TypeAlias = str
"""A part of a plan: ``janitor``, ``init`` or ``payload``."""
Wall: TypeAlias = "type[Step] | tuple[Section, type[Step]]"
SECTIONS = ("janitor", "init", "payload")


def drop(*walls: Wall) -> Alteration:
    """Return the alteration that drops steps by type, everywhere or in one section: ``drop(NewKeyring, ("payload", InstallFilter))``.

    It fails when the plan has no such step: a wall that is not there cannot be what stopped the attack.
    """
    wanted = [wall if isinstance(wall, tuple) else (None, wall) for wall in walls]

    def alter(plan: Plan) -> Plan:
        for section, kind in wanted:
            parts = (section,) if section else SECTIONS
            kept = {part: tuple(step for step in getattr(plan, part) if not isinstance(step, kind)) for part in parts}
            assert any(kept[part] != getattr(plan, part) for part in parts), f"the plan has no step {kind.__name__} to drop"
            plan = replace(plan, **kept)
        return plan

    return alter


def change(wall: Wall, **fields: Any) -> Alteration:
    """Return the alteration that changes fields of every step of a type: ``change(MountProc, minimal=False)``."""
    section, kind = wall if isinstance(wall, tuple) else (None, wall)

    def alter(plan: Plan) -> Plan:
        found = 0
        for part in (section,) if section else SECTIONS:
            steps = []
            for step in getattr(plan, part):
                if isinstance(step, kind):
                    found += 1
                    step = replace(step, **fields)
                steps.append(step)
            plan = replace(plan, **{part: tuple(steps)})
        assert found, f"the plan has no step {kind.__name__} to change"
        return plan

    return alter


def insert(section: Section, before: type[Step], *steps: Step) -> Alteration:
    """Return the alteration that puts steps in front of the first step of a type."""

    def alter(plan: Plan) -> Plan:
        old = getattr(plan, section)
        place = next(index for index, step in enumerate(old) if isinstance(step, before))
        return replace(plan, **{section: (*old[:place], *steps, *old[place:])})

    return alter


def one_user_namespace(plan: Plan) -> Plan:
    """Leave out the inner user and mount namespace: the payload lives in the one that owns the mounts."""
    payload = tuple(step for step in plan.payload if not isinstance(step, MapIds))
    init = tuple(
        replace(step, flags=0)
        if isinstance(step, ClonePayload)
        else replace(step, allowed_users=0)
        if isinstance(step, ForbidNamespaces)
        else step
        for step in plan.init
    )
    return replace(plan, init=init, payload=payload)


def same_namespaces(flags: int) -> Alteration:
    """Return the alteration that lets init share some of the host's namespaces (``CLONE_NEW*`` flags)."""
    # Init ends a run by kill(-1), which outside a pid namespace of its own would reach every process of the caller.
    assert not flags & uapi.CLONE_NEWPID, "init must be pid 1"

    def alter(plan: Plan) -> Plan:
        return replace(
            plan, janitor=tuple(replace(step, flags=step.flags & ~flags) if isinstance(step, CloneInit) else step for step in plan.janitor)
        )

    return alter


no_filter: Alteration = drop(("payload", InstallFilter))
"""Takes the payload's filter away, so that a test sees what the other walls do."""
