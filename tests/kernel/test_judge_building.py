"""Programs of every language that is here, compiled and run; what hostile sources try on the compiler's sandbox; scripts of packages; the cache in use."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import sandbox
from sandbox.errors import PolicyError, SandboxError, SetupError
from sandbox.judge.building import Builder
from sandbox.judge.cache import Cache
from sandbox.judge.languages import Absent, load_languages
from sandbox.judge.model import Built, Code, Program
from sandbox.judge.problem import ProblemLimits, Source, Submission
from sandbox.judge.trial import run_program, try_language

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify, pytest.mark.landlock]

DATA = Path(__file__).resolve().parent.parent / "data" / "judge-languages"
TABLE = load_languages()
SURVEYS = sorted([*os.listdir(DATA), "pypy3", "python3numpy"])
IN_CI = ("c", "cpp", "python3", "javascript", "perl", "bash")
SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """Return a builder with an empty cache of these tests' own."""
    with Builder(TABLE, cache=Cache(str(tmp_path_factory.mktemp("compiled") / "cache"))) as made:
        yield made


def need(language: str) -> None:
    """Skip, with the reason, where a language is absent."""
    found = TABLE.toolchain(TABLE.find(language))
    if isinstance(found, Absent):
        pytest.skip(f"{language} is absent: {found.reason}")


def files_of(name: str) -> dict[str, bytes]:
    directory = DATA / ("python3" if name.startswith(("pypy", "python3")) else name)
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def compiled(built: Built) -> Program:
    assert built.program is not None, (built.code, built.absent, built.cause, built.output[:2000])
    return built.program


def source(text: str, name: str = "main.c", **more: bytes) -> Submission:
    return Submission(name="hostile", files={name: text.encode(), **more})


@pytest.mark.parametrize("language", [each.id for each in TABLE])
def test_hello_in_every_language(builder: Builder, language: str) -> None:
    trial = try_language(builder, TABLE.find(language))
    if trial.absent:
        assert language not in IN_CI or language == "javascript", trial.cause
        pytest.skip(trial.cause)
    assert not trial.cause


