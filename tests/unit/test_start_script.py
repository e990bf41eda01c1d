"""The installed command finds its interpreter and package wherever installers put them, and however it is called."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sandbox
from tests.conftest import ROOT

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
# Says how it was started, in place of the program.
START = """
import sys
def start():
    print("isolated", sys.flags.isolated, "site", "site" in sys.modules, *sys.argv[1:])
"""


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A prefix as of a virtual environment, with a blank in its name."""
    made = tmp_path / "a prefix"
    packages = made / "lib" / PYTHON / "site-packages"
    (packages / "sandbox" / "cli").mkdir(parents=True)
    (packages / "sandbox_rootless-0.1.0.dist-info").mkdir()
    for name in ("sandbox", "sandbox/cli"):
        (packages / name / "__init__.py").touch()
    (packages / "sandbox" / "cli" / "start.py").write_text(START)
    (made / "bin").mkdir()
    shutil.copy(ROOT / "bin" / "sandbox", made / "bin" / "sandbox")
    os.symlink(sys.executable, made / "bin" / PYTHON)
    return made


def run(*command: str | Path, cwd: Path | None = None, path: str = "/usr/bin:/bin") -> str:
    done = subprocess.run(list(command), cwd=cwd, env={"PATH": path}, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def _absolute(prefix: Path) -> str:
    return run(prefix / "bin" / "sandbox", "exec", "", "a b", "--")


def _relative(prefix: Path) -> str:
    return run("./sandbox", "exec", "", "a b", "--", cwd=prefix / "bin")


def _in_path(prefix: Path) -> str:
    return run("sh", "-c", 'sandbox "$@"', "x", "exec", "", "a b", "--", path=f"{prefix}/bin:/usr/bin:/bin")


def _by_sh(prefix: Path) -> str:
    return run("sh", "sandbox", "exec", "", "a b", "--", cwd=prefix / "bin")


def _linked(prefix: Path) -> str:
    """As pipx and uv do; by way of a second, relative link."""
    elsewhere = prefix.parent / "elsewhere"
    elsewhere.mkdir()
    os.symlink(prefix / "bin" / "sandbox", elsewhere / "first")
    os.symlink("first", elsewhere / "sandbox")
    os.symlink("/nowhere/python3", elsewhere / PYTHON)
    return run(elsewhere / "sandbox", "exec", "", "a b", "--")


@pytest.mark.parametrize("call", [_absolute, _relative, _in_path, _by_sh, _linked])
def test_it_starts_the_interpreter_beside_it(prefix: Path, call: Callable[[Path], str]) -> None:
    assert call(prefix) == "isolated 1 site False exec  a b --\n"


def test_the_interpreter_may_be_elsewhere(prefix: Path) -> None:
    """A user's own installation, or a distribution's: the directory of the packages has the version."""
    (prefix / "bin" / PYTHON).unlink()
    os.rename(prefix / "lib" / PYTHON / "site-packages", prefix / "lib" / PYTHON / "dist-packages")
    tools = prefix.parent / "tools"
    tools.mkdir()
    os.symlink(sys.executable, tools / PYTHON)
    assert run(prefix / "bin" / "sandbox", "exec", path=f"{tools}:/usr/bin:/bin") == "isolated 1 site False exec\n"


def test_an_editable_install(prefix: Path) -> None:
    packages = prefix / "lib" / PYTHON / "site-packages"
    os.rename(packages / "sandbox", prefix.parent / "sandbox")
    (packages / "_editable_impl_sandbox_rootless.pth").write_text(f"{prefix.parent}\n")
    assert run(prefix / "bin" / "sandbox", "exec") == "isolated 1 site False exec\n"


def test_a_file_of_the_working_directory_is_not_imported(prefix: Path) -> None:
    for name in ("sandbox.py", "os.py", "site.py"):
        (prefix / "bin" / name).write_text("print('planted')")
    assert run("./sandbox", "exec", cwd=prefix / "bin") == "isolated 1 site False exec\n"


def test_the_checkout_s_own_command_and_the_module_are_the_same() -> None:
    main = str(ROOT / "sandbox" / "__main__.py")
    version = f"sandbox {sandbox.__version__}\n"
    for command in ([sys.executable, "-I", main], [sys.executable, "-I", "-S", main]):
        assert run(*command, "--version") == version
    done = subprocess.run([sys.executable, "-m", "sandbox", "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == version


def test_a_closed_standard_output_is_an_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([sys.executable, "-I", "-S", str(ROOT / "sandbox" / "__main__.py"), "--help"], stdout=write, check=False, capture_output=False)
    finally:
        os.close(write)
    assert done.returncode == 125
