"""Manifests, indexes and configurations of images: a stranger's JSON, read into frozen values and checked for form. Pure.

Source: OCI image specification 1.1, manifest.md, image-index.md, config.md; Docker's image manifest version 2, schema 2.
"""

from __future__ import annotations

import json
import posixpath

from sandbox.images.bounds import ImageError
from sandbox.images.model import ImageConfig
from sandbox.images.packing import Packing
from sandbox.images.reference import is_digest
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_INDEXES = frozenset({OCI_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"})
_MANIFESTS = frozenset({OCI_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"})
_LAYERS = {
    OCI_LAYER: Packing.NONE,
    f"{OCI_LAYER}+gzip": Packing.GZIP,
    f"{OCI_LAYER}+zstd": Packing.ZSTD,
    "application/vnd.docker.image.rootfs.diff.tar": Packing.NONE,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": Packing.GZIP,
    "application/vnd.docker.image.rootfs.diff.tar.zstd": Packing.ZSTD,
}
_MAXIMUM_ITEMS = 4096
_MAXIMUM_TEXT = 1 << 17  # what execve takes of one argument: MAX_ARG_STRLEN
_MAXIMUM_SIZE = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A reference to a blob. `platform` is (os, architecture, variant) where an index gives it; `annotations` are what is written beside it."""

    media_type: str
    digest: str
    size_bytes: int
    platform: tuple[str, str, str] | None = None
    annotations: tuple[tuple[str, str], ...] = ()

    def annotation(self, name: str) -> str:
        """Return an annotation, or an empty text."""
        return dict(self.annotations).get(name, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One image: its configuration and its layers, bottom first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A configuration blob; `diff_ids` are the digests of the unpacked layers, bottom first."""

    config: ImageConfig
    architecture: str
    os: str
    variant: str
    created: str
    diff_ids: tuple[str, ...]


def parse_json(content: bytes, what: str) -> Any:
    """Parse a document.

    Raises:
        ImageError: it is no JSON, or nested without end.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ImageError(f"{what} is no JSON: {reason}") from None


def is_index(media_type: str) -> bool:
    """Whether a media type is that of an index (a manifest list)."""
    return media_type in _INDEXES


def layer_packing(media_type: str) -> Packing:
    """Return how a layer of this media type is packed.

    Raises:
        ImageError: this is no layer that can be unpacked.
    """
    packing = _LAYERS.get(media_type.replace(".nondistributable.", ".").replace(".foreign.", "."))
    if packing is None:
        raise ImageError(f"media type `{media_type[:200]}` is not that of a layer")
    return packing


def parse_manifest_or_index(content: bytes, what: str) -> Manifest | tuple[Descriptor, ...]:
    """Read a blob that is one of the two, by its own word; a text that could be both is neither (CVE-2021-41190)."""
    found = _Reader(what).mapping(parse_json(content, what), "")
    if "manifests" in found and "layers" not in found and "config" not in found:
        return parse_index(content, what)
    return parse_manifest(content, what)


def parse_manifest(content: bytes, what: str) -> Manifest:
    """Read an image manifest.

    Raises:
        ImageError: the key that is wrong.
    """
    read = _Reader(what)
    found = read.mapping(parse_json(content, what), "")
    if found.get("schemaVersion") != 2:
        read.refuse("schemaVersion", "it must be 2" + ("; the image is in a format of before 2016" if found.get("schemaVersion") == 1 else ""))
    if "manifests" in found:
        read.refuse("manifests", "a manifest has none, and an index has no `config` and `layers`")
    media_type = read.text(found.get("mediaType", OCI_MANIFEST), "mediaType")
    if media_type not in _MANIFESTS:
        read.refuse("mediaType", f"`{media_type[:200]}` is not that of an image")
    config = read.descriptor(found.get("config"), "config")
    if config.media_type not in (OCI_CONFIG, DOCKER_CONFIG):
        read.refuse("config.mediaType", f"`{config.media_type[:200]}` is not that of an image's configuration: this is something else than an image")
    layers = [read.descriptor(each, f"layers[{at}]") for at, each in enumerate(read.items(found.get("layers"), "layers"))]
    for at, layer in enumerate(layers):
        try:
            layer_packing(layer.media_type)
        except ImageError as error:
            read.refuse(f"layers[{at}].mediaType", error.message)
    return Manifest(config=config, layers=tuple(layers))


def parse_index(content: bytes, what: str) -> tuple[Descriptor, ...]:
    """Read an index; what are no images in it (signatures, attestations) is left out.

    Raises:
        ImageError: the key that is wrong.
    """
    read = _Reader(what)
    found = read.mapping(parse_json(content, what), "")
    if found.get("schemaVersion") != 2:
        read.refuse("schemaVersion", "it must be 2")
    if "layers" in found or "config" in found:
        read.refuse("layers", "an index has none")
    entries = [read.descriptor(each, f"manifests[{at}]") for at, each in enumerate(read.items(found.get("manifests"), "manifests"))]
    return tuple(
        each
        for each in entries
        if (each.media_type in _MANIFESTS or each.media_type in _INDEXES)
        and each.annotation("vnd.docker.reference.type") != "attestation-manifest"
        and (each.platform is None or each.platform[0] != "unknown")
    )


def parse_config(content: bytes, what: str) -> Configuration:
    """Read an image's configuration.

    Raises:
        ImageError: the key that is wrong.
    """
    read = _Reader(what)
    found = read.mapping(parse_json(content, what), "")
    rootfs = read.mapping(found.get("rootfs"), "rootfs")
    if rootfs.get("type") != "layers":
        read.refuse("rootfs.type", "it must be `layers`")
    diff_ids = read.texts(rootfs.get("diff_ids"), "rootfs.diff_ids")
    for at, digest in enumerate(diff_ids):
        if not is_digest(digest):
            read.refuse(f"rootfs.diff_ids[{at}]", "it is no sha256 digest")
    run = read.mapping(found.get("config") or {}, "config")
    workdir = read.text(run.get("WorkingDir") or "", "config.WorkingDir")
    volumes = [_path(read, key, f"config.Volumes.{key[:80]}") for key in read.keys(run.get("Volumes"), "config.Volumes")]
    return Configuration(
        config=ImageConfig(
            environment=tuple(_environment(read, run)),
            workdir=_path(read, workdir, "config.WorkingDir") if workdir else "",
            user=read.text(run.get("User") or "", "config.User"),
            entrypoint=read.texts(run.get("Entrypoint"), "config.Entrypoint"),
            command=read.texts(run.get("Cmd"), "config.Cmd"),
            volumes=tuple(dict.fromkeys(volumes)),
            labels=tuple(
                (key, read.text(value, f"config.Labels.{key[:80]}")) for key, value in read.mapping(run.get("Labels") or {}, "config.Labels").items()
            ),
            ports=tuple(read.keys(run.get("ExposedPorts"), "config.ExposedPorts")),
            stop_signal=read.text(run.get("StopSignal") or "", "config.StopSignal"),
        ),
        architecture=read.word(found.get("architecture") or "", "architecture"),
        os=read.word(found.get("os") or "linux", "os"),
        variant=read.word(found.get("variant") or "", "variant"),
        created=read.word(found.get("created") or "", "created"),
        diff_ids=diff_ids,
    )


def choose_platform(entries: tuple[Descriptor, ...], architecture: str, what: str) -> Descriptor:
    """Return the entry for Linux on an architecture, in OCI's words (``amd64``); the first, where several fit.

    Raises:
        ImageError: there is none; the message says what there is.
    """
    name, _, variant = architecture.partition("/")
    fitting = [each for each in entries if each.platform is None or each.platform[:2] == ("linux", name)]
    exact = [each for each in fitting if each.platform is not None and (not variant or each.platform[2] == variant)]
    if exact or fitting:
        return (exact or fitting)[0]
    there = sorted({"/".join(filter(None, each.platform)) for each in entries if each.platform is not None})
    raise ImageError(
        f"{what} has no image for `linux/{architecture}`", hint=f"it has {', '.join(f'`{each}`' for each in there[:20])}" if there else None
    )


def _environment(read: _Reader, run: dict[str, Any]) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for at, text in enumerate(read.texts(run.get("Env"), "config.Env")):
        name, equals, value = text.partition("=")
        if not name:
            read.refuse(f"config.Env[{at}]", "it has no name")
        if equals:
            found[name] = value
    return list(found.items())


def _path(read: _Reader, text: str, where: str) -> str:
    if ".." in text.split("/"):
        read.refuse(where, "a path with `..`")
    return posixpath.normpath("/" + text.lstrip("/"))


class _Reader:
    """Checks the form of values, and says where they are wrong."""

    def __init__(self, what: str) -> None:
        self._what = what

    def refuse(self, where: str, reason: str) -> NoReturn:
        raise ImageError(f"{self._what}: {reason}", origin=f"key `{where}`" if where else None)

    def mapping(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.refuse(where, "there must be an object")
        if len(value) > _MAXIMUM_ITEMS:
            self.refuse(where, f"more than {_MAXIMUM_ITEMS} keys")
        return value

    def keys(self, value: Any, where: str) -> list[str]:
        return [self.text(key, where) for key in self.mapping(value or {}, where)]

    def items(self, value: Any, where: str) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list):
            self.refuse(where, "there must be an array")
        if len(value) > _MAXIMUM_ITEMS:
            self.refuse(where, f"more than {_MAXIMUM_ITEMS} items")
        return value

    def text(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            self.refuse(where, "there must be a text")
        if "\0" in value or len(value) > _MAXIMUM_TEXT:
            self.refuse(where, "a text with a NUL" if "\0" in value else "a text that is too long")
        if not value.isascii() and any("\ud800" <= each <= "\udfff" for each in value):
            self.refuse(where, "a text with half a character")
        return value

    def word(self, value: Any, where: str) -> str:
        text = self.text(value, where)
        if len(text) > 64 or not text.isprintable():
            self.refuse(where, "a text that is too long or not printable")
        return text

    def texts(self, value: Any, where: str) -> tuple[str, ...]:
        return tuple(self.text(each, f"{where}[{at}]") for at, each in enumerate(self.items(value, where)))

    def descriptor(self, value: Any, where: str) -> Descriptor:
        found = self.mapping(value, where)
        digest = found.get("digest")
        if not isinstance(digest, str) or not is_digest(digest):
            self.refuse(f"{where}.digest", "it is no sha256 digest")
        size = found.get("size")
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < _MAXIMUM_SIZE:
            self.refuse(f"{where}.size", "it is no number of bytes")
        platform = None
        if found.get("platform") is not None:
            given = self.mapping(found["platform"], f"{where}.platform")
            platform = (
                self.word(given.get("os") or "linux", f"{where}.platform.os"),
                self.word(given.get("architecture") or "", f"{where}.platform.architecture"),
                self.word(given.get("variant") or "", f"{where}.platform.variant"),
            )
        annotations = self.mapping(found.get("annotations") or {}, f"{where}.annotations")
        return Descriptor(
            media_type=self.text(found.get("mediaType", ""), f"{where}.mediaType"),
            digest=digest,
            size_bytes=size,
            platform=platform,
            annotations=tuple((key, self.text(each, f"{where}.annotations")) for key, each in annotations.items()),
        )


__all__ = [
    "DOCKER_CONFIG", "OCI_CONFIG", "OCI_INDEX", "OCI_LAYER", "OCI_MANIFEST", "Configuration", "Descriptor", "Manifest", "choose_platform", "is_index",
    "layer_packing", "parse_config", "parse_index", "parse_json", "parse_manifest", "parse_manifest_or_index",
]  # fmt: skip