@pytest.mark.parametrize("cgroup", [True, False], ids=["cgroup", "no cgroup"])
@pytest.mark.parametrize("language", SURVEYS)
def test_a_program_of_several_files_in_every_language(builder: Builder, language: str, cgroup: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sieve, recursion 5000 deep, threads, a table of words, modules: the same answer everywhere, with limits by a cgroup and by rlimits."""
    need(language)
    if not cgroup:
        monkeypatch.setattr("sandbox.api.prepare.find_backend", lambda: None)
    stated = language if language in ("pypy3", "python3numpy") else ""
    limits = ProblemLimits(memory_bytes=256 << 20)
    built = builder.build(Submission(name=language, files=files_of(language), language=stated), limits=limits)
    program = compiled(built)
    memory = {"memory": limits.memory_bytes + program.memory_extra_bytes}
    result = run_program(program, b"cherry apple apple\nbanana cherry\n apple\n", limits=memory)
    assert result.ok, (result.cause, result.stdout, result.stderr)
    assert result.stdout == b"2262\n12502500\napple 3\nbanana 1\ncherry 2\n" and built.language == language
    if cgroup:
        again = builder.build(Submission(name="again", files=files_of(language), language=stated), limits=limits)
        assert again.cached and compiled(again).digest == program.digest and again.result is None


def test_a_submission_does_not_compile_and_the_compiler_says_why(builder: Builder) -> None:
    for name, text, word in (
        ("a.c", "int main(void) { return x; }", "undeclared"), ("a.cpp", "int main() { retrun 0; }", "retrun"), ("a.py", "def f(:\n", "SyntaxError"),
    ):  # fmt: skip
        built = builder.build(source(text, name))
        assert built.code is Code.CE and built.program is None and word in built.output and built.cause.startswith("`"), built


def test_what_cannot_be_a_program_is_a_compile_error_in_words(builder: Builder) -> None:
    for files, cause in (
        ({}, "no language is known by "),
        ({"a.txt": b""}, "no language is known by `a.txt`"),
        ({"../a.c": b"int main(void){}"}, "`../a.c` cannot be the name of a source file"),
        ({"a.c": b"/*" + bytes(200_000)}, "200002 bytes of code are more than the limit of 131072"),
    ):
        built = builder.build(Submission(name="x", files=files))
        assert built.code is Code.CE and built.cause == cause
    with pytest.raises(PolicyError, match="no language is called `klingon`"):
        builder.build(source("int main(void){}"), language="klingon")


def test_an_absent_language_is_named_and_judged_nothing(tmp_path: Path) -> None:
    with Builder(load_languages(environ={"HOME": str(tmp_path), "PATH": str(tmp_path)}), environ={"XDG_CACHE_HOME": str(tmp_path)}) as here:
        built = here.build(source("print(1)", "a.py"))
    assert built.absent == "Python 3: no `python3`" and built.code is None and built.program is None and built.cause == "apt install python3"


def test_a_language_that_only_the_format_knows_is_absent_and_no_fault_of_the_authors(builder: Builder) -> None:
    assert builder.build(source("", "a.dart")).absent == "Dart: no definition"
    assert builder.build(Submission(name="x", files={"a.c": b""}, language="apl")).absent == "APL: no definition"
    assert builder.build(Submission(name="x", files={"a.c": b""}, language="viva")).absent == "`viva`: no definition"
    assert builder.build(Submission(name="x", files={"a.c": b""}, language="kling\non")).absent == "`kling\\x0aon`: no definition"


def test_a_compiler_that_compiles_nothing_is_the_judges_fault(tmp_path: Path) -> None:
    """Its version command works, so it seems to be here; what it says of a submission is nobody's but the judge's."""
    compiler = tmp_path / "bin" / "gcc"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\n[ $# = 1 ] || { echo 'cannot execute cc1' >&2; exit 1; }\necho gcc 99\n")
    compiler.chmod(0o755)
    environ = {**os.environ, "PATH": f"{compiler.parent}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with Builder(environ=environ) as here:
        built = here.build(source("int main(void) { return 0; }"))
        assert built.code is Code.JE and built.cause.startswith("C does not work here, not even its definition's own program compiles: `gcc` ended with exit 1")
        # The control: with a compiler that works, the same end is the contestant's.
        assert here.build(source("#error mine\nint main() {}", "a.cpp")).code is Code.CE


# ---- hostile sources --------------------------------------------------------------------------------------------

HOST_FILE = "/etc/hostname-of-the-host"


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[str]:
    """Return the path of a host file that anybody may read and no sandbox shows."""
    path = tmp_path / "secret"
    path.write_text("11223344556677\n")
    path.chmod(0o644)
    yield str(path)


def test_no_language_of_compile_time_reads_a_file_of_the_host(builder: Builder, secret: str) -> None:
    attempts: dict[str, tuple[str, str, str]] = {
        "#include": ("c", "main.c", f'long long x =\n#include "{secret}"\n; int main(void) {{ return 0; }}'),
        "#include shadow": ("c", "main.c", '#include "/etc/shadow"\nint main(void) { return 0; }'),
        "incbin": ("c", "main.c", f'__asm__(".incbin \\"{secret}\\""); int main(void) {{ return 0; }}'),
        "#embed by the linker": ("c", "main.c", f'__asm__(".include \\"{secret}\\""); int main(void) {{ return 0; }}'),
        "include_str!": ("rust", "main.rs", f'fn main() {{ print!("{{}}", include_str!("{secret}")); }}'),
        "Template Haskell": (
            "haskell", "Main.hs",
            "{-# LANGUAGE TemplateHaskell #-}\nimport Language.Haskell.TH\nmain :: IO ()\n"
            f'main = putStr $(runIO (readFile "{secret}") >>= litE . stringL)\n',
        ),
        "BEGIN": ("perl", "main.pl", f'#!/usr/bin/perl\nBEGIN {{ open F, "<", "{secret}" or die "cannot"; print STDERR <F> }}\n'),
    }  # fmt: skip
    tried = []
    for what, (language, name, text) in attempts.items():
        if isinstance(TABLE.toolchain(TABLE.find(language)), Absent):
            continue
        built = builder.build(source(text, name))
        assert built.code is Code.CE, what
        assert "11223344556677" not in built.output and "root:" not in built.output, what
        tried.append(what)
    assert "#include" in tried and "BEGIN" in tried


def test_the_control_of_the_above_the_same_text_beside_the_source_is_read(builder: Builder) -> None:
    """The attack works where there is something to read: the sandbox is what stands between."""
    text = b'#include <stdio.h>\nlong long x =\n#include "secret"\n; int main(void) { printf("%lld", x); }'
    inside = builder.build(Submission(name="x", files={"main.c": text, "secret": b"11223344556677"}))
    assert run_program(compiled(inside), b"").stdout == b"11223344556677"


def test_a_compiler_sees_no_variable_of_the_judges_and_no_test_data(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    script = b"#!/bin/sh\nenv; ls /; ls /judge; ls -A /judge/program /tmp /home /root 2>&1\nprintf '#!/bin/sh\\n' > run; chmod +x run\n"
    built = builder.build(Source(name="v", files={"build": script}, executable=frozenset({"build"})))
    compiled(built)
    assert "hunter2" not in built.output and "HOME=/tmp" in built.output and "\nprogram\n" in built.output
    assert "package" not in built.output and "stage" not in built.output


BOMBS = {
    "endless device": ("main.c", '#include "/dev/zero"\nint main(void) { return 0; }'),
    "include of itself": ("main.c", '#include "main.c"\n#include "main.c"\nint main(void) { return 0; }'),
    "macros": ("main.c", "".join(f"#define A{n} A{n - 1} A{n - 1} A{n - 1} A{n - 1}\n" for n in range(1, 14))
               + "#define A0 int x;\nA13\nint main(void) { return 0; }"),
    "templates": ("main.cpp", "template <int N, int M> struct F { static const int v = F<N - 1, M * 2>::v + F<N - 1, M * 2 + 1>::v; };\n"
                  "template <int M> struct F<0, M> { static const int v = 1; };\nint x[F<24, 1>::v % 7 + 1];\nint main() {}"),
    "constexpr": ("main.cpp", "constexpr int f(int n) { int s = 0; for (int i = 0; i < n; i++) for (int j = 0; j < 30000; j++) s ^= i * j; return s; }\n"
                  "constexpr int a = f(900), b = f(901), c = f(902), d = f(903), e = f(904), g = f(905), h = f(906), i = f(907);\nint main() {}"),
    "a huge object": ("main.c", "char a[2000000000] = {1}; int main(void) { return 0; }"),
    "assembler": ("main.c", '__asm__(".rept 100000\\n.rept 100000\\nnop\\n.endr\\n.endr"); int main(void) { return 0; }'),
}  # fmt: skip


@pytest.mark.parametrize("what", BOMBS)
def test_a_bomb_for_the_compiler_ends_at_the_limits_as_a_compile_error(builder: Builder, what: str) -> None:
    name, text = BOMBS[what]
    limits = ProblemLimits(compilation_time_ns=3 * SECOND, compilation_memory_bytes=256 << 20)
    built = builder.build(source(text, name), limits=limits)
    assert built.code is Code.CE, (built.cause, built.program)
    assert built.result is not None and not built.result.ok
    assert len(built.output) <= 64 << 10
    usage = built.result.usage
    # What passes a limit is ended at the next look, which a busy machine may delay.
    assert usage.cpu_ns < 20 * SECOND and usage.wall_ns < 120 * SECOND


@pytest.mark.parametrize(
    ("what", "script", "limit"),
    [
        ("floods its output", "yes", "output"),
        ("fills the directory", "cat /dev/zero > big", ""),
        ("makes files without end", "i=0; while :; do : > f$i || exit 1; i=$((i+1)); done", ""),
        ("forks", "f() { f | f & }; f; sleep 100", ""),
        ("sleeps", "sleep 1000", ""),
        ("stays behind", "(setsid sleep 1000 > /dev/null 2>&1 &) ; exit 1", ""),
    ],
)  # fmt: skip
def test_a_build_script_that_runs_wild_is_ended_and_leaves_nothing(builder: Builder, what: str, script: str, limit: str) -> None:
    limits = ProblemLimits(compilation_time_ns=SECOND, compilation_memory_bytes=512 << 20)
    built = builder.build(Source(name="v", files={"build": f"#!/bin/sh\n{script}\n".encode()}, executable=frozenset({"build"})), limits=limits)
    assert built.code is Code.CE, built.cause
    assert built.result is not None and (not limit or limit in built.result.limits_hit)


def test_a_program_that_is_too_large_to_keep_is_a_compile_error_in_words(builder: Builder) -> None:
    text = "char a[80000000] = {1}; int main(void) { return a[0]; }"
    assert builder.build(source(text)).cause == "`gcc` made more than 64 MiB of files"
    script = "#!/bin/sh\ntruncate -s 80M waste\nprintf '#!/bin/sh\\n' > run\nchmod +x run\n"
    built = build_source(builder, {"build": script}, ("build",))
    assert built.cause == "`build` made more than 64 MiB of files" and built.code is Code.CE


def test_links_that_a_build_leaves_are_not_followed_out_of_its_sandbox(builder: Builder, secret: str) -> None:
    script = f"#!/bin/sh\nln -s {secret} stolen\nln -s /proc/self/environ environ\nmkfifo pipe\n" + (
        "printf '#!/bin/sh\\nls /judge/program\\n' > real\nchmod +x real\nln -s real run\nln real other\n"
    )
    built = builder.build(Source(name="v", files={"build": script.encode()}, executable=frozenset({"build"})))
    program = compiled(built)
    names = set(os.listdir(program.directory))
    assert {"run", "real", "other", "build"} <= names and not names & {"stolen", "pipe"}
    assert not any(path.is_symlink() for path in Path(program.directory).rglob("*"))
    assert b"real" in (run_program(program, b"").stdout or b"")


@pytest.mark.parametrize("language", ["java"])
def test_annotation_processors_do_not_run(builder: Builder, language: str) -> None:
    need(language)
    processor = """
import javax.annotation.processing.*; import javax.lang.model.element.*; import java.util.*;
@SupportedAnnotationTypes("*") public class P extends AbstractProcessor {
    public boolean process(Set<? extends TypeElement> a, RoundEnvironment r) { throw new RuntimeException("ran"); } }
"""
    main = "public class Main { public static void main(String[] a) { System.out.println(1); } }"
    files = {"P.java": processor.encode(), "Main.java": main.encode(), "META-INF/services/javax.annotation.processing.Processor": b"P\n"}
    first = builder.build(Submission(name="x", files=files))
    assert run_program(compiled(first), b"").stdout == b"1\n" and "ran" not in first.output


def test_arguments_hidden_in_names_reach_no_compiler(builder: Builder) -> None:
    files = {"-fplugin=x.c": b"int x;", "@args.c": b"int y;", "main.c": b"int main(void) { return 7; }"}
    assert run_program(compiled(builder.build(Submission(name="x", files=files))), b"").exit_code == 7


# ---- packages' programs -----------------------------------------------------------------------------------------


def build_source(builder: Builder, files: Mapping[str, str], executable: tuple[str, ...] = ()) -> Built:
    return builder.build(Source(name="validator", files={name: text.encode() for name, text in files.items()}, executable=frozenset(executable)))


def test_validators_build_by_language_or_by_their_scripts(builder: Builder) -> None:
    plain = compiled(build_source(builder, {"v.cpp": '#include <testlib.h>\nint main() { return ACCEPT; }', "testlib.h": "#define ACCEPT 42\n"}))
    assert plain.profile == "judge-validate" and run_program(plain, b"").exit_code == 42
    script = "#!/bin/sh\nc++ -o run v.cc\n"
    scripted = build_source(builder, {"build": script, "v.cc": "int main(int n, char **) { return n == 3 ? 42 : 1; }"}, ("build",))
    assert run_program(compiled(scripted), b"", args=("a", "b")).exit_code == 42 and scripted.language == "scripts"
    ready = compiled(build_source(builder, {"run": "#!/usr/bin/env python3\nimport sys\nsys.exit(43)\n"}, ("run",)))
    assert run_program(ready, b"").exit_code == 43
    package = compiled(build_source(builder, {"__init__.py": "", "__main__.py": "import helper\nraise SystemExit(helper.code)", "helper.py": "code = 42"}))
    assert run_program(package, b"").exit_code == 42


@pytest.mark.parametrize(
    ("files", "executable", "cause"),
    [
        ({"build": "#!/bin/sh\n"}, (), "`build` is not executable"),
        ({"run": "#!/bin/sh\n"}, (), "`run` is not executable"),
        ({"build": "#!/bin/sh\nexit 3\n"}, ("build",), "`build` ended with exit 3"),
        ({"build": "#!/bin/sh\n:\n"}, ("build",), "`build` ended with exit 1: build made no executable file run"),
        ({"build": "#!/bin/sh\n: > run\n"}, ("build",), "`build` ended with exit 1: build made no executable file run"),
        ({"build": "no script\n"}, ("build",), "`build` ended with exit 127"),
    ],
)
def test_scripts_that_make_no_program_say_so(builder: Builder, files: Mapping[str, str], executable: tuple[str, ...], cause: str) -> None:
    built = build_source(builder, files, executable)
    assert built.code is Code.CE and built.cause.startswith(cause)


def test_included_files_are_compiled_with_a_submission_and_do_not_count_as_its_code(builder: Builder) -> None:
    include = {"cpp": {"grader.cpp": b"#include <cstdio>\nint solve(); int main() { std::printf(\"%d\", solve()); }" + b" " * 200_000}}
    built = builder.build(source("int solve() { return 5; }", "s.cpp"), include=include)
    assert run_program(compiled(built), b"").stdout == b"5"
    driver = {"python3": {"main.py": b"import s\nprint(s.solve())"}}
    built = builder.build(source("def solve(): return 6", "s.py"), include=driver)
    assert run_program(compiled(built), b"").stdout == b"6\n"


def test_an_entry_point_is_kept_and_classes_are_found_in_packages(builder: Builder) -> None:
    need("java")
    text = b"package a.b; public class X { public static void main(String[] w) { System.out.println(1); } }"
    other = b"package a.b; class Y { public static void main(String[] w) { System.out.println(2); } }"
    files = {"a/b/X.java": text, "a/b/Y.java": other}
    assert run_program(compiled(builder.build(Submission(name="x", files=files))), b"").stdout == b"1\n"
    assert run_program(compiled(builder.build(Submission(name="x", files=files, entrypoint="a.b.Y"))), b"").stdout == b"2\n"
    assert builder.build(Submission(name="x", files={"Z.java": b"class Z {}"})).cause == "no class has a method `public static void main(String[])`"


# ---- the cache in use -------------------------------------------------------------------------------------------


def test_the_program_sees_its_files_and_cannot_change_them(builder: Builder) -> None:
    text = """
import os
print(sorted(os.listdir('/judge/program')), os.getcwd())
for change in (lambda p: open(p, 'a'), lambda p: open(p + '.new', 'a'), lambda p: os.chmod(p, 0o777)):
    try: change('/judge/program/main.py')
    except OSError as error: print(error.strerror)
"""
    program = compiled(builder.build(source(text, "main.py")))
    before = {path: path.read_bytes() for path in Path(program.directory).rglob("*") if path.is_file()}
    lines = (run_program(program, b"").stdout or b"").decode().splitlines()
    assert lines[0] == "['__pycache__', 'main.py'] /home/user"
    assert len(lines) == 4 and set(lines[1:]) <= {"Read-only file system", "Permission denied", "Operation not permitted"}
    assert {path: path.read_bytes() for path in Path(program.directory).rglob("*") if path.is_file()} == before


def test_whatever_goes_into_a_program_is_in_its_key(builder: Builder) -> None:
    def key(files: Mapping[str, bytes], **more: str) -> str:
        return compiled(builder.build(Submission(name="any", files=files), **more)).digest  # type: ignore[arg-type]

    first = key({"a.py": b"print(1)"})
    assert key({"a.py": b"print(1)"}) == first
    others = ({"a.py": b"print(2)"}, {"b.py": b"print(1)"}, {"a.py": b"print(1)", "b.txt": b""}, {"a.py": b"print(1)", "b.tx": b"t"})
    assert len({first, *map(key, others)}) == 5
    # Where names end and contents begin is not guessed.
    assert key({"a.py": b"", "b.txt": b"xy"}) != key({"a.py": b"", "b.tx": b"txy"})


def test_another_compiler_makes_another_program(tmp_path: Path) -> None:
    need("c")
    program = tmp_path / "bin" / "gcc"
    program.parent.mkdir()

    def build() -> tuple[str, bool]:
        environ = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path / "cache")}
        with Builder(environ=environ) as here:
            built = here.build(source("int main(void) { return 0; }"))
            return compiled(built).digest, built.cached

    first = build()
    assert first[1] is False and build() == (first[0], True)
    program.write_text("#!/bin/sh\nexec /usr/bin/gcc \"$@\"\n")
    program.chmod(0o755)
    second = build()
    assert second[0] != first[0] and second[1] is False and build() == (second[0], True)
    os.utime(program, (1, 1))
    assert build()[1] is False


def test_a_poisoned_program_is_not_run(builder: Builder) -> None:
    submission = source("int main(void) { return 3; }")
    program = compiled(builder.build(submission))
    binary = Path(program.directory, "a.out")
    binary.chmod(0o755)
    evil = compiled(builder.build(source("int main(void) { return 66; }")))
    binary.write_bytes(Path(evil.directory, "a.out").read_bytes())
    binary.chmod(0o555)
    assert run_program(program, b"").exit_code == 66, "the control: without a look at the digest the poison runs"
    again = builder.build(submission)
    assert again.cached is False and run_program(compiled(again), b"").exit_code == 3
    assert again.cause == f"compiled program `{program.digest[:12]}`: `a.out` was changed; it is made again"


def test_what_another_package_allowed_its_compiler_decides_nothing(builder: Builder) -> None:
    """A program that was compiled in a minute would be kept, and be no compile error where a second is allowed."""
    submission = source("int main(void) { return 7; }")
    allowed = ProblemLimits(compilation_time_ns=50 * SECOND)
    found = [builder.build(submission, limits=limits) for limits in (allowed, replace(allowed, compilation_time_ns=40 * SECOND), allowed)]
    assert [each.cached for each in found] == [False, False, True]
    assert len({compiled(each).digest for each in found}) == 2
    assert builder.build(submission, limits=replace(allowed, memory_bytes=1 << 27)).cached


def test_one_program_is_compiled_once_for_many_threads(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    real = sandbox.run

    def counted(*words: object, **options: object) -> object:
        runs.append(words)
        return real(*words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("sandbox.judge.building.sandbox.run", counted)
    found: list[Built] = []
    submission = source("int main(void) { return 11; }")
    threads = [threading.Thread(target=lambda: found.append(builder.build(submission))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 1 and len({compiled(each).directory for each in found}) == 1 and sum(each.cached for each in found) == 5


def test_a_sandbox_that_fails_when_a_compiler_is_looked_for_is_no_absent_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An absent one is not judged, which is no failure of anybody's, and the exit status is 0."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # versions that were told before

    def broken(*_: object, **__: object) -> None:
        raise SetupError("start the sandbox", errno.EMFILE)

    monkeypatch.setattr("sandbox.judge.languages.toolchains.sandbox.run", broken)
    with Builder(cache=Cache(str(tmp_path / "cache"))) as made:
        built = made.build(source("int main(void) { return 0; }"))
    assert (built.code, built.absent) == (Code.JE, "")
    assert built.cause == "look for the compiler of `hostile`: start the sandbox: Too many open files (EMFILE)"


def test_a_sandbox_that_fails_is_the_judges_fault(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise SandboxError("mount `/usr`: Permission denied (EACCES)")

    monkeypatch.setattr("sandbox.judge.building.sandbox.run", broken)
    built = builder.build(source("int main(void) { return 12; }"))
    assert built.code is Code.JE and built.cause == "compile `hostile`: mount `/usr`: Permission denied (EACCES)"
