"""The beginning and the end of a process that is only there for the `sandbox` command; `bin/sandbox` and `sandbox/__main__.py` start here.

It runs isolated (``-I``) and without `site` (``-S``): what `site` gives an interpreter costs a quarter of its start, and a stored launch needs none of it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def start() -> NoReturn:
    """Run the command line and end the process with its exit code, without taking the interpreter apart first."""
    if sys.argv[1:2] == ["exec"]:
        import gc

        gc.disable()  # until the run has started there is nothing to let go of
        from sandbox.cli.modules import load_modules

        load_modules(os.environ)
    from sandbox.cli.main import main

    code = main()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 125
    os._exit(code)


def complete_path() -> None:
    """Make everything importable that `site` makes so; before the first import of something that is neither Python's nor ours."""
    if not sys.flags.no_site or "site" in sys.modules:
        return
    import site

    site.main()
    packages = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if packages not in sys.path:
        site.addsitedir(packages)  # a user's own, which is on no isolated interpreter's path


__all__ = ["complete_path", "start"]
