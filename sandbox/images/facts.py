"""What an unpacked layer cannot say of itself on the caller's disk: original owners, capabilities, opaque directories, what was left out.

A JSON file beside the layer's tree. Read by what unpacks the next layer, by `export` and by whoever makes a layer of changes; not by a run.
"""

from __future__ import annotations

import json
import os

from sandbox.images.bounds import ImageError
from sandbox.record import dataclass, field

FILE = "layer.json"
_MAXIMUM = 1 << 30
_KINDS = 64


@dataclass(slots=True, kw_only=True)
class LayerFacts:
    """Facts of one layer; paths are relative, without a slash in front.

    `owners` has (uid, gid) of what is not root's. `capabilities` has ``security.capability`` of files, which no ordinary user can set. `opaque` are
    directories that hide what lies below them. `left_out` counts what the archive has and the tree has not, by what it is.
    """

    diff_id: str = ""
    entries: int = 0
    size_bytes: int = 0
    owners: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    capabilities: dict[bytes, bytes] = field(default_factory=dict)
    opaque: set[bytes] = field(default_factory=set)
    left_out: dict[str, int] = field(default_factory=dict)

    def leave_out(self, what: str) -> None:
        """Count something that the tree will not have; of very many kinds the last ones together."""
        if len(self.left_out) >= _KINDS and what not in self.left_out:
            what = "and more"
        self.left_out[what] = self.left_out.get(what, 0) + 1


def write_facts(directory: int, facts: LayerFacts) -> None:
    """Write the facts beside a new tree; `directory` is borrowed."""
    text = json.dumps(
        {
            "diff_id": facts.diff_id,
            "entries": facts.entries,
            "size_bytes": facts.size_bytes,
            "left_out": facts.left_out,
            "opaque": sorted(os.fsdecode(path) for path in facts.opaque),
            "capabilities": {os.fsdecode(path): value.hex() for path, value in sorted(facts.capabilities.items())},
            "owners": {os.fsdecode(path): owner for path, owner in sorted(facts.owners.items())},
        }
    )
    fd = os.open(FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    with open(fd, "w", encoding="ascii") as file:
        file.write(text)


def read_facts(directory: int, shown: str) -> LayerFacts:
    """Return the facts of a layer's directory (borrowed).

    Raises:
        ImageError: they are damaged or gone.
    """
    try:
        fd = os.open(FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        with open(fd, encoding="ascii") as file:
            found = json.loads(file.read(_MAXIMUM))
        return LayerFacts(
            diff_id=found["diff_id"],
            entries=found["entries"],
            size_bytes=found["size_bytes"],
            left_out=found["left_out"],
            opaque={os.fsencode(path) for path in found["opaque"]},
            capabilities={os.fsencode(path): bytes.fromhex(value) for path, value in found["capabilities"].items()},
            owners={os.fsencode(path): (uid, gid) for path, (uid, gid) in found["owners"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImageError(f"facts of a layer: {error}", origin=f"{shown}/{FILE}", hint="`sandbox image verify --repair`") from None


__all__ = ["FILE", "LayerFacts", "read_facts", "write_facts"]
