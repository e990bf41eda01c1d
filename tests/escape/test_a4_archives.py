"""A4, archives: an image is a stranger's archive. Hostile layers, layouts, `docker save` archives and directories, each against an import.

References: the whiteout and path rules of OCI's image specification; CVE-2018-15664 and CVE-2019-14271 (docker cp and tar), CVE-2021-41190 (a manifest that
is an index), CVE-2007-4559 (Python's tarfile), CVE-2024-21626 (a working directory behind a descriptor), zip slip. What every case tries is in its table;
what became of it is recorded in `hostile_outcomes.txt`, so that a change of words or of mind is seen. ``SANDBOX_GOLDEN=write`` writes it again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from escape.hostile import WALL_S, clean, dangers, judge, look_at_store, naive, own_importer, plain
from escape.hostile_cases import Case, Must
from escape.hostile_layouts import CASES as LAYOUTS
from escape.hostile_tar import CASES as LAYERS

CASES = {case.name: case for case in (*LAYERS, *LAYOUTS)}
OUTCOMES = Path(__file__).with_name("hostile_outcomes.txt")
HANG_S = 3.0
"""After which a program that waits for a fifo's other end is taken to wait for ever."""

# Of each kind the case that shows the attack succeed, and what it does: `changes` something outside, leaves a `danger`, `crashes`, or is `believed`.
CONTROLS = {
    "absolute-name": ("absolute", "changes"),
    "bomb-depth": ("depth-in-one-name", "crashes"),
    "bomb-entries": ("many-entries", "danger"),
    "bomb-header": ("pax-header-claimed", "crashes"),
    "bomb-size": ("bomb-gzip", "crashes"),
    "bomb-sparse": ("sparse-gnu", "crashes"),
    "broken": ("size-smuggle", "changes"),
    "config": ("env-nul", "believed"),
    "device": ("fifo-then-file", "crashes"),
    "digest": ("config-corrupt", "believed"),
    "digest-path": ("layer-digest-path", "danger"),
    "dotdot-name": ("dotdot", "changes"),
    "forged-overlay": ("xattr-user.overlay.opaque", "danger"),
    "hardlink-follow": ("hardlink-to-symlink", "changes"),
    "hardlink-odd": ("hardlink-directory", "believed"),
    "hardlink-outside": ("hardlink-absolute", "changes"),
    "json": ("index-no-object", "crashes"),
    "json-bomb": ("index-nested", "crashes"),
    "layers": ("diff-ids-more", "believed"),
    "layout-link": ("layer-symlink", "danger"),
    "layout-odd": ("index-fifo", "crashes"),
    "media-type": ("layer-media-type", "believed"),
    "name": ("saved-tags-path", "believed"),
    "odd-name": ("nul-in-name", "crashes"),
    "odd-type": ("type-multi", "believed"),
    "saved-odd": ("saved-layer-absent", "crashes"),
    "saved-path": ("saved-layer-hardlink", "changes"),
    "set-id": ("setuid", "danger"),
    "size": ("layer-size-less", "believed"),
    "source-directory": ("directory-link", "danger"),
    "symlink-follow": ("symlink-directory-mode", "changes"),
    "symlink-open": ("symlink-file", "changes"),
    "symlink-walk": ("symlink-absolute", "changes"),
    "whiteout-odd": ("whiteout-twice", "crashes"),
    "whiteout-outside": ("whiteout-symlink", "changes"),
}


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory that a user who is nobody can reach: pytest's own are root's where root runs the tests."""
    path = Path(tempfile.mkdtemp(prefix="hostile-"))
    yield path
    clean(path)


def recorded() -> dict[str, str]:
    return dict(line.split("\t", 1) for line in OUTCOMES.read_text().splitlines())


def test_the_table() -> None:
    assert len(CASES) == len(LAYERS) + len(LAYOUTS) >= 300, "names are unique"
    assert {case.kind for case in CASES.values()} == CONTROLS.keys(), "each kind has its control"
    assert all(CASES[name].kind == kind for kind, (name, _) in CONTROLS.items())
    assert list(recorded()) == sorted(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_archive_harms_nothing(scratch: Path, name: str) -> None:
    case = CASES[name]
    outcome, changed = judge(case, own_importer, scratch)
    assert not changed, f"{case.tries}: something outside the store has changed"
    assert not outcome.crashed, f"{case.tries}: neither an image nor an error: {outcome.crashed}"
    problems = look_at_store(scratch)
    assert not problems, case.tries
    refused = case.must is Must.REFUSED
    assert bool(outcome.refused) is refused, f"{case.tries}: {outcome.refused or outcome.value}"
    line = f"refused: {plain(outcome.refused, scratch)}" if refused else "harmless" + "".join(f", {note}" for note in outcome.value[0][1:])
    if os.environ.get("SANDBOX_GOLDEN") == "write":
        lines = {**(recorded() if OUTCOMES.exists() else {}), name: line}
        OUTCOMES.write_text("".join(f"{each}\t{lines[each]}\n" for each in sorted(lines) if each in CASES))
    if "zstd" in line and refused:  # in the words of the program that is installed, or that there is none
        assert line.startswith("refused: unpack ")
        assert recorded()[name].startswith("refused: unpack ")
        return
    assert recorded()[name] == line


@pytest.mark.parametrize("kind", CONTROLS)
def test_control_the_attack_succeeds_against_a_naive_importer(scratch: Path, kind: str) -> None:
    name, how = CONTROLS[kind]
    case = CASES[name]
    outcome, changed = judge(case, naive, scratch, HANG_S if kind in ("device", "layout-odd") else WALL_S)
    match how:
        case "changes":
            assert changed
        case "danger":
            assert dangers(scratch)
        case "crashes":
            assert outcome.crashed
        case _:
            assert case.must is Must.REFUSED and outcome.value, f"it is not believed: {outcome}"


def test_what_leads_outside_stays_in_the_tree(scratch: Path) -> None:
    """A link to an absolute path is followed, inside the image: what an archive puts behind it is in the image, where a run will find it."""
    case: Case = CASES["symlink-absolute"]
    outcome, changed = judge(case, own_importer, scratch)
    assert outcome.value and not changed
    inside = [path for path in (scratch / "home/data/images/layers").rglob("canary") if path.is_file()]
    assert [path.read_bytes() for path in inside] == [b"evil"]
    assert str(inside[0]).endswith(f"/tree{scratch}/outside/canary")
