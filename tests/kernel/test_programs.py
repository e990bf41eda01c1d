"""Real programs that nobody here wrote, from typing the command to its result: compilers, interpreters, git, archives, virtual environments."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]


def need(*tools: str) -> None:
    """Skip the test where a tool is missing."""
    for tool in tools:
        if shutil.which(tool, path="/usr/local/bin:/usr/bin:/bin") is None:
            pytest.skip(f"`{tool}` is not installed")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Return a working directory that everybody may read."""
    tmp_path.chmod(0o755)
    return tmp_path


def check(sandbox_cli: Any, profile: str, script: str, cwd: Path, expected: str, *options: str) -> None:
    """Run a shell script and compare its output; nothing may be denied."""
    done = sandbox_cli("exec", "-p", profile, *options, "--", "sh", "-ec", script, cwd=cwd, timeout=600)
    errors = done.stderr.decode()
    assert (done.returncode, done.stdout.decode()) == (0, expected), errors
    denied = [line for line in errors.splitlines() if line.startswith("sandbox: ") and "no writable cgroup" not in line]
    assert denied == []


# ---- compilers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("compiler", "name", "source"), [
    ("gcc", "hello.c", '#include <stdio.h>\n#include <math.h>\nint main(void) { printf("hello %.2f\\n", sqrt(2)); return 0; }\n'),
    ("g++", "hello.cc", '#include <iostream>\n#include <thread>\nint main() { std::thread t([] { std::cout << "hello thread\\n"; }); t.join(); }\n'),
])  # fmt: skip
def test_compile_and_run(sandbox_cli: Any, work: Path, compiler: str, name: str, source: str) -> None:
    need(compiler)
    (work / name).write_text(source)
    expected = "hello 1.41\n" if name == "hello.c" else "hello thread\n"
    check(sandbox_cli, "build", f"{compiler} -O2 -Wall -o /tmp/hello {name} -lm -pthread && /tmp/hello", work, expected)
    assert os.listdir(work) == [name]


def test_make_in_a_shared_tree(sandbox_cli: Any, work: Path) -> None:
    need("make", "gcc")
    (work / "Makefile").write_text("all: prog\n\t./prog\nprog: a.o b.o\n\t@$(CC) -o $@ $^\n%.o: %.c\n\t@$(CC) -c -o $@ $<\n.SILENT:\n")
    (work / "a.c").write_text('int answer(void); int printf(const char *, ...); int main(void) { printf("%d\\n", answer()); return 0; }\n')
    (work / "b.c").write_text("int answer(void) { return 42; }\n")
    work.chmod(0o777)
    check(sandbox_cli, "build", "make -j2 CC=gcc", work, "42\n", "-v", f"{work}:{work}:rw")
    assert (work / "prog").exists()


# ---- interpreters --------------------------------------------------------------------------------------------------------


def test_node(sandbox_cli: Any, work: Path) -> None:
    need("node")
    (work / "main.js").write_text(
        "const fs = require('fs'), { Worker, isMainThread } = require('worker_threads');\n"
        "fs.promises.writeFile('/tmp/x', 'text').then(() => fs.promises.readFile('/tmp/x', 'utf8')).then(text => {\n"
        "  console.log(text, require('child_process').execFileSync('/bin/echo', ['child']).toString().trim());\n"
        "  new Worker(\"require('worker_threads').parentPort.postMessage(6 * 7)\", { eval: true }).on('message', n => console.log(n));\n"
        "});\n"
    )
    check(sandbox_cli, "default", "node main.js", work, "text child\n42\n")


def test_perl(sandbox_cli: Any, work: Path) -> None:
    need("perl")
    (work / "main.pl").write_text(
        'use strict; use File::Temp; use POSIX (); my $f = File::Temp->new; print $f "b\\na\\n"; close $f;\n'
        'print sort { $a cmp $b } do { open my $h, "<", "$f"; <$h> }; print `echo sub`; print POSIX::floor(3.7), "\\n";\n'
    )
    for profile in ("strict", "default"):
        check(sandbox_cli, profile, "perl main.pl", work, "a\nb\nsub\n3\n")


def test_sqlite(sandbox_cli: Any, work: Path) -> None:
    need("sqlite3")
    statement = (
        "create table t(a); insert into t values (1),(2),(39); select sum(a) from t; pragma journal_mode=wal; pragma integrity_check;"
    )
    for profile in ("strict", "default"):
        check(sandbox_cli, profile, f"sqlite3 /tmp/data.db '{statement}'", work, "42\nwal\nok\n")


def test_java(sandbox_cli: Any, work: Path) -> None:
    need("java")
    (work / "Main.java").write_text(
        "public class Main { public static void main(String[] a) throws Exception {\n"
        '  Thread t = new Thread(() -> System.out.println("thread")); t.start(); t.join();\n'
        "  System.out.println(java.util.stream.IntStream.rangeClosed(1, 8).parallel().sum()); } }\n"
    )
    if shutil.which("javac"):
        check(sandbox_cli, "default", "javac -d /tmp Main.java && java -cp /tmp Main", work, "thread\n36\n")
    else:
        check(sandbox_cli, "default", "java -version 2>&1 | grep -c Runtime", work, "1\n")


