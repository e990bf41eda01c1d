"""Hostile submissions: each is judged right, tells nothing that is secret, and leaves the host as it was.

Rules: threats A10; Forisek 2006, Tochev and Bogdanov 2010, Mares and Blackham 2012. The submissions are tests/payloads/judge, and
docs/reference/threat-table-judge.md lists them. The layer removed is the separation of submission, validator and test data: a naive judge
(tests/payloads/judge/naive.py) judges the same submissions on the same packages inside one sandbox, and is fooled.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from escape.judging import (
    GENEROUS_S,
    HONEST,
    Attack,
    Package,
    judge_naively,
    judge_one,
    let_compute,
    load_attacks,
    make_package,
    require,
    sources,
    watch_host,
    worst_code,
)
from escape.support import WALL_S, shared_directory

import sandbox
from sandbox.judge.model import SubmissionResult

ATTACKS = load_attacks()
SLEEPERS = [attack for attack in ATTACKS if "WTL" in attack.expect]
QUICK = [attack for attack in ATTACKS if "WTL" not in attack.expect]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this module's own, for what is compiled once and judged often."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place))
        yield place


def test_there_are_enough() -> None:
    """Sixty were asked for, each with an idea of its own."""
    assert len({attack.idea for attack in ATTACKS}) == len(ATTACKS) >= 60


def _submit(attack: Attack, place: Path) -> Package:
    package = make_package(attack.problem, place)
    package.submit(f"wrong_answer/{attack.path.name}", sources(attack, package))
    return package


@pytest.mark.parametrize("attack", QUICK, ids=lambda attack: attack.name)
def test_a_hostile_submission_is_judged_right(attack: Attack, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict is exactly the right one, no secret is in the result, and the host is as it was."""
    require(attack)
    package = _submit(attack, tmp_path)
    monkeypatch.setenv("JUDGE_SECRET", package.canary)
    options = {} if "TLE" in attack.expect else {"time_limit": GENEROUS_S}
    let_compute(monkeypatch)
    for host in watch_host(package, cache):
        result = judge_one(package, f"wrong_answer/{attack.path.name}", **options)
        host.check()
    _check(attack, result, package)


@pytest.fixture(scope="module")
def asleep(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Mapping[str, tuple[SubmissionResult, Package]]]:
    """Judge those that wait for their limits, all at once, when the first is asked for: beside each other they wait no longer than alone."""

    @functools.cache
    def judge_all() -> Mapping[str, tuple[SubmissionResult, Package]]:
        attacks = [attack for attack in SLEEPERS if shutil.which(attack.tool)]
        packages = [_submit(attack, tmp_path_factory.mktemp("asleep")) for attack in attacks]
        with contextlib.ExitStack() as stack:
            hosts = [stack.enter_context(contextlib.contextmanager(watch_host)(package, cache)) for package in packages]
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setenv("JUDGE_SECRET", " ".join(package.canary for package in packages))
            with concurrent.futures.ThreadPoolExecutor(len(attacks)) as pool:
                results = list(pool.map(lambda attack, package: judge_one(package, f"wrong_answer/{attack.path.name}"), attacks, packages))
            for host in hosts:
                host.check()
        return {attack.name: (result, package) for attack, result, package in zip(attacks, results, packages, strict=True)}

    return judge_all


@pytest.mark.parametrize("attack", SLEEPERS, ids=lambda attack: attack.name)
def test_one_that_sleeps_is_judged_right(attack: Attack, asleep: Callable[[], Mapping[str, tuple[SubmissionResult, Package]]]) -> None:
    """As above, of those that compute nothing and do not end."""
    require(attack)
    _check(attack, *asleep()[attack.name])


