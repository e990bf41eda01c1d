"""Images for tests, put into a store by hand: what `sandbox.images.lookup` reads, and nothing that writes it. No test itself."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from sandbox.images.entry import encode_image
from sandbox.images.model import Image, ImageConfig, Layer
from sandbox.images.reference import parse_reference


def put_image(store: Path, name: str, layers: Sequence[Path], config: ImageConfig | None = None) -> str:
    """Make an image of layers, topmost first, which are moved into the store; return its digest.

    Args:
        store: the store's directory (``$SANDBOX_DATA_DIR/images``), made where it is missing.
        name: a reference; one that has another image already is moved to this.
        layers: directories in overlay form; those that are in the store already stay.
        config: what the image says of itself.
    """
    for part in ("names", "manifests", "uses", "layers"):
        (store / part).mkdir(mode=0o700, parents=True, exist_ok=True)
    store.chmod(0o700)
    details = []
    for layer in reversed(layers):
        if store in layer.parents:
            key = layer.parent.name
        else:
            key = hashlib.sha256(os.fsencode(layer) + os.urandom(8)).hexdigest()
            (store / "layers" / key).mkdir()
            layer.rename(store / "layers" / key / "tree")
        details.append(Layer(key=key, diff_id=f"sha256:{key}", blob=f"sha256:{key}", media_type="application/vnd.oci.image.layer.v1.tar", size_bytes=1))
    digits = hashlib.sha256(repr((details, config, name)).encode()).hexdigest()
    image = Image(
        digest=f"sha256:{digits}", names=(), architecture="amd64", config=config or ImageConfig(), layers=(), size_bytes=1,
        config_digest=f"sha256:{digits}", details=tuple(details),
    )  # fmt: skip
    (store / "manifests" / digits).write_bytes(encode_image(image))
    (store / "uses" / digits).touch()
    link = store / "names" / str(parse_reference(name)).replace("/", "+")
    link.unlink(missing_ok=True)
    link.symlink_to(digits)
    return image.digest


def layer_paths(store: Path, digest: str) -> list[Path]:
    """Return the unpacked layers of an image of `put_image`, bottom first."""
    entry = (store / "manifests" / digest[7:]).read_text().splitlines()
    return [store / "layers" / line.split()[1] / "tree" for line in entry if line.startswith("layer ")]
