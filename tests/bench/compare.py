"""Runs the comparison with other sandboxes (peers.py and peers.toml, kept outside this checkout) with our own rows added."""

from __future__ import annotations

import compileall
import os
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[1]


def main(script: str, words: list[str]) -> int:
    """Write our rows with this checkout's paths, then run `script` with `words` and them."""
    # The ordinary user of the rows may not be able to write bytecode here; without it every launch would compile us.
    compileall.compile_dir(str(_ROOT / "sandbox"), quiet=2)
    text = (_HERE / "ours.toml").read_text()
    for name, value in (("bin", str(Path(sys.executable).parent)), ("bench", str(_HERE)), ("checkout", str(_ROOT))):
        text = text.replace(f"@{name}@", value)
    with tempfile.NamedTemporaryFile("w", prefix="ours.", suffix=".toml") as file:
        file.write(text)
        file.flush()
        return os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-I", "-B", script, "--defs", file.name, *words])
