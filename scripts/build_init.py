#!/usr/bin/env python3
"""Build the native executor `sandbox-init` from its one C file.

Shared by the wheel's build hook (`hatch_build.py`) and `./dev`. Standard library only, because it runs before
anything is installed; no module of the package imports it.

Exit status as a script: 0 built or up to date, 1 the compiler failed, 2 there is no compiler.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "sandbox/launch/native/init.c"
BINARY = SOURCE.with_name("sandbox-init")

FLAGS = (
    "-std=gnu11",
    "-O2",
    "-static",
    "-nostdlib",
    "-ffreestanding",
    "-fno-builtin",
    "-fno-stack-protector",
    # Or gcc turns the loop inside our memset() into a call of memset().
    "-fno-tree-loop-distribute-patterns",
    "-fno-asynchronous-unwind-tables",
    "-fno-unwind-tables",
    # A distribution's default may be PIE, which nobody would relocate here.
    "-fno-pie",
    "-no-pie",
    "-Wall",
    "-Wextra",
    "-s",
    "-Wl,--build-id=none",
    "-Wl,-z,noexecstack",
    "-Wl,-z,max-page-size=4096",
)
ARCHITECTURE_FLAGS = {
    # The helpers behind outlined atomics live in libgcc, which is not linked.
    "aarch64": ("-mno-outline-atomics",),
}
COMPILERS = ("cc", "gcc", "clang")


class BuildError(Exception):
    """The compiler ran and failed; the text is its output."""


class NoCompilerError(Exception):
    """There is no C compiler on this machine."""


def find_compiler() -> list[str]:
    """Return the compiler's command: `$CC` when set, else the first of cc, gcc, clang that exists.

    Raises:
        NoCompilerError: none was found.
    """
    wanted = shlex.split(os.environ.get("CC", ""))
    if wanted and shutil.which(wanted[0]):
        return wanted
    for name in COMPILERS:
        if shutil.which(name):
            return [name]
    raise NoCompilerError("no C compiler (looked for " + ", ".join([*wanted[:1], *COMPILERS]) + ")")


def is_current(binary: Path = BINARY, source: Path = SOURCE) -> bool:
    """Return whether `binary` exists and is newer than its source and this script."""
    try:
        built = binary.stat().st_mtime_ns
    except FileNotFoundError:
        return False
    return all(path.stat().st_mtime_ns < built for path in (source, Path(__file__)))


def build_init(binary: Path = BINARY, source: Path = SOURCE) -> Path:
    """Compile `source` to `binary` and return `binary`.

    The result appears by rename, so a sandbox that starts meanwhile sees the old program or the new one, never a part.
    As root it is given to the owner of the source, so that the owner of a checkout keeps owning all of it.

    Raises:
        NoCompilerError: there is no compiler.
        BuildError: the compiler failed.
        OSError: the directory cannot be written.
    """
    temporary = binary.with_name(f".{binary.name}.{os.getpid()}")
    extra = ARCHITECTURE_FLAGS.get(platform.machine(), ())
    command = [*find_compiler(), *FLAGS, *extra, "-o", str(temporary), str(source)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise BuildError(f"{shlex.join(command)}\n{done.stdout}{done.stderr}".rstrip())
        if done.stderr:
            sys.stderr.write(done.stderr)
        temporary.chmod(0o755)
        if os.geteuid() == 0:
            owner = source.stat()
            os.chown(temporary, owner.st_uid, owner.st_gid)
        temporary.replace(binary)
    finally:
        temporary.unlink(missing_ok=True)
    return binary


def main() -> int:
    """Build when needed; `--force` builds always."""
    if is_current() and "--force" not in sys.argv[1:]:
        return 0
    try:
        build_init()
    except NoCompilerError as error:
        print(f"warning: build `{BINARY}`: {error}", file=sys.stderr)
        return 2
    except (BuildError, OSError) as error:
        print(f"warning: build `{BINARY}`: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
