"""Hostile packages, as far as they are read: links, special files, archives, YAML, sizes. A package is semi-trusted: who sends it may run its validators in
sandboxes, and may neither read the host nor fill it.

Each is refused with its place, or judged as if the hostile part were not there. Layers removed: what a plain `open`, `zipfile` or `yaml` of a reader
that trusts its package would do is shown beside (`test_without_…`).
"""

from __future__ import annotations

import io
import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from escape.judging import GENEROUS_S, HONEST, Package, judge, make_package, watch_host, worst_code

from sandbox.judge.errors import PackageError

Change = Callable[[Package], object]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this module's own."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place))
        yield place


def _plain(tmp_path: Path) -> Package:
    """A package whose submission prints its input, and is right: what a link brings in as an input or answer shows in the verdict and in messages."""
    package = make_package("plain", tmp_path)
    package.case("secret/01", "01\n", "01\n")
    package.submit("accepted/echo.py", b"import sys\nprint(sys.stdin.read())\n")
    return package


def _attempt(package: Package, cache: Path, path: Path | None = None) -> tuple[str, str]:
    """Judge a package; return ``refused`` and the message, or ``judged`` and everything that was said. Neither has the secret in it, and the host is whole."""
    for host in watch_host(package, cache):
        try:
            result = judge(Package(root=path) if path else package, time_limit=GENEROUS_S)
            found = "judged", repr(result)
        except PackageError as error:
            found = "refused", f"{error.origin}: {error}"
        host.check()
    assert package.canary not in found[1] and len(found[1]) < 1_000_000
    if found[0] == "refused":
        assert len(found[1]) < 3000
        assert found[1].isprintable() or not set(found[1]) & set("\x1b\x07\x9b\r"), repr(found[1])
    return found


def _link(package: Package, name: str, target: str) -> None:
    path = package.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _chain(package: Package) -> None:
    for number in range(100):
        _link(package, f"data/secret/link{number}", f"link{number + 1}")
    _link(package, "data/secret/02.in", "link0")
    package.write("data/secret/02.ans", "x")


def _fifo(package: Package, name: str) -> None:
    path = package.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _socket(package: Package) -> None:
    here = os.getcwd()
    os.chdir(package.root / "data" / "secret")  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("02.in")
    finally:
        os.chdir(here)
    package.write("data/secret/02.ans", "x")


def _sparse(package: Package) -> None:
    package.write("data/secret/02.in", "")
    package.write("data/secret/02.ans", "x")
    os.truncate(package.root / "data/secret/02.in", 1 << 42)


def _many(package: Package) -> None:
    place = package.root / "data" / "secret"
    (place / "x.ans").write_text("x")
    for number in range(20000):
        os.link(place / "x.ans", place / f"many{number}.ans")


def _deep(package: Package) -> None:
    here = os.getcwd()
    os.chdir(package.root / "data" / "secret")
    try:
        for _ in range(600):
            os.mkdir("deep")
            os.chdir("deep")
    finally:
        os.chdir(here)


def _names(package: Package) -> None:
    for name in ("a\nverdict=AC", "\x1b[2J\x1b]0;owned\x07", "-rf", "$(reboot)", "\udcff\udcfe", "..x", "x" * 250):
        for suffix in (".in", ".ans"):
            with open(os.path.join(os.fsencode(package.root), b"data/secret", os.fsencode(f"{name[:200]}{suffix}")), "wb"):
                pass