@pytest.mark.parametrize("profile", ["strict", "python", "default"])
def test_python(sandbox_cli: Any, work: Path, profile: str) -> None:
    (work / "main.py").write_text(
        "import concurrent.futures as f, json, subprocess, tempfile, threading, zlib\n"
        "with f.ThreadPoolExecutor(4) as pool: print(sum(pool.map(len, ['a', 'bb', 'ccc'])))\n"
        "with tempfile.TemporaryDirectory() as d: open(d + '/x', 'w').write('y'); print(open(d + '/x').read())\n"
        "print(subprocess.run(['echo', 'child'], capture_output=True, text=True).stdout, end='')\n"
        "print(json.dumps({'z': zlib.crc32(b'x')}))\n"
    )
    check(sandbox_cli, profile, "/usr/bin/python3 main.py", work, '6\ny\nchild\n{"z": 2363233923}\n')


def test_multiprocessing(sandbox_cli: Any, work: Path) -> None:
    (work / "main.py").write_text(
        "import multiprocessing as m\n"
        "def square(n): return n * n\n"
        "if __name__ == '__main__':\n"
        "    for method in ('fork', 'spawn', 'forkserver'):\n"
        "        with m.get_context(method).Pool(2) as pool: print(pool.map(square, range(4)))\n"
    )
    check(sandbox_cli, "python", "/usr/bin/python3 main.py", work, "[0, 1, 4, 9]\n" * 3)


def test_shells(sandbox_cli: Any, work: Path) -> None:
    need("bash")
    script = 'set -e; f() { echo "$1"; }; for i in {1..3}; do f $i; done | tac; diff <(echo a) <(echo a) && cat <<< done'
    (work / "run.sh").write_text(f"#!/bin/bash\n{script}\n")
    (work / "run.sh").chmod(0o755)
    for profile in ("strict", "default", "shell"):
        check(sandbox_cli, profile, "./run.sh", work, "3\n2\n1\ndone\n")


# ---- tools ---------------------------------------------------------------------------------------------------------------


def test_git(sandbox_cli: Any, work: Path) -> None:
    need("git")
    origin = work / "origin"
    settings = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *settings, "init", "-q", origin], check=True)
    (origin / "file").write_text("content\n")
    subprocess.run(["git", "-C", origin, "add", "file"], check=True)
    subprocess.run(["git", "-C", origin, *settings, "commit", "-qm", "first"], check=True)
    script = (
        "git clone -q file://$PWD/origin /tmp/clone; cd /tmp/clone; cat file; echo more >>file; "
        "git -c user.name=b -c user.email=b@example.org commit -qam second; git log --format=%s; git gc -q; git fsck"
    )
    if os.geteuid() == 0:  # root's payload is another user, and git trusts no other user's repository unless it is told to
        script = f"git config --global --add safe.directory '*'; {script}"
    for profile in ("default", "build"):
        check(sandbox_cli, profile, script, work, "content\nsecond\nfirst\n")


@pytest.mark.parametrize(("tool", "flag"), [("gzip", "-z"), ("xz", "-J"), ("bzip2", "-j"), ("zstd", "--zstd")])
def test_archives(sandbox_cli: Any, work: Path, tool: str, flag: str) -> None:
    need("tar", tool)
    for number in range(50):
        (work / "tree" / str(number % 5)).mkdir(parents=True, exist_ok=True)
        (work / "tree" / str(number % 5) / f"file {number}").write_text("line\n" * number * 20)
    (work / "tree" / "link").symlink_to("0")
    script = f"tar -c {flag} -f /tmp/a.tar -C {work} tree; mkdir /tmp/out; tar -x {flag} -f /tmp/a.tar -C /tmp/out; diff -r tree /tmp/out/tree; echo same"
    check(sandbox_cli, "strict", script, work, "same\n")


