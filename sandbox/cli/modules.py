"""The modules of a run of `sandbox exec` in one file, so that starting one does not look for and open fifty.

The file lies in the caller's cache and is believed only where nobody else can write to it, where it is whole, and where every module's source is the very file
that the code was made from: the same inode, size and times. It holds what Python keeps in ``__pycache__``. It is written by the first run that was
launched from disk without it, and has the modules that such a run loads. Only `cli.start` and `cli.exec` import this module.
"""

from __future__ import annotations

import _imp
import marshal
import os
import sys
import time

from sandbox.store import cache_path, mark_of, open_directory, read_entry, write_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType
    from typing import Any

VARIABLE = "SANDBOX_CACHE"
"""Set to ``off``, neither modules nor prepared launches (`api.stored`) are read or written."""

MAXIMUM_FILES = 8
_MAXIMUM_BYTES = 8 << 20
_MAGIC = b"sandbox modules 1\n"
_HEAD_BYTES = len(_MAGIC) + 8
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_SETTLED_NS = 2_000_000_000  # coarser than any file system's clock

loaded = False
"""Whether this process imports from such a file."""

checked: set[tuple[str, tuple[int, ...]]] = set()
"""Files of ours with the state in which this process has found them."""

_Module = tuple[str, bool, tuple[int, int, int, int], int, int]  # source file, whether it is a package, its state, where its code begins and ends


def load_modules(environ: Mapping[str, str]) -> bool:
    """Have the modules of a run imported from one file from now on; return whether there is such a file."""
    global loaded
    directory = open_directory(_path(environ), make=False)
    if directory is None:
        return False
    try:
        content = read_entry(directory, _name(), _MAXIMUM_BYTES)
    finally:
        os.close(directory)
    if content is None:
        return False
    body = memoryview(content)[_HEAD_BYTES:]
    if content[:_HEAD_BYTES] != _MAGIC + mark_of(body):
        return False
    size = int.from_bytes(body[:4], "little")
    modules: dict[str, _Module] = marshal.loads(body[4 : 4 + size])
    try:
        for file, _, state, _, _ in modules.values():
            if _state(file) != state:
                return False
            checked.add((file, state))
    except OSError:
        return False
    finder: Any = _Finder(modules, body[4 + size :])
    sys.meta_path.insert(0, finder)
    loaded = True
    return True


def keep_modules(environ: Mapping[str, str]) -> None:
    """Write the modules of ours that this process has loaded; failing to is no error."""
    directory = open_directory(_path(environ))
    if directory is None:
        return
    try:
        names = os.listdir(directory)
        if len(names) >= MAXIMUM_FILES:  # of interpreters and checkouts that may be gone
            for name in names:
                os.unlink(name, dir_fd=directory)
        modules: dict[str, _Module] = {}
        codes = bytearray()
        for name, module in list(sys.modules.items()):
            spec = getattr(module, "__spec__", None)
            if not name.startswith("sandbox") or spec is None or spec.origin is None or not hasattr(spec.loader, "get_code"):
                continue
            state = _state(spec.origin)
            if state[-1] > time.time_ns() - _SETTLED_NS:
                return  # it may change again without its times telling
            code: CodeType | None = spec.loader.get_code(name)
            if code is not None:
                start = len(codes)
                codes += marshal.dumps(code)
                modules[name] = (spec.origin, spec.submodule_search_locations is not None, state, start, len(codes))
        index = marshal.dumps(modules)
        body = len(index).to_bytes(4, "little") + index + codes
        write_entry(directory, _name(), _MAGIC + mark_of(body) + body)
    except (OSError, ImportError, SyntaxError):
        pass
    finally:
        os.close(directory)


class _Finder:
    """Finds and loads the modules of one file."""

    def __init__(self, modules: dict[str, _Module], codes: memoryview) -> None:
        self._modules = modules
        self._codes = codes

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        found = self._modules.get(name)
        if found is None:
            return None
        file, package, _, _, _ = found
        made: Any = type(sys.__spec__)  # importlib.machinery's, which is not imported for it
        spec: ModuleSpec = made(name, self, origin=file, is_package=package)
        spec.has_location = True
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(os.path.dirname(file))
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """See `importlib.abc.Loader`."""

    def exec_module(self, module: ModuleType) -> None:
        """See `importlib.abc.Loader`."""
        _, _, _, start, end = self._modules[module.__name__]
        exec(marshal.loads(self._codes[start:end]), module.__dict__)


def _path(environ: Mapping[str, str]) -> str | None:
    return None if environ.get(VARIABLE) == "off" else cache_path(environ, "modules")


def _name() -> str:
    """Return the file's name for this interpreter and this installation."""
    made_for = (sys.hexversion, sys.implementation.cache_tag, sys.flags.optimize, sys.executable, _PACKAGE)
    return _imp.source_hash(0, repr(made_for).encode()).hex()


def _state(path: str) -> tuple[int, int, int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


__all__ = ["MAXIMUM_FILES", "checked", "keep_modules", "load_modules", "loaded"]
