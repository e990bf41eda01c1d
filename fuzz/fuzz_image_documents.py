"""Manifests, indexes, configurations: only `ImageError` comes out, and what is accepted survives the store's own way of writing it down.

An even first byte: the rest is JSON as it stands. An odd one: the rest decides how a good document is changed.
"""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import engine

with engine.instrumented(__name__ == "__main__"):
    from fuzz.choose import Bytes, Chooser
    from sandbox.images.bounds import ImageError
    from sandbox.images.documents import Manifest, choose_platform, parse_config, parse_manifest_or_index
    from sandbox.images.entry import decode_image, encode_image
    from sandbox.images.model import Image, Layer
    from sandbox.images.reference import is_digest

DIGEST = "sha256:" + "0123456789abcdef" * 4
OCI = "application/vnd.oci.image."
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": OCI + "manifest.v1+json",
    "config": {"mediaType": OCI + "config.v1+json", "digest": DIGEST, "size": 10},
    "layers": [{"mediaType": OCI + "layer.v1.tar+gzip", "digest": DIGEST, "size": 5, "annotations": {"a": "b"}}],
}
INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": OCI + "index.v1+json",
    "manifests": [
        {"mediaType": OCI + "manifest.v1+json", "digest": DIGEST, "size": 9, "platform": {"os": "linux", "architecture": "amd64"}},
        {"mediaType": OCI + "manifest.v1+json", "digest": DIGEST, "size": 9, "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}},
    ],
}
CONFIG: dict[str, Any] = {
    "architecture": "amd64",
    "os": "linux",
    "created": "2026-01-01T00:00:00Z",
    "config": {
        "Env": ["PATH=/bin", "A=b\nc"],
        "Cmd": ["sh"],
        "Entrypoint": ["/x", "-y"],
        "User": "1:2",
        "WorkingDir": "/srv",
        "Volumes": {"/data": {}},
        "Labels": {"a=b": "c\\n"},
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGTERM",
    },
    "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
}
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 1 << 62, 1 << 70, 1.5, "", "a", DIGEST, DIGEST.upper(), "sha256:../x", "md5:0",
    [], {}, ["a"], [[]], {"a": "b"}, {"a": {}}, [0],
    "\0", "\n", "\\n", "../..", "/a/../b", "x" * 200, "\ud800", "é", "A=b", "=b", "layers", "linux", "windows", OCI + "manifest.v1+json", OCI + "index.v1+json",
    OCI + "layer.v1.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", ["A=1", "A=2"], ["x\nlayer y"], {"k\nend": "v"},
)  # fmt: skip
WORDS = (
    "schemaVersion", "manifests", "layers", "config", "digest", "mediaType", "platform", "rootfs", "diff_ids", "Env", "annotations",
    DIGEST, "[[[[", "1e999", "NaN",
)  # fmt: skip
SEEDS = (
    *(b"\0" + json.dumps(each).encode() for each in (MANIFEST, INDEX, CONFIG)),
    *(b"\1" + bytes((seed * each * 7) & 255 for each in range(1, 40)) for seed in range(1, 40)),
)


def one_input(data: bytes) -> str:
    """Read one document."""
    kind, rest = data[:1], data[1:]
    content = json.dumps(changed(Bytes(rest))).encode() if kind and kind[0] & 1 else rest
    return f"{read(content)} | {read_config(content)}"


def changed(chooser: Chooser) -> Any:
    """Return a good document with some values replaced, keys taken away or added."""
    document = json.loads(json.dumps(chooser.pick((MANIFEST, INDEX, CONFIG))))
    for _ in range(chooser.integer(0, 4)):
        place: Any = document
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = chooser.pick(keys)
            if isinstance(place[key], (dict, list)) and place[key] and not chooser.odds(3):
                place = place[key]
                continue
            action = chooser.integer(0, 3)
            if action == 0:
                del place[key]
            elif action == 1 and isinstance(place, dict):
                place[chooser.pick(WORDS)] = copy.deepcopy(chooser.pick(VALUES))
            elif action == 2 and isinstance(place, list):
                place.append(copy.deepcopy(place[key]))
            else:
                place[key] = copy.deepcopy(chooser.pick(VALUES))
            break
    return document


def read(content: bytes) -> str:
    """Read a manifest or index."""
    try:
        found = parse_manifest_or_index(content, "fuzz")
        if not isinstance(found, Manifest):
            found = (choose_platform(found, "amd64", "fuzz"),)
    except ImageError as error:
        return plain(error)
    blobs = (found.config, *found.layers) if isinstance(found, Manifest) else found
    assert all(is_digest(blob.digest) and blob.size_bytes >= 0 and isinstance(blob.size_bytes, int) for blob in blobs)
    return f"{type(found).__name__} of {min(len(blobs), 4)}"


def read_config(content: bytes) -> str:
    """Read a configuration, and write it as the store does."""
    try:
        found = parse_config(content, "fuzz")
    except ImageError as error:
        return plain(error)
    assert all(map(is_digest, found.diff_ids))
    for path in (found.config.workdir, *found.config.volumes):
        assert not path or (path.startswith("/") and ".." not in path.split("/") and "\0" not in path)
    for text in (*sum(found.config.environment, ()), *found.config.entrypoint, *found.config.command, found.config.user):
        assert "\0" not in text
        text.encode()
    layers = tuple(Layer(key=each[7:], diff_id=each, blob=DIGEST, media_type=OCI + "layer.v1.tar", size_bytes=1) for each in found.diff_ids)
    image = Image(
        digest=DIGEST, names=("a", "b"), architecture=found.architecture, config=found.config, layers=tuple(f"/s/{each.key}/tree" for each in reversed(layers)),
        size_bytes=1, unpacked_bytes=2, os=found.os, variant=found.variant, created=found.created, config_digest=DIGEST, details=layers,
    )  # fmt: skip
    assert decode_image(encode_image(image), image.names, "/s") == image, "the store's entry reads as another image"
    return f"configuration of {min(len(layers), 3)} layers, {min(len(found.config.environment), 3)} variables"


def plain(error: ImageError) -> str:
    """Return a refusal without what differs."""
    assert error.message and not error.message.endswith(".")
    return "refused: " + re.sub(r"`[^`]*`|\d+|: .*no JSON.*", "…", f"{error.message} {error.origin}")[:80]


if __name__ == "__main__":
    engine.main("image_documents", one_input, SEEDS, WORDS)
