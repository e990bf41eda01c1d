"""Layers a second time, with the image's own ids: its root is the caller, every other id the caller's subordinate one (``ids = "range"``).

Such files can only be made and removed by a process in a user namespace with that map. It is a fresh interpreter (`worker`), never a fork of the caller: it
maps itself by newuidmap(1), which whoever opens the store passes as `Store.map_ids`.
"""

from __future__ import annotations

import json
import os
import sys

from sandbox.errors import InternalError, UnsupportedError
from sandbox.images.bounds import ImageError
from sandbox.record import fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.images.model import Layer
    from sandbox.images.store import Progress, Store

SUFFIX = ".range"
_START = "import sys; sys.path[:0] = sys.argv[1:]; from sandbox.images.worker import main; main()"


def unpack_ranged(store: Store, layers: tuple[Layer, ...], progress: Progress | None = None) -> int:
    """Unpack what of an image's layers (bottom first) is not there in this form, and return the bytes in all of them.

    Raises:
        ImageError: as `chain.add_image`.
        UnsupportedError: the caller has no range of ids, or is root, whose programs never run with one.
        SetupError: newuidmap failed.
    """
    request = {
        "do": "unpack",
        "layers": [[layer.key, layer.diff_id, layer.blob, layer.media_type, layer.size_bytes] for layer in layers],
        "bounds": {field.name: getattr(store.bounds, field.name) for field in fields(store.bounds)},
    }
    return int(_ask(store, request, progress)["bytes"])


def remove_ranged(store: Store, names: list[str]) -> None:
    """Remove directories of the store's ``tmp`` that hold files of other ids than the caller's.

    Raises:
        UnsupportedError: see `unpack_ranged`.
        OSError: something does not go.
    """
    if names:
        _ask(store, {"do": "remove", "names": names}, None)


def _ask(store: Store, request: dict[str, Any], progress: Progress | None) -> dict[str, Any]:
    import subprocess

    if os.geteuid() == 0:
        raise UnsupportedError("an ordinary caller", "ids", reason="root's programs get a single id of their own", hint="run as an ordinary user")
    if store.map_ids is None:
        raise InternalError("the store was opened without a map of ids")
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _START, package], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={"SANDBOX_DATA_DIR": os.path.dirname(store.path), "LC_ALL": "C.UTF-8", "PATH": os.environ.get("PATH", "/usr/bin:/bin")},
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    try:
        if _read(child.stdout).get("state") != "ready":
            raise UnsupportedError("user namespaces", "ids", hint="`sandbox doctor` says why")
        store.map_ids(child.pid)
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.flush()
        while True:
            found = _read(child.stdout)
            if "progress" in found:
                if progress is not None:
                    progress(*found["progress"])
                continue
            if "error" in found:
                raise ImageError(found["error"], origin=found["origin"], hint=found["hint"])
            return found
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def _read(stream: Any) -> dict[str, Any]:
    line = stream.readline(1 << 20)
    if not line:
        raise ImageError("the process that unpacks with the image's ids ended early")
    found: dict[str, Any] = json.loads(line)
    return found


__all__ = ["SUFFIX", "remove_ranged", "unpack_ranged"]
