"""Tables in Markdown from the file of a measurement."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from beside.figures import count, quantile, rates, ratio
from beside.measures import CALLS

REFERENCES = ("native", "bwrap+filter")
_LETTERS = (
    "U user, N network, P pid, I ipc, T uts, C cgroup, M mount namespace; r read-only root, p a /proc and d a small /dev of its own, t a tmpfs at /tmp; "
    "c no capabilities, n no_new_privs, s a system call filter; L Landlock, l limits watched by a supervisor, a an audit of denied calls"
)
Row = Sequence[object]


def render(file: Mapping[str, Any]) -> str:
    """Return the whole report."""
    host = file["host"]
    parts = [
        f"{host['date']}, commit {host['commit'] or 'unknown'}, uid {host['uid']}: {host['cpus']} × {host['cpu']}, {host['memory_gib']} GiB, "
        f"Linux {host['kernel']}, Python {host['python']}. Load {host['load'][0]:.1f} at the start, {file['load_end'][0]:.1f} at the end; "
        f"the machine was busy before {_share(file['busy'])} of the turns (median share then {_median(file['busy'])}). "
        f"{file['settings']['rounds']} rounds of {file['settings']['batch']} launches (slow rows: 1)."
        + (f" All had a processor weight of {file['settings']['cpu_shares']} against others' 1024." if file["settings"].get("cpu_shares") else ""),
        "Versions: " + "; ".join(f"{name}: {said}" for name, said in host["versions"].items()) + ".",
    ]
    for name, measure in file["measures"].items():
        maker: Callable[[str, Mapping[str, Any]], str] = (
            _launches if "us" in measure else _throughput if "at_once" in measure else _calls if "ns" in measure else _memory
        )
        parts.append(maker(name, measure))
    parts.append(f"### What takes part\n\n{_LETTERS}.\n\n" + _table(
        ("row", "has", "note", "command"), [(name, f"`{row['has']}`", row["note"], f"`{row['line']}`") for name, row in file["rows"].items()], left=4
    ))  # fmt: skip
    absent = [*file["missing"].items(), *((name, "; ".join(texts)) for name, texts in file["failures"].items())]
    if absent:
        parts.append("### Left out, or failed in a measure\n\n" + "\n".join(f"- {name}: {' '.join(why.split())[:300]}" for name, why in absent))
    return "\n\n".join(parts) + "\n"


def _launches(name: str, measure: Mapping[str, Any]) -> str:
    by_row = {row: rounds for row, rounds in measure["us"].items() if count(rounds)}
    references = [row for row in measure.get("references", REFERENCES) if row in by_row]
    pairs: Mapping[str, str] = measure.get("pairs", {})
    rows = []
    for row, rounds in sorted(by_row.items(), key=lambda item: quantile(item[1], 0.5) or 0.0):
        spread = [_ms(quantile(rounds, share)) for share in (0.5, 0.9, 0.99)]
        ratios = [_number(ratio(rounds, by_row[other])) for other in references]
        if pairs:
            ratios.append(_number(ratio(rounds, by_row[pairs[row]])) if pairs.get(row) in by_row else "")
        rows.append((row, count(rounds), *spread, *ratios))
    head = ("row", "launches", "p50 ms", "p90", "p99", *(f"× {other}" for other in references), *(("× the same, smaller",) if pairs else ()))
    return f"### {name}: `{measure['program']}`\n\n" + _table(head, rows)


def _throughput(name: str, measure: Mapping[str, Any]) -> str:
    found = measure["at_once"]
    numbers = sorted({int(number) for by_count in found.values() for number in by_count})
    rows: list[list[str]] = []
    for row, by_count in found.items():
        cells = [row]
        for at_once in map(str, numbers):
            slices = by_count.get(at_once, [])
            cells.append(f"{sum(s['n'] for s in slices) / sum(s['wall_s'] for s in slices):.0f}" if slices else "")
            paired = [[rate] for rate in rates(slices)]
            cells.append(_number(ratio(paired, [[rate] for rate in rates(found.get(REFERENCES[1], {}).get(at_once, []))])))
        spent = [s for slices in by_count.values() for s in slices if "cpu_s" in s]
        cells.append(f"{1000 * sum(s['cpu_s'] for s in spent) / sum(s['n'] for s in spent):.2f}" if spent else "")
        cells.append(str(sum(s["failed"] for slices in by_count.values() for s in slices) or ""))
        rows.append(cells)
    column = 1 + 2 * (numbers.index(2) if 2 in numbers else 0)
    rows.sort(key=lambda cells: -float(cells[column] or "0"))
    head = ["row"]
    for number in numbers:
        head += [f"{number} at once, a second", f"× {REFERENCES[1]}"]
    return f"### {name}: `{measure['program']}`\n\n" + _table((*head, "CPU ms each", "failed"), rows)


def _calls(name: str, measure: Mapping[str, Any]) -> str:
    native = measure["ns"].get("native", [])
    rows = []
    for row, rounds in measure["ns"].items():
        cells: list[object] = [row]
        for call in CALLS:
            own = [[entry[call]] for entry in rounds]
            paired = ratio(own, [[entry[call]] for entry in native])
            cells.append(f"{statistics.median(batch[0] for batch in own):.0f} ({_number(paired)})")
        rows.append(cells)
    return f"### {name}: ns a call inside, in brackets × native\n\n" + _table(("row", *CALLS), rows)


def _memory(name: str, measure: Mapping[str, Any]) -> str:
    rows = []
    for row, by_count in measure["idle"].items():
        counts = sorted(map(int, by_count))
        few, many = by_count[str(counts[0])], by_count[str(counts[-1])]
        more = counts[-1] - counts[0]
        each = (many["pss"] - few["pss"]) / more if more else many["pss"]
        caller = (many["caller_pss"] - few["caller_pss"]) / more if more and many["caller_pss"] is not None and few["caller_pss"] is not None else None
        own = few["caller_pss"]
        rows.append((
            row, counts[-1], many["processes"], _kib(each), _kib(caller), _kib(few["pss"] - each * counts[0]), _kib(own),
            _kib((many["kernel"] - few["kernel"]) / more if more else many["kernel"]), many["unreadable"] or "",
        ))  # fmt: skip
    head = ("row", "idle", "processes", "PSS each, KiB", "caller's growth each", "PSS once", "caller", "kernel each", "unreadable")
    return f"### {name}\n\n" + _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Row], left: int = 1) -> str:
    lines = [head, ["---"] * left + ["---:"] * (len(head) - left), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _ms(us: float | None) -> str:
    return "" if us is None else f"{us / 1000:.2f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _kib(size: float | None) -> str:
    return "" if size is None else f"{size / 1024:.0f}"


def _share(busy: Sequence[float]) -> str:
    return f"{100 * sum(share > 0.1 for share in busy) / len(busy):.0f} %" if busy else "0 %"


def _median(busy: Sequence[float]) -> str:
    return f"{statistics.median(busy):.2f}" if busy else "0"
