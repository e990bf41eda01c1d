"""Real programs over a tree that stays: what is listed equals a comparison, what is applied equals having run them outside, what is discarded was never there.

pip (a wheel that is made here), npm (a package that is made here), make, git; and what a program can not do to the overlay itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import sandbox
from tests.kernel.overlays import View, as_compared, compare_views, view

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]
STAMPED = {"SOURCE_DATE_EPOCH": "1500000000", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty tree, and a place for runs."""
    monkeypatch.setenv("SANDBOX_STATE_DIR", str(tmp_path / "state"))
    tmp_path.chmod(0o755)
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


def timeless(found: View) -> View:
    """Leave out the times of files: two runs of one program are not in the same nanosecond."""
    return {path: (*entry[:4], 0, *entry[5:]) if entry[0] == "file" else entry for path, entry in found.items()}


def inside_and_outside(tree: Path, command: list[str], *, volatile: tuple[str, ...] = (), volumes: tuple[str, ...] = (), autorun: str = "ask") -> None:
    """Run a command copy-on-write, check the list against what the run itself saw, apply it, and compare with a run outside.

    `volatile` are names whose contents differ between any two runs of the program (a log with the time in it).
    """
    outside = tree.parent / "outside"
    subprocess.run(["cp", "-a", tree, outside], check=True)
    before = view(tree)
    env = {"HOME": str(tree.parent / "home"), "PATH": "/usr/bin:/bin", **STAMPED}

    def run(*more: str) -> sandbox.Result:
        return sandbox.run(
            [*command], profile="build", cow=[tree], cwd=tree, env=STAMPED, volumes=[*volumes, *more], limits={"wall": "600s"}
        )  # fmt: skip

    result = run()
    assert result.ok, (result.verdict, result.stdout, result.stderr)
    assert view(tree) == before and result.changes is not None
    listed = result.changes.list()
    discarded = run()
    assert discarded.changes is not None and discarded.changes.discard()
    assert view(tree) == before, "discarded, it was never there"
    report = result.changes.apply(autorun=autorun)
    assert report.removed, report
    after = view(tree)
    # After `apply` the tree is what the run saw; so its list must be the comparison of the two.
    assert as_compared(listed) == compare_views(before, after)
    moved = tree.parent / "applied"
    tree.rename(moved)
    outside.rename(tree)  # at the same path: programs write it down
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    mine, theirs = timeless(view(moved)), timeless(view(tree))
    for name in volatile:
        mine = {path: entry for path, entry in mine.items() if not path.endswith(name)}
        theirs = {path: entry for path, entry in theirs.items() if not path.endswith(name)}
    assert mine == theirs


def make_wheel(directory: Path) -> Path:
    """Make a wheel with modules, data and an entry point."""
    path = directory / "thing-1.0-py3-none-any.whl"
    contents = {
        "thing/__init__.py": "def main():\n    print('thing')\n",
        "thing/data.txt": "data\n" * 100,
        "thing-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
        "thing-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "thing-1.0.dist-info/entry_points.txt": "[console_scripts]\nthing = thing:main\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in contents.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), text)
        archive.writestr(zipfile.ZipInfo("thing-1.0.dist-info/RECORD", (2020, 1, 1, 0, 0, 0)), "".join(f"{name},,\n" for name in contents))
    return path


def test_pip_installs_a_wheel(tree: Path) -> None:
    try:
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", tree / "venv"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no virtual environment can be made: {error}")
    wheel = make_wheel(tree.parent)
    pip = next((path for path in Path(sys.prefix).glob("lib/python3*/site-packages/pip")), None)
    if pip is None:
        pytest.skip("this Python has no pip")
    shutil.copytree(pip, tree.parent / "pip-code/pip", ignore=shutil.ignore_patterns("__pycache__"))
    code = f"import sys, runpy; sys.path.insert(0, {str(tree.parent / 'pip-code')!r}); sys.argv[0] = 'pip'; runpy.run_module('pip', run_name='__main__')"
    words = ["install", "--no-index", "--no-deps", "--no-cache-dir", "--no-compile", "--disable-pip-version-check", str(wheel)]
    inside_and_outside(tree, [str(tree / "venv/bin/python"), "-c", code, *words], volumes=(str(tree.parent / "pip-code"), str(wheel)))
    assert subprocess.run([tree / "venv/bin/thing"], capture_output=True, check=True).stdout == b"thing\n"


