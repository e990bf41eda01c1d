"""A rootless sandbox for Linux: run untrusted programs in containers built from user namespaces.

`sandbox.run([...])` is the front door; names are imported when they are first used, because import time is launch time.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox import volumes
    from sandbox.api import RunFailed, run
    from sandbox.api.aio import AsyncProcess
    from sandbox.api.changes import ApplyError, ConflictError, RunChanges, kept_runs
    from sandbox.api.function import SandboxedError, sandboxed
    from sandbox.api.pool import PoolStats, Stats
    from sandbox.api.process import DEVNULL, PIPE, Process
    from sandbox.api.python import Python
    from sandbox.api.run_stats import RunState, RunStats
    from sandbox.api.running import RunGone, Running, RunUnresponsive, running
    from sandbox.api.sealed import SealedInput
    from sandbox.api.session import Sandbox
    from sandbox.errors import (
        CompileError,
        ExecuteError,
        InternalError,
        PolicyError,
        ProtocolError,
        SandboxError,
        SetupError,
        UnsupportedError,
    )  # fmt: skip
    from sandbox.result import Enforcement, Result, Usage, Verdict

_HOMES = {
    "run": "sandbox.api", "RunFailed": "sandbox.api",
    "SealedInput": "sandbox.api.sealed",
    "Sandbox": "sandbox.api.session", "Process": "sandbox.api.process", "PIPE": "sandbox.api.process", "DEVNULL": "sandbox.api.process",
    "Python": "sandbox.api.python", "PoolStats": "sandbox.api.pool", "Stats": "sandbox.api.pool",
    "AsyncProcess": "sandbox.api.aio", "sandboxed": "sandbox.api.function", "SandboxedError": "sandbox.api.function",
    "running": "sandbox.api.running", "Running": "sandbox.api.running", "RunStats": "sandbox.api.run_stats", "RunState": "sandbox.api.run_stats",
    "RunChanges": "sandbox.api.changes", "kept_runs": "sandbox.api.changes", "ConflictError": "sandbox.api.changes", "ApplyError": "sandbox.api.changes",
    "RunGone": "sandbox.api.running", "RunUnresponsive": "sandbox.api.running",
    "Result": "sandbox.result", "Usage": "sandbox.result", "Verdict": "sandbox.result", "Enforcement": "sandbox.result",
    "SandboxError": "sandbox.errors", "PolicyError": "sandbox.errors", "CompileError": "sandbox.errors", "UnsupportedError": "sandbox.errors",
    "SetupError": "sandbox.errors", "ExecuteError": "sandbox.errors", "ProtocolError": "sandbox.errors", "InternalError": "sandbox.errors",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "volumes":
        return import_module("sandbox.volumes")
    raise AttributeError(f"module `sandbox` has no attribute `{name}`")


__all__ = [
    "DEVNULL", "PIPE", "ApplyError", "AsyncProcess", "CompileError", "ConflictError", "Enforcement", "ExecuteError", "InternalError",
    "PolicyError", "PoolStats", "Process", "ProtocolError", "Python", "Result", "RunChanges",
    "RunFailed", "RunGone", "RunState", "RunStats", "RunUnresponsive", "Running",
    "Sandbox", "SandboxError", "SandboxedError", "SealedInput", "SetupError", "Stats", "UnsupportedError", "Usage", "Verdict", "kept_runs", "run", "running",
    "sandboxed", "volumes",
]  # fmt: skip
