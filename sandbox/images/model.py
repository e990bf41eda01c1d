"""What an image is to the rest of the house: frozen values. Pure; anybody above this floor may import it, the path of a run included."""

from __future__ import annotations

from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

Digest: TypeAlias = str
"""``sha256:`` and 64 lower-case hexadecimal digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What an image says of how it wants to be run; all of it is a stranger's text, checked for form only.

    `workdir` is an absolute path or empty. `user` is ``NAME``, ``UID``, ``USER:GROUP`` or empty. `volumes` are absolute paths. `stop_signal` is a
    name such as ``SIGTERM`` or empty.
    """

    environment: tuple[tuple[str, str], ...] = ()
    workdir: str = ""
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    ports: tuple[str, ...] = ()
    stop_signal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of an image.

    `key` names its unpacked directory: the hex digits of `diff_id` where the archive says all of it, else those of a digest over it and everything
    below it (see `unpacking`). `blob` is the archive as it was distributed, `media_type` how it is packed.
    """

    key: str
    diff_id: Digest
    blob: Digest
    media_type: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image of the store.

    `digest` is its manifest's. `names` are normalised references, see `reference`. `architecture` is OCI's word (``amd64``, ``arm64``). `layers` are
    directories of the host in overlay form, resolved, **topmost first**. `size_bytes` is what its blobs take on the disk, `unpacked_bytes` the size of all
    files in its layers, `created` RFC 3339 or empty. `details` are the layers again, bottom first.
    """

    digest: Digest
    names: tuple[str, ...]
    architecture: str
    config: ImageConfig
    layers: tuple[str, ...]
    size_bytes: int
    unpacked_bytes: int = 0
    os: str = "linux"
    variant: str = ""
    created: str = ""
    config_digest: Digest = ""
    details: tuple[Layer, ...] = ()

    @property
    def short_id(self) -> str:
        """The first 12 digits of the digest, which the command line shows and takes."""
        return self.digest[7:19]


__all__ = ["Digest", "Image", "ImageConfig", "Layer"]