def _check(attack: Attack, result: SubmissionResult, package: Package) -> None:
    shown = repr(result)
    assert worst_code(result) in attack.expect, shown[:6000]
    for secret in (package.canary, "JUDGE_SECRET"):  # the right answer may be in what is said to judges
        assert secret not in shown


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if attack.naive != "-"], ids=lambda attack: attack.name)
def test_the_attack_works_on_a_naive_judge(attack: Attack, tmp_path: Path) -> None:
    """The control of the test above: where everything shares one sandbox, the attack gets what it wants."""
    require(attack)
    if attack.control == "yama" and Path("/proc/sys/kernel/yama/ptrace_scope").exists():
        pytest.skip("Yama restricts reading the parent's memory")
    package = make_package(attack.problem, tmp_path)
    result = judge_naively(package, attack, tmp_path)
    words = (result.stdout or b"").decode(errors="replace")
    what = f"{result.verdict}: {result.cause}\n{words}\n{(result.stderr or b'').decode(errors='replace')}"
    if attack.naive in ("shown", "named"):
        assert (package.canary if attack.naive == "shown" else "JUDGE_SECRET") in words, what
    elif attack.naive == "none":
        assert "verdict=" not in words, what
    else:
        assert f"verdict={attack.naive}\n" in words, what


@pytest.mark.parametrize("problem", ["secret", "one", "state", "rewrite", "custom", "interactive"])
def test_an_honest_wrong_answer_and_the_jurys(problem: str, cache: Path, tmp_path: Path) -> None:
    """The packages can tell: who prints nonsense is wrong, and who knows the answers is right, so `AC` means that an attack got through."""
    package = make_package(problem, tmp_path)
    package.submit("wrong_answer/honest.py", HONEST.encode())
    assert worst_code(judge_one(package, "wrong_answer/honest.py", time_limit=GENEROUS_S)) == "WA"
    if package.tokens:
        assert worst_code(judge_one(package, "accepted/jury.py", time_limit=GENEROUS_S)) == "AC"


@pytest.mark.parametrize("problem", ["secret", "custom"])
def test_the_naive_judge_is_no_fool_without_an_attack(problem: str, tmp_path: Path) -> None:
    """The control's control: it gives honest programs the right verdict."""
    package = make_package(problem, tmp_path)
    for name, text, code in (("honest.py", HONEST, "WA"), ("jury.py", (package.root / "submissions/accepted/jury.py").read_text(), "AC")):
        path = tmp_path / name
        path.write_text(text)
        attack = Attack(name=name, path=path, idea="", problem=problem, expect=(code,))
        assert f"verdict={code}\n".encode() in (judge_naively(package, attack, tmp_path / code).stdout or b"")


def test_the_page_lists_every_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/reference/threat-table-judge.md is what tests/suites/judge_table.py writes."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "suites"))
    import judge_table

    page = judge_table.PAGE.read_text()
    assert judge_table.render_page(page) == page, "run: python tests/suites/judge_table.py"


def test_a_writable_mount_carries_access_times(tmp_path: Path) -> None:
    """The control of `state_access_time`: where the program's directory is shared writable, reading in the first run shows in the second."""
    place = shared_directory(tmp_path / "program")
    (place / "note.txt").write_text("read by the first run\n")
    (place / "note.txt").chmod(0o644)
    script = "import os; s = os.stat('/program/note.txt'); open('/program/note.txt').read(); print(s.st_atime_ns > s.st_mtime_ns)"
    for mode, seen in (("ro", [b"False\n", b"False\n"]), ("rw", [b"False\n", b"True\n"])):
        os.utime(place / "note.txt", ns=(10**18, 10**18))
        results = [sandbox.run(["/usr/bin/python3", "-c", script], volumes=[f"{place}:/program:{mode}"], timeout=WALL_S) for _ in range(2)]
        assert [result.stdout for result in results] == seen, [result.stderr for result in results]


@pytest.mark.parametrize("place", sorted({attack.control for attack in ATTACKS if attack.control.startswith("tests/")}))
def test_the_controls_elsewhere_are_there(place: str) -> None:
    """A test that a submission names as its control exists."""
    file, _, name = place.partition("::")
    text = (Path(__file__).resolve().parent.parent.parent / file).read_text()
    assert not name or f"def {name}(" in text