# (name, what is done to a plain package, what may come of it)
TREES: tuple[tuple[str, Change, tuple[str, ...]], ...] = (
    ("nothing", lambda p: None, ("judged",)),
    (
        "input-is-a-link-out",
        lambda p: (_link(p, "data/secret/02.in", str(p.canary_file)), p.write("data/secret/02.ans", "x")),
        ("refused", "judged"),
    ),
    (
        "answer-is-a-link-out",
        lambda p: (p.write("data/secret/02.in", "x"), _link(p, "data/secret/02.ans", str(p.canary_file))),
        ("refused", "judged"),
    ),
    ("input-is-a-relative-link-out", lambda p: _link(p, "data/secret/01.in", "../../../secret-of-the-host.txt"), ("refused", "judged")),
    ("input-is-a-link-up-and-down", lambda p: _link(p, "data/secret/01.in", "../../../plain/data/secret/01.ans"), ("refused", "judged")),
    ("data-is-a-link-out", lambda p: _link(p, "data/secret/more", "/etc"), ("refused", "judged")),
    ("submission-is-a-link-out", lambda p: _link(p, "submissions/accepted/x.py", str(p.canary_file)), ("refused", "judged")),
    (
        "submission-holds-a-link-out",
        lambda p: (p.submit("accepted/d", {"main.py": b"print('01')"}), _link(p, "submissions/accepted/d/x.txt", str(p.canary_file))),
        ("refused", "judged"),
    ),
    (
        "validator-holds-a-link-out",
        lambda p: (
            p.write("output_validator/validate.py", "import sys; sys.exit(42)"),
            _link(p, "output_validator/x.txt", str(p.canary_file)),
        ),
        ("refused", "judged"),
    ),
    ("problem-is-a-link-out", lambda p: _link(p, "problem.yaml", str(p.canary_file)), ("refused",)),
    ("problem-is-a-link-to-memory", lambda p: _link(p, "problem.yaml", "/proc/self/environ"), ("refused",)),
    ("problem-is-endless", lambda p: _link(p, "problem.yaml", "/dev/zero"), ("refused",)),
    ("problem-is-a-fifo", lambda p: _fifo(p, "problem.yaml"), ("refused",)),
    ("input-is-a-fifo", lambda p: (_fifo(p, "data/secret/02.in"), p.write("data/secret/02.ans", "x")), ("refused", "judged")),
    ("answer-is-a-fifo", lambda p: (p.write("data/secret/02.in", "x"), _fifo(p, "data/secret/02.ans")), ("refused", "judged")),
    ("group-file-is-a-fifo", lambda p: _fifo(p, "data/secret/test_group.yaml"), ("refused", "judged")),
    ("submission-is-a-fifo", lambda p: _fifo(p, "submissions/accepted/x.py"), ("refused", "judged")),
    ("input-is-a-socket", _socket, ("refused", "judged")),
    ("input-is-a-directory", lambda p: ((p.root / "data/secret/02.in").mkdir(), p.write("data/secret/02.ans", "x")), ("refused", "judged")),
    ("link-to-itself", lambda p: (_link(p, "data/secret/02.in", "02.in"), p.write("data/secret/02.ans", "x")), ("refused", "judged")),
    ("links-in-a-chain", _chain, ("refused", "judged")),
    ("directory-that-holds-itself", lambda p: _link(p, "data/secret/again", "."), ("refused", "judged")),
    ("directory-that-holds-its-parent", lambda p: _link(p, "data/secret/again", ".."), ("refused", "judged")),
    ("terabytes-of-nothing", _sparse, ("refused",)),
    ("names-of-all-kinds", _names, ("refused", "judged")),
    ("twenty-thousand-files", _many, ("refused", "judged")),
    ("deeper-than-a-path", _deep, ("refused", "judged")),
)


@pytest.mark.parametrize(("name", "change", "expect"), TREES, ids=[row[0] for row in TREES])
def test_a_hostile_tree(name: str, change: Change, expect: tuple[str, ...], cache: Path, tmp_path: Path) -> None:
    """Nothing outside of the package is read through it, and nothing of it holds up or fills the judge."""
    package = _plain(tmp_path)
    change(package)
    what, words = _attempt(package, cache)
    assert what in expect, words
    if name == "nothing":
        assert "code=<Code.AC" in words


def test_without_confinement_links_lead_out(tmp_path: Path) -> None:
    """The control: a reader that opens what the names say reads the host's file through the same links."""
    package = _plain(tmp_path)
    for name in ("data/secret/02.in", "submissions/accepted/x.py", "problem.yaml"):
        _link(package, name, str(package.canary_file))
        assert package.canary in (package.root / name).read_text()


# (name, problem.yaml)
_LAUGHS = "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" if n else "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" for n in range(10))
YAMLS: dict[str, str | bytes] = {
    "runs-a-command": "name: !!python/object/apply:os.system ['touch /tmp/judge-mark-yaml']\n",
    "makes-an-object": "name: !!python/object/new:subprocess.Popen [['touch', '/tmp/judge-mark-yaml']]\n",
    "reads-a-module": "name: !!python/name:os.environ\n",
    "billion-laughs": _LAUGHS + "name: *a9\n",
    "laughs-as-keys": "a: &a {x: y}\nb: &b {<<: *a, <<: *a}\nname: {<<: *b}\n",
    "holds-itself": "name: &a [*a]\n",
    "deep": "name: " + "[" * 100000 + "]" * 100000 + "\n",
    "deep-by-blocks": "".join(" " * n + "- \n" for n in range(3000)),
    "large": "name: " + "x" * (1 << 24) + "\n",
    "twice": "name: a\nname: b\n",
    "unknown-key": "name: a\nlimit: {time: 1}\n",
    "no-mapping": "- name\n",
    "nothing": "",
    "nul": b"name: a\0b\n",
    "not-utf-8": b"name: \xff\xfe\xff\n",
    "escapes": 'name: "\\e[2J\\e]0;owned\\a"\nunknown: 1\n',
    "escapes-in-a-key": '"\\e[2J\\e]0;owned\\a": 1\n',
    "two-documents": "name: a\n---\nname: b\n",
    "memory-negative": "name: a\nlimits: {memory: -1}\n",
    "memory-endless": "name: a\nlimits: {memory: .inf}\n",
    "time-not-a-number": "name: a\nlimits: {time_multiplier: .nan}\n",
    "time-with-digits-of-others": "name: a\nlimits: {time_multiplier: \uff15}\n",
    "output-huge": "name: a\nlimits: {output: 99999999999999999999999}\n",
    "time-sexagesimal": "name: a\nlimits: {validation_time: 1:30:00.5:1}\n",
    "flags-unclosed": 'name: a\nvalidator_flags: "\'unclosed"\n',
    "type-of-a-list": "name: a\nlimits: [1, 2]\n",
}


