"""Problem packages: only `PackageError` comes out, with a place; nothing outside is read or written; what is accepted means what a second reader reads.

The first byte says what the rest is, modulo 4: YAML; a zip archive; decisions how a package is built of few names; the same as an archive, spoiled.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import sys
import zipfile
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import engine

with engine.instrumented(__name__ == "__main__"):
    import yaml

    from fuzz.choose import Bytes, Chooser
    from sandbox.errors import SandboxError
    from sandbox.judge.errors import PackageError
    from sandbox.judge.grading import grade_group, should_stop, skipped_group, why_skipped
    from sandbox.judge.labels import check_label
    from sandbox.judge.model import CaseResult, Code
    from sandbox.judge.package.archive import Bounds, unpack_archive
    from sandbox.judge.package.places import place_of, stage_path
    from sandbox.judge.package.read import open_stage, read_package
    from sandbox.judge.package.yaml_source import Node, parse_yaml
    from sandbox.judge.pipeline.walk import Rules, walk
    from sandbox.judge.problem import Problem, cases_of, groups_of
    from sandbox.judge.timelimit import derive_limit

CANARY = b"C4N4RY"
SMALL = Bounds(archive_bytes=1 << 16, unpacked_bytes=1 << 18, file_bytes=1 << 17, members=64)
VERSIONS = ("", "problem_format_version: 2025-09\nname: a\nuuid: b\n", "problem_format_version: 2023-07-draft\n", "problem_format_version: legacy-icpc\n")
LINES = (
    "type: scoring\n", "type: [interactive, multi-pass]\n", "validation: custom score\n", "validation: custom interactive\n", "limits: {memory: 1}\n",
    "limits:\n  time_limit: 0.5\n", "limits: &a\n  memory: *a\n", "constants: {N: 5, F: {value: '{{N}}', t: x}}\n", "grading: {objective: min}\n",
    "validator_flags: 'a \"b'\n", "keywords: [a, b]\n", "languages: all\n", "name: {en: x}\n", "wrong: 1\n", "\t", "type: submit-answer\n", "- a\n",
)  # fmt: skip
GROUP = (
    "on_reject: continue\n", "on_reject: x\n", "grading: custom\n", "grader_flags: ignore_sample min\n", "range: 0 100\n", "range: 1 0\n", "accept_score: 7\n",
    "max_score: 5\n", "max_score: unbounded\n", "score_aggregation: sum\n", "score_aggregation: min\n", "require_pass: [sample, g1]\n", "require_pass: g2\n",
    "args: [a, '{{N}}']\n", "input_validator_args: {v.py: [x]}\n", "input_validator_flags: {name: v.py, flags: x}\n", "full_feedback: yes\n", "hint: x\n",
    "static_validation_score: pass-fail\n", "output_validator_flags: \"a 'b\"\n", "a: b\n", "[",
)  # fmt: skip
LABELS = (
    "accepted:\n  permitted: [WA]\n", "accepted/*:\n  secret/{1,2}*:\n    required: [TLE]\n", "x{a,b}:\n  use_for_time_limit: upper\n", "'*':\n  message: m\n",
    "rejected:\n  score: [1, 2]\n", "accepted:\n  sample:\n    use_for_time_limit: lower\n", "'{':\n  permitted: AC\n", "a: 1\n", "'**':\n  language: c\n",
)  # fmt: skip
PLACES = (
    "problem.yaml", "data/testdata.yaml", "data/test_group.yaml", "data/sample/1.in", "data/sample/1.ans", "data/secret/1.in", "data/secret/1.ans",
    "data/secret/1.yaml", "data/secret/1.files/f", "data/secret/1.files", "data/secret/test_group.yaml", "data/secret/testdata.yaml", "data/secret/g1/a.in",
    "data/secret/g1/a.ans", "data/secret/g1/test_group.yaml", "data/secret/g1/testdata.yaml", "data/secret/g2/a.in", "data/secret/g2/a.ans",
    "data/secret/g2/test_group.yaml", "data/secret/g1", "data/secret", "data", "data/invalid_input/x.in", "data/valid_output/y.in", "data/valid_output/y.ans",
    "data/valid_output/y.out", "submissions/accepted/a.py", "submissions/accepted/d/b.c", "submissions/accepted", "submissions/wrong_answer/w.py",
    "submissions/submissions.yaml", "submissions.json", "submissions/mixed/m.py", "input_validators/v.py", "input_validators/d/x.h",
    "output_validator/v.py", "output_validators/v.py", "output_validators/w/run", "graders/g.py", "include/c/h.h", "static_validator/s.py", ".timelimit",
)  # fmt: skip
TARGETS = (
    "..", "../..", "../../..", "OUT", "OUT/canary", "../outside/canary", "../../outside", "1.in", "a.in", "../sample/1.in", "g1", ".", "/", "x" * 300,
    "../../data",
)  # fmt: skip
CONTENTS = (b"", b"1 2\n", b"print({{N}})\n", b"// @EXPECTED_RESULTS@: WRONG-ANSWER, TIMELIMIT\n", b"@EXPECTED_SCORE@: 4", b"\xff\0", b"2.5", b"#" * 2000)
NAMES = (*PLACES, "../x", "/x", "a//b", "a\\b", "./x", "problem.yaml/x", "a b", ".git/x", "é", "sum/problem.yaml", "x" * 300, "d/" * 40 + "x")
WORDS = (*PLACES, *LINES, *GROUP, *LABELS, *TARGETS, "PK\1\2", "PK\3\4", "PK\5\6", "&a ", "*a", "<<: *a", "!!str ", "? ", "{{N}}", "@EXPECTED_RESULTS@: ")
SEEDS = (
    b"\0type: scoring\nlimits: {memory: &m 5, output: *m}\ngrading: {<<: {objective: min}}\n",
    b"\0a: [b, {c: d}]\n? e\n: |\n  f\n",
    *(b"\2" + bytes((seed * each * each + each) & 255 for each in range(1, 200)) for seed in range(1, 30)),
    *(b"\3" + bytes((seed * each * each + each) & 255 for each in range(1, 160)) for seed in range(1, 16)),
)


def one_input(data: bytes) -> str:
    """Read one thing, with a cache of the target's own."""
    with patch.dict(os.environ, XDG_CACHE_HOME=os.path.join(engine.scratch(), "cache")):
        return _read(data)


