"""Tests that run inside a guest of `./dev vm`; `./dev test` does not collect this directory."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = str(Path(__file__).resolve().parent.parent)
# For `escape.support`, whose plans with a wall taken out show that the wall is what stopped an attack.
if TESTS not in sys.path:
    sys.path.append(TESTS)
