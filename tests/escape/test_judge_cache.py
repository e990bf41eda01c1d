"""The cache of compiled programs: what a contestant, a package's author or a compiler can reach of it, and what is done with an entry that was changed.

Which entries are not believed is in tests/unit/test_judge_cache.py; here the poison is in a program that a judge would run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from escape.judging import GENEROUS_S, Package, judge_one, make_package, watch_host, worst_code

import sandbox.judge.cache
from sandbox.judge.building import Builder
from sandbox.judge.problem import Submission

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
WRONG = b"import sys\nprint('poisoned')\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    place = tmp_path / "cache"
    place.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    return place


def _judge(package: Package, cache: Path) -> str:
    for host in watch_host(package, cache):
        code = worst_code(judge_one(package, "accepted/jury.py", time_limit=GENEROUS_S))
        host.check()
    return code


def _poison(cache: Path) -> list[Path]:
    """Put another program into every entry that has the jury's."""
    found = list((cache / "sandbox/judge/compiled").glob("*/files/jury.py"))
    assert found
    for path in found:
        path.chmod(0o755)
        path.write_bytes(WRONG)
        path.chmod(0o555)
    return found


def test_a_changed_entry_is_not_run(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry whose bytes were changed is made again. Removed: the look at its bytes; then what was put there is run, and the jury is wrong."""
    package = make_package("secret", tmp_path)
    assert _judge(package, cache) == "AC"
    _poison(cache)
    assert _judge(package, cache) == "AC"
    _poison(cache)
    monkeypatch.setattr(sandbox.judge.cache, "verify_entry", lambda path, key: json.loads(Path(path, "entry.json").read_text())["notes"])
    assert _judge(package, cache) == "WA"


@pytest.mark.parametrize("what", ["entry", "files", "program", "manifest"])
def test_an_entry_that_others_can_write_is_not_run(what: str, cache: Path, tmp_path: Path) -> None:
    """Whatever others could have written to is made again, and said."""
    package = make_package("secret", tmp_path)
    assert _judge(package, cache) == "AC"
    entry = next((cache / "sandbox/judge/compiled").glob("*/files/jury.py")).parent.parent
    path = {"entry": entry, "files": entry / "files", "program": entry / "files/jury.py", "manifest": entry / "entry.json"}[what]
    path.chmod(0o777)
    result = judge_one(package, "accepted/jury.py", time_limit=GENEROUS_S)
    assert worst_code(result) == "AC" and result.built is not None and not result.built.cached
    assert path.stat().st_mode & 0o022 == 0


SPLITS: tuple[tuple[dict[str, bytes], dict[str, bytes]], ...] = (
    ({"a.c": b"int main(void){}//", "b.h": b"x"}, {"a.c": b"int main(void){}//b.hx"}),
    ({"a.c": b"int main(void){}", "b.h": b"x"}, {"a.c": b"int main(void){}", "bx.h": b""}),
    ({"a.c": b"int main(void){}"}, {"b.c": b"int main(void){}"}),
    ({"a.c": b"int main(void){}"}, {"a.cc": b"int main(void){}"}),
    ({"a.c": b"int main(void){}"}, {"a.c": b"int main(void){}\n"}),
    ({"a.c": b"int main(void){}", "d/b.h": b"1"}, {"a.c": b"int main(void){}", "d_b.h": b"1"}),
)


@needs_gcc
@pytest.mark.parametrize("pair", SPLITS, ids=range(len(SPLITS)))
def test_sources_do_not_collide(pair: tuple[dict[str, bytes], dict[str, bytes]], cache: Path) -> None:
    """Two sources have two keys, however their names and contents are cut. Control: equal ones have one, and joined some of these were equal."""
    with Builder() as builder:
        keys = [builder.build(Submission(name="x", files=files)).program for files in (*pair, dict(pair[0]))]
    assert all(keys)
    digests = [program.digest for program in keys if program is not None]
    assert digests[0] != digests[1] and digests[0] == digests[2]


def test_joined_names_and_contents_collide() -> None:
    """The control: a key of what is merely joined takes one of those pairs for the same program."""
    joined = [[b"".join(name.encode() + text for name, text in sorted(files.items())) for files in pair] for pair in SPLITS]
    assert any(one == other for one, other in joined)


BUILD = """\
#!/bin/sh
printf '#!/bin/sh\\nexit 42\\n' > run
chmod 755 run
if ls '@CACHE@' >/dev/null 2>&1; then exit 1; fi
for place in '@CACHE@' '@CACHE@/compiled' "$HOME/.cache" ~; do
    mkdir -p "$place" && touch "$place/judge-mark-poison"
done
true
"""


def test_a_compiler_does_not_reach_the_cache(cache: Path, tmp_path: Path) -> None:
    """A build script sees no cache and writes nothing there. Removed: the sandbox; then its mark is there."""
    package = make_package("hostile", tmp_path)
    package.case("secret/01", "01\n", "01\n")
    place = cache / "sandbox/judge"
    script = BUILD.replace("@CACHE@", str(place))
    package.write("output_validator/build", script, 0o755)
    package.submit("accepted/jury.py", b"print(1)\n")
    assert _judge(package, cache) == "AC"
    assert not list(place.rglob("judge-mark*"))
    outside = tmp_path / "outside"
    outside.mkdir()
    subprocess.run(
        ["/bin/sh", str(package.root / "output_validator/build")],
        cwd=outside,
        env={"PATH": "/usr/bin:/bin", "HOME": str(outside)},
        check=False,
    )
    assert (
        subprocess.run(["ls", str(place)], capture_output=True, check=False).returncode == 0
    )  # so the script had stopped; its second half:
    subprocess.run(
        ["/bin/sh", "-c", script.replace("then exit 1", "then :")],
        cwd=outside,
        env={"PATH": "/usr/bin:/bin", "HOME": str(outside)},
        check=False,
    )
    assert list(place.rglob("judge-mark*"))


def test_compiled_programs_are_nobody_elses(cache: Path, tmp_path: Path) -> None:
    """Entries and their directory are closed to other users: a submission's program is no secret of the judge's, but nobody else's business."""
    package = make_package("secret", tmp_path)
    assert _judge(package, cache) == "AC"
    place = cache / "sandbox/judge/compiled"
    assert place.stat().st_mode & 0o077 == 0
    assert all(entry.stat().st_mode & 0o077 == 0 for entry in place.iterdir())
    assert all(path.stat().st_uid == os.geteuid() for path in place.rglob("*"))