def _read(data: bytes) -> str:
    kind, rest = data[:1] or b"\0", data[1:]
    if kind[0] % 4 == 0:
        return yaml_text(rest)
    scratch = Path(engine.scratch()) / "package"
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "outside").mkdir(parents=True)
    (scratch / "outside" / "canary").write_bytes(CANARY)
    try:
        if kind[0] % 4 == 1:
            return archive(rest, scratch)
        return built(Bytes(rest), scratch) if kind[0] % 4 == 2 else archive(packed(Bytes(rest), scratch), scratch)
    finally:
        assert (scratch / "outside" / "canary").read_bytes() == CANARY and len(os.listdir(scratch / "outside")) == 1, "something outside has changed"
        assert not os.path.isdir(stage_path()) or not os.listdir(stage_path()), "a stage is left"


def yaml_text(data: bytes) -> str:
    """Read a text as YAML, and as PyYAML's own composer reads it."""
    try:
        found = parse_yaml(data, "f.yaml")
    except PackageError as error:
        return refused(error, "f.yaml")
    composed = yaml.compose(data.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    if b"<<" not in data:
        assert meaning(found) == ("" if composed is None else meant(composed)), "another reader reads something else"
    return f"YAML of {min(found.size, 20)}"


def meaning(node: Node) -> object:
    """Return what a node of ours holds."""
    if isinstance(node.value, dict):
        return {key: meaning(each) for key, each in node.value.items()}
    return [meaning(each) for each in node.value] if isinstance(node.value, list) else node.value


def meant(node: yaml.Node) -> object:
    """Return what a node of PyYAML's holds."""
    if isinstance(node, yaml.MappingNode):
        return {key.value: meant(each) for key, each in node.value}
    return [meant(each) for each in node.value] if isinstance(node, yaml.SequenceNode) else node.value


def archive(data: bytes, scratch: Path) -> str:
    """Unpack bytes as an archive; read what comes of it."""
    path = scratch / "sum.zip"
    path.write_bytes(data)
    try:
        root = unpack_archive(str(path), "sum", SMALL)
    except PackageError as error:
        return refused(error, str(path))
    place = place_of(root)
    assert place is not None and root.startswith(place.path), root
    size = 0
    for directory, names, files in os.walk(place.path):
        for name in names + files:
            status = os.lstat(os.path.join(directory, name))
            assert stat.S_IFMT(status.st_mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK), f"{name} is of type {status.st_mode:o}"
            size += status.st_size if stat.S_ISREG(status.st_mode) else 0
    assert size <= SMALL.unpacked_bytes, "more was unpacked than may be"
    try:
        return "archive, " + whole(root)
    finally:
        place.remove()


def files(chooser: Chooser, outside: str) -> dict[str, bytes | str]:
    """Return the files of a package by path; text is the target of a link."""
    made: dict[str, bytes | str] = {
        "problem.yaml": b"", "data/secret/1.in": b"1", "data/secret/1.ans": b"2", "submissions/accepted/a.py": b"print()", "output_validator/v.py": b"v",
        "output_validators/v.py": b"v",
    }  # fmt: skip
    made["problem.yaml"] = (chooser.pick(VERSIONS) + "".join(chooser.pick(LINES) for _ in range(chooser.integer(0, 3)))).encode()
    for _ in range(chooser.integer(0, 12)):
        name = chooser.pick(PLACES)
        if chooser.odds(4):
            made[name] = chooser.pick(TARGETS).replace("OUT", outside)
        elif name.endswith(("testdata.yaml", "test_group.yaml", "1.yaml")):
            made[name] = "".join(chooser.pick(GROUP) for _ in range(chooser.integer(1, 3))).encode()
        elif name.endswith(("submissions.yaml", "submissions.json")):
            made[name] = "".join(chooser.pick(LABELS) for _ in range(chooser.integer(1, 2))).encode()
        elif name != "problem.yaml":
            made[name] = chooser.pick(CONTENTS)
    return made


def built(chooser: Chooser, scratch: Path) -> str:
    """Write a package and read it."""
    root = scratch / "sum"
    for name, content in files(chooser, str(scratch / "outside")).items():
        path = root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not inside(path.parent, root):
                continue
            if isinstance(content, str):
                path.symlink_to(content)
            elif not path.is_symlink():
                path.write_bytes(content)
        except OSError:  # below a file, or over a directory
            continue
    return whole(str(root))


def inside(path: Path, root: Path) -> bool:
    """Whether what is written there stays in the package."""
    return os.path.realpath(path).startswith(str(root))


def packed(chooser: Chooser, scratch: Path) -> bytes:
    """Return a package as an archive, with members that no honest one has."""
    out = io.BytesIO()
    members = [(f"sum/{name}", content) for name, content in files(chooser, str(scratch / "outside")).items()]
    members += [(chooser.pick(NAMES), chooser.pick(CONTENTS)) for _ in range(chooser.integer(0, 3))]
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        seen = set()
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.create_system = 3
            info.compress_type = chooser.pick((0, 8))
            info.external_attr = (stat.S_IFLNK | 0o777 if isinstance(content, str) else chooser.pick((0, 0o100644, 0o100755, 0o40755, 0o20600))) << 16
            if name not in seen:
                archive.writestr(info, content)
            seen.add(name)
    spoiled = bytearray(out.getvalue())
    for _ in range(chooser.integer(0, 2)):
        spoiled[chooser.integer(0, len(spoiled) - 1)] ^= 1 << chooser.integer(0, 7)
    return bytes(spoiled)


def whole(root: str) -> str:
    """Read a package and its stage; check what holds for every one."""
    try:
        problem = read_package(root)
        read_only_inside(problem)
        with open_stage(problem) as staged:
            for case in (*cases_of(staged.data), *(each for cases in staged.invalid.values() for each in cases)):
                for path in filter(None, (case.input, case.answer, case.output)):
                    assert path.startswith(staged.root + "/") and not os.path.islink(path)
                    assert CANARY not in Path(path).read_bytes(), "the stage holds what is outside"
                assert not case.files or os.path.isdir(case.files)
    except PackageError as error:
        return refused(error, root)
    groups = len(list(groups_of(problem.data)))
    return f"{problem.format} {problem.scoring} {problem.interactive} {min(groups, 5)} {len(problem.warnings) > 0}"


def read_only_inside(problem: Problem) -> None:
    """Nothing of the package is from outside, and what is pure takes it."""
    sources = [*problem.output_validators, *problem.input_validators, *filter(None, (problem.grader, problem.static_validator)), *problem.submissions]
    for contents in [each.files for each in sources] + list(problem.include.values()):
        assert not any(CANARY in content for content in contents.values()), "a program holds what is outside"
    results = {case.name: CaseResult(case=case.name, code=Code.WA if number % 3 else Code.AC) for number, case in enumerate(cases_of(problem.data))}
    rules = Rules(
        grade=lambda group, outcomes: grade_group(group, outcomes, lambda *_: (Code.AC, 1.0, "")), stops=should_stop, bars=why_skipped, barred=skipped_group
    )
    asking = walk(problem.data, rules)
    try:
        asked = next(asking)
        while True:
            asked = asking.send(results[asked.name])
    except StopIteration as end:
        graded = end.value
    for submission in problem.submissions:
        check_label(problem, submission, graded.cases, graded.final.code, graded.final.score, groups=graded.groups)
    derive_limit(problem, {each.name: dict.fromkeys(results, 5) for each in problem.submissions})


def refused(error: SandboxError, where: str) -> str:
    """Check an error's form; return it without what differs."""
    assert error.message and not error.message.endswith(".") and error.message[0] in "`" + error.message[0].lower(), error.message
    assert error.origin is None or error.origin.startswith(where), error.origin
    assert error.message.isprintable(), error.message
    return "refused: " + re.sub(r"`[^`]*`|\d+|\S*/\S*", "…", error.message)[:80]


if __name__ == "__main__":
    engine.main("package", one_input, SEEDS, WORDS)
