"""The committed tables are those of the register: no way without its row, no row without its way, no figure that was not measured."""

from __future__ import annotations

import re

from limits.table import BACKENDS, BEGIN, END, REFERENCE, SECURITY, documents, load, passed
from limits.ways import LIMITS, WAYS


def test_the_documents_are_what_the_measurements_say() -> None:
    for path, text in documents().items():
        assert path.read_text() == text, f"`{path.name}`: run tests/limits/table.py --render"


def test_each_registered_way_has_its_row_and_each_row_its_way() -> None:
    names = {(way.limit, way.name) for way in WAYS}
    assert len(names) == len(WAYS), "no way twice"
    for backend, rows in load().items():
        assert rows.keys() == names, (backend, sorted(rows.keys() ^ names))
    assert load().keys() <= BACKENDS.keys()
    printed, limit = set(), ""
    for line in REFERENCE.read_text().splitlines():
        if heading := re.match(r"## (\S+): ", line):
            limit = heading[1]
        elif row := re.match(r"\| `([a-z0-9-]+)` \|", line):
            printed.add((limit, row[1]))
    assert printed == names


def test_what_was_measured_is_what_is_promised() -> None:
    """A way that got past is marked in the register, with its reason; and one that is marked for the fallback did get past it."""
    for backend, rows in load().items():
        for way in WAYS:
            through = passed(LIMITS[way.limit], rows[way.limit, way.name])
            excused = bool(way.unheld) or (backend == "fallback-user" and bool(way.weak))
            assert not through or excused, (backend, way.key)
            assert through or not (backend == "fallback-user" and way.weak), (way.key, "is held after all: take the mark away")


def test_every_limit_is_attacked_in_about_twenty_ways() -> None:
    for limit in LIMITS:
        assert sum(way.limit == limit for way in WAYS) >= 19, limit


def test_the_fallback_table_is_in_the_security_policy() -> None:
    text = SECURITY.read_text()
    table = text[text.index(BEGIN) : text.index(END)]
    for limit in LIMITS:
        assert f"| {limit} |" in table
    for way in WAYS:
        assert (f"`{way.name}`" in table) or not (way.weak or way.unheld), way.key
