"""The process in a user namespace of its own that makes and removes layers with the image's ids (`ranged`). Its own program; nothing imports it."""

from __future__ import annotations

import json
import os
import sys

from sandbox.errors import SandboxError, describe_errno
from sandbox.images.bounds import Bounds, Budget
from sandbox.images.chain import unpack_here
from sandbox.images.layer_tree import Owners
from sandbox.images.lookup import store_path
from sandbox.images.model import Layer
from sandbox.images.ranged import SUFFIX
from sandbox.images.store import open_store
from sandbox.images.treeops import DIRECTORY_FLAGS, remove_at
from sandbox.kernel.probe_calls import CLONE_NEWUSER, unshare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NOBODY = 65534


def main() -> None:
    """Enter a user namespace, wait for its map, do what is asked on standard input, and say how it went on standard output."""
    try:
        unshare(CLONE_NEWUSER)
    except OSError as error:
        _say({"state": describe_errno(error.errno or 0)})
        return
    _say({"state": "ready"})
    line = sys.stdin.buffer.readline()
    if not line:
        return  # whoever asked has ended
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    request = json.loads(line)
    try:
        _say(_unpack(request) if request["do"] == "unpack" else _remove(request))
    except SandboxError as error:
        _say({"error": error.message, "origin": error.origin, "hint": error.hint})
    except OSError as error:
        _say({"error": f"{request['do']} with the image's ids: {describe_errno(error.errno or 0)}", "origin": error.filename, "hint": None})


def _unpack(request: dict[str, Any]) -> dict[str, Any]:
    bounds = Bounds(**request["bounds"])
    layers = tuple(
        Layer(key=key, diff_id=diff_id, blob=blob, media_type=media_type, size_bytes=size) for key, diff_id, blob, media_type, size in request["layers"]
    )
    owners = Owners(uid=_clamp("uid"), gid=_clamp("gid"))
    with open_store(os.environ, bounds=bounds) as store:
        total = unpack_here(store, layers, Budget(bounds), SUFFIX, owners, lambda *told: _say({"progress": told}))
    return {"bytes": total}


def _remove(request: dict[str, Any]) -> dict[str, Any]:
    """Remove what lies in the store's ``tmp``. Whoever asks has the store alone, so that it is not opened here."""
    tmp = os.open(f"{store_path(os.environ)}/tmp", DIRECTORY_FLAGS)
    for each in request["names"]:
        remove_at(tmp, os.fsencode(each), tmp)
    return {"bytes": 0}


def _clamp(kind: str) -> Any:
    """Return the map of an archive's ids to those that this namespace has; all others become nobody's."""
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        count = sum(int(line.split()[2]) for line in file)
    other = min(_NOBODY, count - 1)
    return lambda number: number if number < count else other


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


__all__ = ["main"]