@pytest.mark.parametrize("name", YAMLS)
def test_a_hostile_problem_yaml(name: str, cache: Path, tmp_path: Path) -> None:
    """Configuration is data: no tag makes an object, nothing grows by aliases, and what is wrong is refused with its place."""
    package = _plain(tmp_path)
    package.write("problem.yaml", YAMLS[name])
    what, words = _attempt(package, cache)
    assert what == ("judged" if name in ("nothing", "flags-unclosed") else "refused"), words
    assert "problem.yaml" in words or name == "nothing"


def test_without_a_reader_of_its_own_yaml_runs_commands(tmp_path: Path) -> None:
    """The control: the same tag, given to a loader that trusts it, runs."""
    mark = tmp_path / "ran"
    yaml.unsafe_load(f"name: !!python/object/apply:os.system ['touch {mark}']\n")
    assert mark.exists()


FLAGS = {
    "command-substitution": "$(touch /tmp/judge-mark-flag) `touch /tmp/judge-mark-flag`",
    "another-command": "; touch /tmp/judge-mark-flag; #",
    "options-of-python": "-c pass",
    "many": " ".join(["x"] * 1500),
    "nul-free-but-long": "x" * 4000,
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags_are_words_and_no_commands(name: str, cache: Path, tmp_path: Path) -> None:
    """Validator flags are split as a shell would, and go to no shell."""
    package = _plain(tmp_path)
    package.write("problem.yaml", f"name: flags\nvalidation: custom\nvalidator_flags: '{FLAGS[name]}'\nlimits:\n  memory: 128\n")
    package.write("output_validators/validate.py", "import sys\nsys.exit(42 if len(sys.argv) > 4 else 43)\n")
    if name == "nul-free-but-long":
        package.write("output_validators/validate.py", "import sys\nsys.exit(42 if len(sys.argv[4]) == 4000 else 43)\n")
    what, words = _attempt(package, cache)
    assert what == "judged" and "code=<Code.AC" in words, words[:3000]


# ---- archives ----------------------------------------------------------------------------------------------------------


Addition = Callable[[zipfile.ZipFile, Package], object]


def _zip(package: Package, change: Addition) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(package.root.rglob("*")):
            if path.is_file():
                archive.write(path, f"plain/{path.relative_to(package.root)}")
        change(archive, package)
    return file.getvalue()


def _member(name: str, mode: int, text: bytes) -> Addition:
    def add(archive: zipfile.ZipFile, package: Package) -> None:
        info = zipfile.ZipInfo(name)
        info.create_system = 3
        info.external_attr = mode << 16
        archive.writestr(info, package.fill(text))

    return add


def _bomb(archive: zipfile.ZipFile, package: Package) -> None:
    """Three gibibytes of zeros in three mebibytes, by one compressed block again and again; written raw, since compressing them takes a while."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    count = 3 << 6
    raw = block * count + packer.flush()
    info = zipfile.ZipInfo("plain/data/secret/02.in")
    info.compress_type = zipfile.ZIP_STORED
    archive.writestr(info, raw)
    info.compress_type, info.file_size = zipfile.ZIP_DEFLATED, count << 24


def _many_members(archive: zipfile.ZipFile, package: Package) -> None:
    for number in range(70000):
        archive.writestr(f"plain/x/{number}", b"")


def _twice(archive: zipfile.ZipFile, package: Package) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("plain/data/secret/01.ans", "something else\n")


ARCHIVES: dict[str, Addition] = {
    "climbs": _member("plain/../../judge-mark-zip", 0o100644, b"x"),
    "climbs-by-backslashes": _member("plain\\..\\..\\judge-mark-zip", 0o100644, b"x"),
    "absolute": _member("/tmp/judge-mark-zip", 0o100644, b"x"),
    "drive": _member("C:/judge-mark-zip", 0o100644, b"x"),
    "link-out": _member("plain/data/secret/02.in", 0o120777, b"@CANARY@"),
    "link-then-file-through-it": lambda archive, package: (
        _member("plain/out", 0o120777, b"/tmp")(archive, package),
        _member("plain/out/judge-mark-zip", 0o100644, b"x")(archive, package),
    ),
    "link-as-problem": _member("other/problem.yaml", 0o120777, b"@CANARY@"),
    "device": _member("plain/data/secret/02.in", 0o020644, b""),
    "fifo": _member("plain/data/secret/02.in", 0o010644, b""),
    "set-id": _member("plain/data/secret/02.in", 0o104755, b"x"),
    "bomb": _bomb,
    "many": _many_members,
    "twice": _twice,
    "nul-in-a-name": _member("plain/data/secret/02.in\0.txt", 0o100644, b"x"),
    "escapes-in-a-name": _member("plain/data/secret/\x1b[2J\x1b]0;owned\x07.in", 0o100644, b"x"),
    "newline-in-a-name": _member("plain/data/secret/a\nverdict=AC.in", 0o100644, b"x"),
    "long-name": _member("plain/" + "x" * 4000, 0o100644, b"x"),
    "deep-name": _member("plain/" + "d/" * 30000 + "x", 0o100644, b"x"),
    "file-and-directory": lambda archive, package: (
        _member("plain/y", 0o100644, b"x")(archive, package),
        _member("plain/y/z", 0o100644, b"x")(archive, package),
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_hostile_archive(name: str, cache: Path, tmp_path: Path) -> None:
    """Nothing is written outside of the place where it is unpacked, nothing is followed, every number is bounded."""
    package = _plain(tmp_path)
    path = tmp_path / "plain.zip"
    path.write_bytes(_zip(package, ARCHIVES[name]))
    what, words = _attempt(package, cache, path)
    assert what in ("refused", "judged")
    for place in (tmp_path, tmp_path.parent, Path("/tmp")):
        assert not (place / "judge-mark-zip").exists()
    if name in ("climbs", "absolute", "bomb", "many"):
        assert what == "refused", words


def _damage(text: bytes) -> dict[str, bytes]:
    end = text.rindex(b"PK\x05\x06")
    directory = struct.unpack_from("<I", text, end + 16)[0]
    first = text.index(b"PK\x01\x02", directory)
    return {
        "empty": b"",
        "no-archive": b"PK\x03\x04" + bytes(1000),
        "cut-off": text[: len(text) // 2],
        "directory-gone": text[:directory] + text[end:],
        "directory-elsewhere": text[: end + 16] + struct.pack("<I", 0xFFFFFFF0) + text[end + 20 :],
        "count-lies": text[: end + 8] + struct.pack("<HH", 65535, 65535) + text[end + 12 :],
        "size-lies-small": text[: first + 24] + struct.pack("<I", 1) + text[first + 28 :],
        "size-lies-large": text[: first + 24] + struct.pack("<I", 0xFFFFFFFE) + text[first + 28 :],
        "offset-lies": text[: first + 42] + struct.pack("<I", 0xFFFFFF) + text[first + 46 :],
        "encrypted": text[: first + 8] + struct.pack("<H", 1) + text[first + 10 :],
        "unknown-method": text[: first + 10] + struct.pack("<H", 99) + text[first + 12 :],
        "in-front": b"#!/bin/sh\n" * 100 + text,
        "behind": text + b"x" * 70000,
        "checksum": text[: first + 16] + struct.pack("<I", 0xDEADBEEF) + text[first + 20 :],
    }


DAMAGES = ("empty", "no-archive", "cut-off", "directory-gone", "directory-elsewhere", "count-lies", "size-lies-small", "size-lies-large", "offset-lies",
           "encrypted", "unknown-method", "in-front", "behind", "checksum")  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_archive(name: str, cache: Path, tmp_path: Path) -> None:
    """A lie in the tables of an archive is an error with the archive's name, or changes nothing."""
    package = _plain(tmp_path)
    path = tmp_path / "plain.zip"
    path.write_bytes(_damage(_zip(package, lambda archive, package: None))[name])
    what, words = _attempt(package, cache, path)
    assert what == "refused" or "code=<Code.AC" in words, words[:3000]
    if what == "refused":
        assert "plain.zip" in words


def test_a_whole_archive_is_judged_like_its_directory(cache: Path, tmp_path: Path) -> None:
    """The control of the archives: without the hostile part they are packages."""
    package = _plain(tmp_path)
    package.submit("wrong_answer/x.py", HONEST.encode())
    path = tmp_path / "plain.zip"
    path.write_bytes(_zip(package, lambda archive, package: None))
    codes = {each.name: worst_code(each) for each in judge(Package(root=path), time_limit=GENEROUS_S).submissions}
    assert codes == {"accepted/echo.py": "AC", "wrong_answer/x.py": "WA"}
