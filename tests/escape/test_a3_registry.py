"""A3: a program inside must not reach supervisors, its own or a neighbour's, nor write entries that the user's `sandbox kill` would act on."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from escape.support import neighbour, run_payload, shared_directory
from escape.walls import no_filter

import sandbox
from sandbox.api.prepare import Prepared
from sandbox.errors import PolicyError
from sandbox.plan.root import Tmpfs


def unhidden(prepared: Prepared) -> Prepared:
    """Take the cover of the registry away."""
    entries = tuple(entry for entry in prepared.root.entries if not (isinstance(entry, Tmpfs) and entry.path.endswith("/sandbox")))
    return replace(prepared, root=replace(prepared.root, entries=entries))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a directory to share, in which the registry is, and make its runs the payload's own user's to reach."""
    host = shared_directory(tmp_path / "d")
    monkeypatch.setenv("SANDBOX_RUNTIME_DIR", str(host / "sandbox"))
    yield host


@pytest.fixture
def victim(place: Path) -> Iterator[sandbox.Running]:
    """Return a run in that registry."""
    thread = threading.Thread(target=lambda: sandbox.run(["sleep", "900"], name="victim", timeout=900))
    thread.start()
    while not (found := [run for run in sandbox.running() if run.stats().state is sandbox.RunState.RUNNING]):
        assert thread.is_alive(), "the victim has not started"
        threading.Event().wait(0.01)
    yield found[0]
    found[0].kill()
    thread.join()


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_a_share_around_it_shows_nothing(place: Path, victim: sandbox.Running, mode: str) -> None:
    """Rule: the directory of entries is covered in every share. Without the filter, too, so that it is the cover that holds."""
    run = run_payload(
        "a3_registry.py", "/data/sandbox", "--", victim.run_id, profile="default", volumes=[f"{place}:/data:{mode}"], alter=no_filter, stdin=b"\n",
        same_user=True,
    )  # fmt: skip
    assert run["seen0"] == "empty"
    assert run["stats0"] == run["kill0"] == "ENOENT"
    assert run["forge0"] != "ok" and run["remove0"] != "ok" and run["move0"] != "ok"
    assert run["descriptors"] == "none"
    assert victim.stats().state is sandbox.RunState.RUNNING
    assert not (place / "sandbox2").exists()


def test_without_the_cover_it_is_reached(place: Path, victim: sandbox.Running) -> None:
    """Removed: the cover, and the filter's refusal of connect. Then a program of the same user kills its neighbour, which is why the cover is there."""
    if os.geteuid() == 0:
        pytest.skip("root's payload is another user: the directory's mode keeps it out, whatever is shared")
    run = run_payload(
        "a3_registry.py", "/data/sandbox", "--", victim.run_id, profile="default", volumes=[f"{place}:/data:rw"], alter=no_filter, refit=unhidden,
        stdin=b"\n",
    )  # fmt: skip
    assert victim.run_id in run["seen0"]
    assert run["stats0"] == run["forge0"] == "ok"
    if (place / "sandbox2").exists():
        os.rename(place / "sandbox2", place / "sandbox")
    (place / "sandbox" / "19abcdef012-0123abcd").unlink(missing_ok=True)


def test_entries_that_come_later_are_covered(place: Path) -> None:
    """The directory does not exist when the sandbox starts: it is made, to be covered, for the next run would make it in full view."""
    assert not (place / "sandbox").exists()
    with neighbour(
        "a3_registry.py",
        "/data/sandbox",
        "--",
        "19abcdef012-0123abcd",
        profile="default",
        volumes=[f"{place}:/data"],
        alter=no_filter,
        same_user=True,
    ) as beside:
        beside.wait_for("ready")
        assert len(sandbox.running()) == 1  # the payload's own run is in the list outside
        beside.write(b"\n")
        assert beside.wait_for("seen0") == "empty"
        assert beside.wait_for("stats0") == "ENOENT"


@pytest.mark.parametrize("mode", ["ro", "rw"])
@pytest.mark.parametrize("below", ["", "/inner"])
def test_the_directory_itself_is_not_shared(place: Path, mode: str, below: str) -> None:
    (place / "sandbox" / "inner").mkdir(parents=True)
    (place / "sandbox").chmod(0o700)
    with pytest.raises(PolicyError, match="the sockets of running sandboxes are there"):
        sandbox.run(["true"], volumes=[f"{place}/sandbox{below}:/data:{mode}"])


def test_the_usual_places_are_covered_too(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SANDBOX_RUNTIME_DIR is somewhere else: runs of another environment (cron) would still register in the usual ones."""
    other = shared_directory(tmp_path / "runtime")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(other))
    run = run_payload(["ls", "-a", "/data"], volumes=[f"{other}:/data"])
    assert run.result.ok, run.err
    binds: list[Any] = [entry for entry in run.plan.steps() if getattr(entry, "path", "") == "/data/sandbox"]
    assert binds, "the cover is in the plan"
    assert run.out.split() == [b".", b"..", b"sandbox"]
    assert (other / "sandbox").is_dir()


def test_runs_that_come_and_go_disturb_no_share(place: Path, victim: sandbox.Running) -> None:
    """Sockets in a share are masked one by one; those of runs are under the cover, so that one that vanishes meanwhile fails nobody."""
    result = sandbox.run(["ls", "/data/sandbox"], volumes=[f"{place}:/data"])
    assert (result.ok, result.stdout) == (True, b"")
