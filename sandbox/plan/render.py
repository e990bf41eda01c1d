"""A plan for human eyes and for tools: ``--dry-run``, ``--dry-run=json``, ``--dry-run=syscalls``. Pure."""

from __future__ import annotations

from sandbox.plan.codec import Op, Ref, Row, Slot, Table
from sandbox.plan.steps import Plan
from sandbox.record import fields

_SECTIONS = ("janitor", "init", "payload")


def render_text(plan: Plan, notes: tuple[str, ...] = ()) -> str:
    """Return the steps, numbered through, under the process that takes them."""
    lines: list[str] = []
    number = 0
    for section in _SECTIONS:
        lines.append(f"{section}:")
        for step in getattr(plan, section):
            number += 1
            lines.append(f"  {number:3}  {step.describe()}")
    lines += [f"note: {note}" for note in (*notes, *plan.notes)]
    return _join(lines)


def render_json(plan: Plan, notes: tuple[str, ...] = ()) -> str:
    """Return the steps with all their fields as JSON; bytes become their length and SHA-256."""
    import json

    document: dict[str, object] = {"schema": 1, "arch": plan.arch}
    for section in _SECTIONS:
        document[section] = [
            {"step": type(step).__name__, "text": step.describe(), **{f.name: _plain(getattr(step, f.name)) for f in fields(step)}}
            for step in getattr(plan, section)
        ]
    document["notes"] = [*notes, *plan.notes]
    return json.dumps(document, indent=2, ensure_ascii=True)


def render_rows(plan: Plan, table: Table) -> str:
    """Return the rows that an executor runs, with the step that each belongs to."""
    steps = plan.steps()
    lines: list[str] = []
    last = -1
    for index, row in enumerate(table.rows):
        if row.step != last:
            last = row.step
            lines.append(f"# step {last + 1}: {steps[last].describe()}")
        lines.append(f"{index:5}  {_row(row)}")
    lines.append(f"# {len(table.rows)} rows, {len(table.data)} bytes")
    return _join(lines)


def _join(lines: list[str]) -> str:
    """Return the lines as text in which the names of a hostile directory can neither make a line nor speak to the terminal."""
    shown = ["".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in line) for line in lines]
    return "\n".join(shown)


def _row(row: Row) -> str:
    words = ", ".join(_arg(arg) for arg in row.args)
    text = f"{row.label} ({words})"
    if row.op is Op.CLONE:
        text += f"; the child continues at row {row.number}"
    if row.store:
        text += f" -> [{row.store:#x}]"
    if row.tolerate:
        import errno

        text += f" or {' '.join(errno.errorcode.get(number, str(number)) for number in row.tolerate)}"
    return text


def _arg(arg: int | Ref | Slot) -> str:
    match arg:
        case Ref(offset=offset):
            return f"&{offset:#x}"
        case Slot(offset=offset):
            return f"[{offset:#x}]"
        case _:
            return str(arg) if -4096 < arg < 4096 else hex(arg & 0xFFFFFFFFFFFFFFFF)


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        import hashlib

        return {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}  # type: ignore[arg-type]
    return value