def test_npm_installs_a_package(tree: Path) -> None:
    npm = shutil.which("npm", path="/usr/bin:/bin")
    if npm is None:
        pytest.skip("npm is not installed")
    package = tree.parent / "package"
    (package / "lib").mkdir(parents=True)
    (package / "package.json").write_text('{"name": "thing", "version": "1.0.0", "main": "lib/a.js", "bin": {"thing": "cli.js"}}\n')
    (package / "cli.js").write_text("#!/usr/bin/env node\nconsole.log('thing')\n")
    (package / "lib/a.js").write_text("module.exports = 1\n")
    archive = tree.parent / "thing-1.0.0.tgz"
    subprocess.run(["tar", "-czf", archive, "--sort=name", "--mtime=@1500000000", "package"], cwd=tree.parent, check=True)
    (tree / "package.json").write_text('{"name": "app", "version": "1.0.0"}\n')
    command = f"npm install --offline --no-audit --no-fund --cache {tree}/.npm-cache --no-update-notifier ../thing-1.0.0.tgz && rm -rf {tree}/.npm-cache"
    inside_and_outside(tree, ["sh", "-c", command], volumes=(str(archive),))
    assert (tree / "node_modules/thing/lib/a.js").is_file() and os.path.islink(tree / "node_modules/.bin/thing")


def test_make_builds_a_project(tree: Path) -> None:
    for program in ("make", "cc", "ar"):
        if shutil.which(program) is None:
            pytest.skip(f"`{program}` is not installed")
    (tree / "src").mkdir()
    for number in range(8):
        (tree / f"src/part{number}.c").write_text(f"int part{number}(int x) {{ return x * {number + 2}; }}\n")
    names = " ".join(f"part{number}" for number in range(8))
    (tree / "src/main.c").write_text("int part1(int); int main(void) { return part1(0); }\n")
    (tree / "Makefile").write_text(
        f"PARTS = {names}\nall: prog\nlib.a: $(PARTS:%=build/%.o)\n\tar rcsD $@ $^\nprog: src/main.c lib.a\n\tcc -o $@ src/main.c lib.a\n\tln -sf prog run\n"
        "build/%.o: src/%.c | build\n\tcc -c -o $@ $<\nbuild:\n\tmkdir build\nclean:\n\trm -rf build lib.a prog run\n"
    )
    inside_and_outside(tree, ["make", "-j2"])
    assert os.readlink(tree / "run") == "prog"
    assert subprocess.run(["make", "-q"], cwd=tree, check=False).returncode == 0, "times are applied: make has nothing to do"
    shutil.rmtree(tree.parent / "applied")
    again = sandbox.run(["make", "-s", "clean"], profile="build", cow=[tree], cwd=tree, limits={"wall": "600s"})
    assert again.ok and again.changes is not None
    assert {str(change.kind) for change in again.changes.list()} == {"deleted"} and (tree / "prog").exists()
    again.changes.apply()
    assert sorted(os.listdir(tree)) == ["Makefile", "src"]


