"""Build hook of hatchling: compile the native executor, ship profiles and policies inside the package.

A wheel with the executor carries a platform tag; where nothing can be compiled the wheel is pure and the Python executor runs
instead, which is said loudly. Nothing of the package imports this file.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGED = "sandbox/launch/native/sandbox-init"


class NativeExecutorHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the compiled `sandbox-init` and `sandbox/_data` to a wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fill `build_data`; `version` is ``standard`` or ``editable``.

        An editable install takes profiles and policies from the checkout, so that a copy never shadows an edited file.
        """
        editable = version == "editable"
        if not editable:
            for folder in ("profiles", "policies"):
                if os.path.isdir(os.path.join(self.root, folder)):
                    build_data["force_include"][folder] = f"sandbox/_data/{folder}"
        binary = self._build(editable)
        if binary is None or editable:
            return
        build_data["force_include"][str(binary)] = PACKAGED
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the directory that a wheel's executor was compiled in."""
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    _scratch: tempfile.TemporaryDirectory[str] | None = None

    def _build(self, editable: bool) -> Path | None:
        builder = _load(Path(self.root, "scripts/build_init.py"))
        try:
            if editable:
                target: Path = builder.BINARY
                if builder.is_current():
                    return target
            else:
                # The source tree may be read-only; only an editable install has to write into it.
                self._scratch = tempfile.TemporaryDirectory(prefix="sandbox-init-")
                target = Path(self._scratch.name, "sandbox-init")
            built: Path = builder.build_init(target)
            return built
        except (builder.NoCompilerError, builder.BuildError, OSError) as error:
            message = (
                f"the native executor was not built: {error}\n"
                "  the package works without it, with the slower Python executor;\n"
                "  for the native one install gcc and libc6-dev and build again"
            )
            self.app.display_warning(message)
            print(f"WARNING: {message}", file=sys.stderr)
            return None


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("sandbox_build_init", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