@pytest.mark.parametrize(("tool", "script", "expected"), [
    ("awk", "seq 10 | awk '{ s += $1 } END { print s }'", "55\n"),
    ("sed", "echo abc | sed 's/b/-/'", "a-c\n"),
    ("find", "mkdir -p /tmp/a/b; touch /tmp/a/b/c; find /tmp/a -type f -exec basename {} ';'", "c\n"),
    ("sort", "seq 3 | sort -r --parallel=2 -S 1M | xargs echo", "3 2 1\n"),
    ("bc", "echo '2^100' | bc", "1267650600228229401496703205376\n"),
    ("jq", "echo '{\"a\":[1,2]}' | jq -c .a", "[1,2]\n"),
    ("ruby", "ruby -e 'puts (1..4).sum'", "10\n"),
    ("lua5.4", "lua5.4 -e 'print(6*7)'", "42\n"),
    ("openssl", "printf x | openssl dgst -sha256 -r | cut -c1-8", "2d711642\n"),
    ("timeout", "timeout 0.1 sleep 9 || echo $?", "124\n"),
    ("nproc", "test $(nproc) -ge 1 && echo some", "some\n"),
    ("date", "TZ=Europe/Berlin date -d @0 +%H:%M", "01:00\n"),
    ("locale", "LC_ALL=C.UTF-8 locale charmap", "UTF-8\n"),
    ("id", "id -un; id -u; whoami", "user\n1000\nuser\n"),
    ("ps", "ps -A -o comm= | grep -c .", None),
])  # fmt: skip
def test_small_tools(sandbox_cli: Any, work: Path, tool: str, script: str, expected: str | None) -> None:
    need(tool)
    if expected is None:
        done = sandbox_cli("exec", "-p", "strict", "--", "sh", "-c", script, cwd=work)
        assert done.returncode == 0 and 2 <= int(done.stdout) <= 5, done
    else:
        check(sandbox_cli, "strict", script, work, expected)


# ---- interpreters outside /usr -------------------------------------------------------------------------------------------


@pytest.fixture
def environment(work: Path) -> Path:
    """Make a virtual environment with one package in it, outside the working directory."""
    path = work / "venv"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", path], check=True, timeout=60)
    version = subprocess.run(
        [path / "bin" / "python", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True, check=True
    )
    package = path / "lib" / f"python{version.stdout.strip()}" / "site-packages" / "a_package"
    package.mkdir()
    (package / "__init__.py").write_text("VALUE = 42\n")
    (path / "bin" / "a-tool").write_text(f"#!{path}/bin/python\nimport a_package, sys\nprint('tool', a_package.VALUE, *sys.argv[1:])\n")
    (path / "bin" / "a-tool").chmod(0o755)
    return path


def test_script_in_an_activated_environment(sandbox_cli: Any, work: Path, environment: Path) -> None:
    project = work / "project"
    project.mkdir()
    (project / "script.py").write_text("import a_package, sys\nprint(a_package.VALUE, sys.prefix, sys.argv[1:])\n")
    activated = {"PATH": f"{environment}/bin:/usr/bin:/bin", "VIRTUAL_ENV": str(environment)}
    expected = f"42 {environment} ['x']\n".encode()
    for command in (["python", "script.py", "x"], ["python3", "script.py", "x"]):
        for profile in ("strict", "python", "default"):
            done = sandbox_cli("exec", "-q", "-p", profile, "--", *command, cwd=project, env=activated)
            assert (done.stdout, done.returncode) == (expected, 0), done.stderr
    done = sandbox_cli("exec", "-q", "-p", "strict", "--", "a-tool", "y", cwd=project, env=activated)
    assert done.stdout == b"tool 42 y\n", done.stderr
    done = sandbox_cli("exec", "-q", "-p", "strict", "--", environment / "bin" / "python", "script.py", "x", cwd=project)
    assert done.stdout == expected, done.stderr


def test_environment_is_not_writable(sandbox_cli: Any, work: Path, environment: Path) -> None:
    project = work / "project"
    project.mkdir()
    program = "import os, sys\ntry: open(sys.prefix + '/bin/python3', 'r+b')\nexcept OSError as e: print(e.errno)"
    done = sandbox_cli("exec", "-q", "-p", "python", "--", environment / "bin" / "python", "-c", program, cwd=project)
    assert done.stdout in (b"30\n", b"13\n"), done


def test_script_with_a_shebang_of_the_environment(sandbox_cli: Any, work: Path, environment: Path) -> None:
    project = work / "project"
    project.mkdir()
    for name, line in (
        ("direct", f"#!{environment}/bin/python3"),
        ("by-env", "#!/usr/bin/env python3"),
        ("with-flag", f"#!{environment}/bin/python3 -B"),
    ):
        (project / name).write_text(f"{line}\nimport a_package\nprint(a_package.VALUE)\n")
        (project / name).chmod(0o755)
        done = sandbox_cli("exec", "-q", "-p", "strict", "--", f"./{name}", cwd=project, env={"PATH": f"{environment}/bin:/usr/bin:/bin"})
        assert done.stdout == b"42\n", (name, done.stderr)


def test_the_interpreter_of_these_tests(sandbox_cli: Any, work: Path) -> None:
    """Its environment may be anywhere, and has at least pytest in it."""
    if not Path(pytest.__file__).is_relative_to(sys.prefix):
        pytest.skip(f"pytest is not installed in `{sys.prefix}`")
    done = sandbox_cli("exec", "-q", "-p", "python", "--", sys.executable, "-c", "import pytest; print(pytest.__version__)", cwd=work)
    assert done.stdout.decode().strip() == pytest.__version__, done.stderr