def test_git_commits_branches_and_collects(tree: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    (tree / "file").write_text("one\n")
    (tree / "dir").mkdir()
    (tree / "dir/other").write_text("x\n" * 50)
    identity = "-c user.name=t -c user.email=t@example -c commit.gpgsign=false -c gc.auto=0 -c init.defaultBranch=main"
    dates = "export GIT_AUTHOR_DATE=2020-01-01T00:00:00Z GIT_COMMITTER_DATE=2020-01-01T00:00:00Z HOME=/nonexistent; "
    script = (
        f"{dates} git {identity} init -q . && git add . && git {identity} commit -qm one && git checkout -q -b side && mkdir moved && "
        f"git mv dir/other moved/other && echo two >>file && "
        f"git {identity} commit -qam two && git checkout -q main && git {identity} merge -q --no-edit side && git {identity} gc -q && git status --porcelain"
    )
    # The index has inode numbers and times of the very files; git refreshes it by itself.
    inside_and_outside(tree, ["sh", "-c", script], volatile=(".git/index", ".git/gc.pid"), autorun="apply")
    done = subprocess.run(["git", "-C", tree.parent / "applied", "-c", "safe.directory=*", "fsck", "--strict"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    status = subprocess.run(["git", "-C", tree.parent / "applied", "status", "--porcelain"], capture_output=True, check=True)
    assert status.stdout == b""


FORGE = r"""
import errno, json, os, stat
found = {}
def attempt(name, call):
    try:
        call()
        found[name] = "done"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
attempt("whiteout", lambda: os.mknod("forged", stat.S_IFCHR, os.makedev(0, 0)))
attempt("device", lambda: os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3)))
attempt("opaque", lambda: os.setxattr("sub", "user.overlay.opaque", b"y"))
attempt("redirect", lambda: os.setxattr("sub", "user.overlay.redirect", b"/etc"))
attempt("escaped", lambda: os.setxattr("sub", "user.overlay.overlay.opaque", b"y"))
attempt("trusted", lambda: os.setxattr("sub", "trusted.overlay.opaque", b"y"))
attempt("metacopy", lambda: os.setxattr("file", "user.overlay.metacopy", b""))
attempt("unset", lambda: os.removexattr("gone-and-back", "user.overlay.opaque"))
found["seen"] = [name for path in ("sub", "file", "gone-and-back") for name in os.listxattr(path) if "overlay" in name]
found["sub"] = sorted(os.listdir("sub"))
print(json.dumps(found))
"""


def test_an_overlay_is_not_forged_from_within(tree: Path) -> None:
    """No whiteout, no opaque directory, no redirection: what a program sets under those names hides and leads nowhere, and is never applied."""
    import json

    (tree / "sub").mkdir()
    (tree / "sub/below").write_text("x")
    (tree / "file").write_text("x")
    (tree / "gone-and-back").mkdir()
    (tree / "gone-and-back/hidden").write_text("x")
    (tree / "forge.py").write_text("import os, shutil; shutil.rmtree('gone-and-back'); os.mkdir('gone-and-back')\n" + FORGE)
    result = sandbox.run(["python3", "forge.py"], profile="default", cow=[tree], cwd=tree, limits={"wall": "240s"})
    assert result.ok, result.stderr
    found = json.loads(result.stdout or b"")
    assert found["whiteout"] != "done" and found["device"] != "done" and found["trusted"] != "done"
    assert found["sub"] == ["below"], "nothing is hidden by an attribute"
    changes = result.changes
    assert changes is not None
    paths = {change.path for change in changes.list()}
    assert "sub/below" not in paths and "gone-and-back/hidden" in paths, "neither hidden below what was forged, nor shown where it could not be unset"
    assert paths <= {"sub", "file", "gone-and-back/hidden", "gone-and-back"}
    changes.apply()
    for path in ("sub", "file", "gone-and-back"):
        assert not [name for name in os.listxattr(tree / path) if "overlay" in name]
    assert sorted(os.listdir(tree / "sub")) == ["below"] and os.listdir(tree / "gone-and-back") == []


def test_control_written_into_the_upper_itself_the_same_attribute_hides(tree: Path) -> None:
    """What the program could not do through the overlay does its work where it is done beneath it."""
    (tree / "sub").mkdir()
    (tree / "sub/below").write_text("x")
    first = sandbox.run(["sh", "-c", "echo x >sub/new"], profile="default", cow=[tree], cwd=tree, limits={"wall": "240s"})
    assert first.changes is not None
    upper = Path(os.environ["SANDBOX_STATE_DIR"]) / "changes" / first.changes.run_id / "trees/0/upper"
    os.setxattr(upper / "sub", "user.overlay.opaque", b"y")
    seen = sandbox.run(["ls", "sub"], profile="default", resume=first.changes, cwd=tree, limits={"wall": "240s"})
    assert seen.stdout == b"new\n"
