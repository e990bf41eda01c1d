"""Pulling in tests: images to serve, a store of the test's own, and a look at that store that shares no code with the product."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from kernel.image_bytes import OCI, Built, image_of, tar_of

from sandbox.images.bounds import DEFAULT
from sandbox.images.client import find_client
from sandbox.images.model import Image
from sandbox.images.pulling import pull_image
from sandbox.images.store import open_store

STALL_NS = 120_000_000_000
MIB = 1 << 20


def noise(size: int, seed: int = 0) -> bytes:
    """Return bytes that do not pack, the same each time."""
    return hashlib.shake_128(b"%d" % seed).digest(size)


def some_image(*, kind: Any = OCI, compress: bool = True, seed: int = 0, sizes: tuple[int, ...] = (40_000, 90_000), **more: Any) -> Built:
    """Return an image of a small layer and one for each size."""
    layers = [tar_of(["etc", ("etc/name", b"some\n")])]
    layers += [tar_of([(f"data-{at}", noise(size, seed + at))]) for at, size in enumerate(sizes)]
    return image_of(layers, kind=kind, compress=compress, **more)


def environ(tmp_path: Path) -> dict[str, str]:
    """Return an environment whose store is the test's."""
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "SANDBOX_DATA_DIR": str(tmp_path / "data")}


def pull(reference: str, tmp_path: Path, *, stall_ns: int = STALL_NS, authfile: str | None = None, **options: Any) -> Image:
    """Pull over plain HTTP into the test's store."""
    own = environ(tmp_path)
    client = find_client(own, tls_verify=False, authfile=authfile, stall_ns=stall_ns)
    with open_store(own, bounds=options.pop("bounds", DEFAULT)) as store:
        return pull_image(store, client, reference, **options)


def check_store(tmp_path: Path, *, tidy: bool = True) -> dict[str, int]:
    """Check a store by reading it: blobs are what they are called, whatever an entry names is there, names mean entries, and nothing is half done.

    Returns:
        how many blobs, layers, manifests and names there are.
    """
    store = tmp_path / "data" / "images"
    if not store.exists():
        return {"blobs": 0, "layers": 0, "manifests": 0, "names": 0}
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    blobs = list((store / "blobs" / "sha256").iterdir())
    for blob in blobs:
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name, blob
        assert stat.S_IMODE(blob.stat().st_mode) == 0o600
    layers = {path.name for path in (store / "layers").iterdir()}
    for name in layers:
        facts = json.loads((store / "layers" / name / "layer.json").read_text())
        assert (store / "layers" / name / "tree").is_dir() and facts["diff_id"].startswith("sha256:")
    manifests = {path.name for path in (store / "manifests").iterdir()}
    held = {blob.name for blob in blobs}
    for digits in manifests:
        table = json.loads((store / "blobs" / "sha256" / digits).read_bytes())
        for each in (table["config"], *table["layers"]):
            assert each["digest"].removeprefix("sha256:") in held
        lines = (store / "manifests" / digits).read_text().splitlines()
        assert lines[-1] == "end"
        assert {line.split()[1] for line in lines if line.startswith("layer ")} <= layers
    names = list((store / "names").iterdir())
    for name in names:
        assert os.readlink(name) in manifests
    if tidy:
        assert not list((store / "tmp").iterdir()), "something temporary is left"
    return {"blobs": len(blobs), "layers": len(layers), "manifests": len(manifests), "names": len(names)}


def tree_of(image: Image, name: str) -> bytes:
    """Return a file of an image: of the topmost layer that has it."""
    for layer in image.layers:
        path = Path(layer) / name
        if path.is_file():
            return path.read_bytes()
    raise FileNotFoundError(name)
