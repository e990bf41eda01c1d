"""A configuration and a manifest for layers that came without: of a root file system that is imported, or of a layer put on an image."""

from __future__ import annotations

import json

from sandbox.images.documents import OCI_CONFIG, OCI_MANIFEST, Descriptor
from sandbox.images.model import ImageConfig
from sandbox.record import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from sandbox.images.model import Image
    from sandbox.images.store import Store

_PATH = ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
DEFAULT_CONFIG = ImageConfig(environment=(_PATH,), command=("/bin/sh",))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChanges:
    """What to change in a configuration; None leaves it. `environment` is added to what is there, `labels` too."""

    environment: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    workdir: str | None = None
    user: str | None = None
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None

    def apply(self, config: ImageConfig) -> ImageConfig:
        """Return the configuration with the changes."""
        kept = {
            key: value
            for key, value in (("workdir", self.workdir), ("user", self.user), ("entrypoint", self.entrypoint), ("command", self.command))
            if value is not None
        }
        changed: dict[str, Any] = dict(kept)
        changed["environment"] = tuple((dict(config.environment) | dict(self.environment)).items())
        changed["labels"] = tuple((dict(config.labels) | dict(self.labels)).items())
        return replace(config, **changed)


NO_CHANGES = ConfigChanges()


def add_manifest(
    store: Store,
    layers: Sequence[tuple[Descriptor, str]],
    config: ImageConfig,
    architecture: str,
    *,
    base: Image | None = None,
    created: str = "",
    note: str = "",
) -> str:
    """Write the documents of an image and return its manifest's digest, for `chain.add_image`.

    Args:
        store: open for writing.
        layers: (descriptor of the blob, diff id) of the new layers, bottom first; they go on top of `base`.
        config: how it wants to be run.
        architecture: in OCI's words.
        base: an image of the store whose layers are below.
        created: RFC 3339; empty keeps the same layers the same image.
        note: what made the layers, for the configuration's history.
    """
    below = base.details if base is not None else ()
    document: dict[str, Any] = {
        "architecture": architecture,
        "os": "linux",
        "config": config_document(config),
        "rootfs": {"type": "layers", "diff_ids": [*(layer.diff_id for layer in below), *(diff_id for _, diff_id in layers)]},
        "history": [*({"created_by": "base"} for _ in below), *({"created_by": note} for _ in layers)],
    }
    if base is not None and base.variant:
        document["variant"] = base.variant
    if created:
        document["created"] = created
    content = json.dumps(document, separators=(",", ":")).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": store.add_bytes(content), "size": len(content)},
        "layers": [
            *({"mediaType": layer.media_type, "digest": layer.blob, "size": layer.size_bytes} for layer in below),
            *({"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size_bytes} for blob, _ in layers),
        ],
    }
    return store.add_bytes(json.dumps(manifest, separators=(",", ":")).encode())


def config_document(config: ImageConfig) -> dict[str, Any]:
    """Return the part of a configuration that says how an image wants to be run, without what it does not say."""
    found: dict[str, Any] = {
        "Env": [f"{name}={value}" for name, value in config.environment],
        "WorkingDir": config.workdir,
        "User": config.user,
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.command),
        "Volumes": {path: {} for path in config.volumes},
        "ExposedPorts": {port: {} for port in config.ports},
        "Labels": dict(config.labels),
        "StopSignal": config.stop_signal,
    }
    return {key: value for key, value in found.items() if value}


__all__ = ["DEFAULT_CONFIG", "NO_CHANGES", "ConfigChanges", "add_manifest", "config_document"]
