"""The floors of docs/architecture.md hold, and each contract that says so can fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIGURATION = ROOT / "pyproject.toml"

# One import that no room may make, for each contract: (module that is written, its import).
VIOLATIONS = {
    "imports point down only": ("policy", "import sandbox.kernel"),
    "launch knows plans and the kernel, not policies, filters or images": ("launch", "import sandbox.policy.profile"),
    "kernel wraps calls and knows none of our ideas": ("kernel", "import sandbox.units"),
    "the front end asks api, it builds no sandbox itself": ("cli", "import sandbox.launch"),
    "supervise decides no policy": ("supervise", "import sandbox.seccomp"),
    "policies, filters and plans are computed without a kernel": ("plan", "import socket"),
    "ctypes lives in the wrappers of system calls": ("audit", "import ctypes"),
    "pyseccomp lives in seccomp.compile": ("seccomp", "import pyseccomp"),
    "python-prctl lives in launch.privileges": ("kernel", "import prctl"),
    "pyroute2 lives in net.netlink": ("launch", "from pyroute2 import IPRoute"),
    "TOML is read by policy": ("cgroup", "import tomllib"),
    "YAML is read in one place, of problem packages": ("audit", "import yaml"),
    "the judge asks api, it builds no sandbox itself": ("judge", "import sandbox.launch"),
}


def lint_imports(tree: Path, package_parent: Path) -> tuple[int, dict[str, str]]:
    """Run import-linter over `tree/sandbox` and return (exit status, contract → KEPT or BROKEN)."""
    code = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--config", str(CONFIGURATION)],
        cwd=tree,
        # The tree under test must win over an editable install of the checkout.
        env=os.environ | {"PYTHONPATH": str(package_parent), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    states = dict(re.findall(r"^(.+?) (KEPT|BROKEN)\b", done.stdout, re.MULTILINE))
    assert states, done.stdout + done.stderr
    return done.returncode, states


def contract_names() -> set[str]:
    contracts = tomllib.loads(CONFIGURATION.read_text())["tool"]["importlinter"]["contracts"]
    return {contract["name"] for contract in contracts}


def test_every_contract_is_kept() -> None:
    status, states = lint_imports(ROOT, ROOT)
    assert {name for name, state in states.items() if state == "BROKEN"} == set()
    assert states.keys() == contract_names()
    assert status == 0


def test_every_contract_notices_a_violation(tmp_path: Path) -> None:
    assert VIOLATIONS.keys() == contract_names(), "a contract without a violation that breaks it proves nothing"
    shutil.copytree(ROOT / "sandbox", tmp_path / "sandbox", ignore=shutil.ignore_patterns("__pycache__", "sandbox-init"))
    for number, (room, text) in enumerate(VIOLATIONS.values()):
        (tmp_path / "sandbox" / room / f"violation_{number}.py").write_text(f'"""Wrong on purpose."""\n\n{text}\n')
    status, states = lint_imports(tmp_path, tmp_path)
    assert status == 1
    assert {name for name, state in states.items() if state == "KEPT"} == set()


def test_every_top_level_module_has_a_floor() -> None:
    contracts = tomllib.loads(CONFIGURATION.read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract for contract in contracts if contract["id"] == "floors")
    named = set(re.findall(r"\w+", " ".join(layers["layers"]))) | set(layers["exhaustive_ignores"]) | {"__init__"}
    found = {path.stem for path in (ROOT / "sandbox").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert found - named == set()


@pytest.mark.parametrize("module", ["sandbox", "sandbox.errors", "sandbox.result", "sandbox.units"])
def test_the_ground_floor_imports_nothing_heavy(module: str) -> None:
    heavy = ["argparse", "asyncio", "ctypes", "inspect", "json", "logging", "prctl", "pyroute2", "pyseccomp", "subprocess", "tomli"]
    code = f"import sys, {module}; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        # -S: what a .pth file of the environment loads is not ours.
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    assert done.stdout.split() == []


def test_records_are_made_without_the_standard_dataclasses() -> None:
    """Each class that `dataclasses` makes runs the compiler, at every start of the command line."""
    users = [path for path in (ROOT / "sandbox").rglob("*.py") if "from dataclasses import" in path.read_text()]
    assert users == [ROOT / "sandbox" / "record.py"]
