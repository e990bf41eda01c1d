"""CPython's own regression tests give the same results inside `default` as outside; each difference is explained by name.

Slow: asked for with --slow and SANDBOX_SUITES=1; not part of CI. The comparison itself is tests/suites/cpython.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "suites"))

import cpython


@pytest.mark.slow
@pytest.mark.orphans
@pytest.mark.userns
@pytest.mark.parametrize("module", cpython.MODULES)
def test_module_behaves_as_outside(module: str, tmp_path: Path) -> None:
    if not Path("/usr/lib/python3.11/test/test_os.py").exists():
        pytest.skip("libpython3.11-testsuite is not installed")
    if not os.environ.get("SANDBOX_SUITES"):
        pytest.skip("some ten minutes of somebody else's tests: asked for with SANDBOX_SUITES=1")
    if os.geteuid() == 0:
        pytest.skip("outside it would run as root, inside it never does: nothing to compare")
    outside = cpython.run_module(module, None, tmp_path)
    inside = cpython.run_module(module, "default", tmp_path)
    assert len(outside) > 1, (tmp_path / f"{module}.out.log").read_text(errors="replace")[-2000:]
    assert set(inside) != {module}, inside
    differing = {
        test: (outside.get(test), inside.get(test)) for test in outside.keys() | inside.keys() if outside.get(test) != inside.get(test)
    }
    assert not {test: results for test, results in differing.items() if cpython.explain(test) is None}
