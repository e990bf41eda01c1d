"""``python -m sandbox``, and the checkout's own command: the same as the `sandbox` command."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    if not __package__:  # by its path, from an isolated interpreter: neither the package nor what lies beside an interpreter can be found yet
        from os.path import abspath, dirname

        sys.path.append(dirname(dirname(abspath(__file__))))
        if sys.flags.no_site:
            sys.path.append(f"{dirname(dirname(sys.executable))}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")
    from sandbox.cli.start import start

    start()
