"""Hostile OCI layouts and `docker save` archives: what lies around the layers lies, leads outside, or is too much."""

# ruff: noqa: E501  -- one line a case, as a table has it
from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from escape.hostile_cases import END, Case, Must, Scratch, directory, file, hardlink, header, padded, pax, record, symlink
from kernel.image_bytes import OCI, Built, digest_of, dumps, gzipped, image_of, write_layout

REFUSED, HARMLESS = Must.REFUSED, Must.HARMLESS
UP = "../" * 24
TREE = directory("etc") + file("etc/a", b"a") + END
HEX = "0" * 64

CASES: list[Case] = []


def add(name: str, kind: str, tries: str, must: Must, make: Callable[[Scratch], Path], says: str = "") -> None:
    """Put a case into the table."""
    CASES.append(Case(name, kind, tries, must, make, says))


# ---- the files of a layout -------------------------------------------------------------------------------------------


def spoiled(name: str, kind: str, tries: str, must: Must, spoil: Callable[[Path, Built, Scratch], None], says: str = "") -> None:
    """Put a case into the table that is a good layout, then spoiled."""

    def make(scratch: Scratch) -> Path:
        image = image_of([TREE])
        path = write_layout(scratch.made / "layout", {"latest": image})
        spoil(path, image, scratch)
        return path

    add(name, kind, tries, must, make, says)


def blob(path: Path, digest: str) -> Path:
    """Return where a layout has a blob."""
    return path / "blobs" / "sha256" / digest.removeprefix("sha256:")


def put(path: Path, make: Callable[[Path], object]) -> None:
    """Put something else in place of a file."""
    path.unlink()
    make(path)


def _swap(path: Path, image: Built, scratch: Scratch) -> None:
    first = blob(path, digest_of(image.layers[0]))
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)


def _link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


spoiled("index-symlink", "layout-link", "index.json is a link outside", REFUSED, lambda p, i, s: put(p / "index.json", _link(f"{s.outside}/canary")))
spoiled("index-fifo", "layout-odd", "index.json is a fifo: who reads it hangs", REFUSED, lambda p, i, s: put(p / "index.json", os.mkfifo))
spoiled("index-directory", "layout-odd", "index.json is a directory", REFUSED, lambda p, i, s: put(p / "index.json", os.mkdir))
spoiled("index-missing", "layout-odd", "there is no index.json", REFUSED, lambda p, i, s: (p / "index.json").unlink())
spoiled("marker-missing", "layout-odd", "there is no oci-layout", REFUSED, lambda p, i, s: (p / "oci-layout").unlink())
spoiled("marker-version", "layout-odd", "a layout of a version that nobody knows", REFUSED, lambda p, i, s: (p / "oci-layout").write_bytes(b'{"imageLayoutVersion":"9.0.0"}') and None)
spoiled("marker-symlink", "layout-link", "oci-layout is a link outside", REFUSED, lambda p, i, s: put(p / "oci-layout", _link(f"{s.outside}/canary")))
spoiled("layer-symlink", "layout-link", "a layer's blob is a link to a file outside, which the image would then contain", REFUSED, lambda p, i, s: put(blob(p, digest_of(i.layers[0])), _link(f"{s.outside}/canary")))
spoiled("config-symlink", "layout-link", "the configuration is a link outside", REFUSED, lambda p, i, s: put(blob(p, digest_of(i.config)), _link(f"{s.outside}/canary")))
spoiled("manifest-symlink", "layout-link", "the manifest is a link outside", REFUSED, lambda p, i, s: put(blob(p, i.digest), _link(f"{s.outside}/canary")))
spoiled("layer-fifo", "layout-odd", "a layer's blob is a fifo", REFUSED, lambda p, i, s: put(blob(p, digest_of(i.layers[0])), os.mkfifo))
spoiled("layer-zero", "layout-odd", "a layer's blob is /dev/zero", REFUSED, lambda p, i, s: put(blob(p, digest_of(i.layers[0])), _link("/dev/zero")))
spoiled("manifest-zero", "layout-odd", "the manifest is /dev/zero", REFUSED, lambda p, i, s: put(blob(p, i.digest), _link("/dev/zero")))
spoiled("layer-missing", "layout-odd", "a layer's blob is not there", REFUSED, lambda p, i, s: blob(p, digest_of(i.layers[0])).unlink())
spoiled("config-missing", "layout-odd", "the configuration is not there", REFUSED, lambda p, i, s: blob(p, digest_of(i.config)).unlink())
spoiled("layer-corrupt", "digest", "one bit of a layer is turned round", REFUSED, _swap, "digest")
spoiled("config-corrupt", "digest", "one byte of the configuration is another", REFUSED, lambda p, i, s: blob(p, digest_of(i.config)).write_bytes(i.config.replace(b"linux", b"Linux")) and None, "digest")
spoiled("manifest-corrupt", "digest", "one byte of the manifest is another", REFUSED, lambda p, i, s: blob(p, i.digest).write_bytes(i.manifest.replace(b":2,", b":2 ")) and None, "digest")
spoiled("layer-longer", "digest", "a layer with bytes behind it", REFUSED, lambda p, i, s: blob(p, digest_of(i.layers[0])).write_bytes(i.layers[0] + b"x") and None)
spoiled("layer-shorter", "digest", "a layer without its last byte", REFUSED, lambda p, i, s: blob(p, digest_of(i.layers[0])).write_bytes(i.layers[0][:-1]) and None)
spoiled("blobs-symlink", "layout-link", "the directory of blobs is a link outside", REFUSED, lambda p, i, s: (os.rename(p / "blobs", s.outside.parent / "made" / "elsewhere"), (p / "blobs").symlink_to(s.outside.parent / "made" / "elsewhere")) and None)


# ---- what the JSON says ----------------------------------------------------------------------------------------------


def index(name: str, kind: str, tries: str, must: Must, change: Callable[[dict[str, Any], Scratch], Any], says: str = "") -> None:
    """Put a case into the table whose index.json is another."""

    def make(scratch: Scratch) -> Path:
        path = write_layout(scratch.made / "layout", {"latest": image_of([TREE])})
        table = json.loads((path / "index.json").read_bytes())
        changed = change(table, scratch)
        (path / "index.json").write_bytes(changed if isinstance(changed, bytes) else dumps(table if changed is None else changed))
        return path

    add(name, kind, tries, must, make, says)


def manifest(name: str, kind: str, tries: str, must: Must, change: Callable[[dict[str, Any], Scratch], Any], says: str = "") -> None:
    """Put a case into the table whose manifest is another, with its right digest."""

    def make(scratch: Scratch) -> Path:
        image = image_of([TREE])
        table = json.loads(image.manifest)
        changed = change(table, scratch)
        content = changed if isinstance(changed, bytes) else dumps(table if changed is None else changed)
        return write_layout(scratch.made / "layout", {"latest": Built(content, image.media_type, image.config, image.layers, image.blobs)})

    add(name, kind, tries, must, make, says)


def config(name: str, kind: str, tries: str, must: Must, change: Callable[[dict[str, Any], Scratch], Any], says: str = "") -> None:
    """Put a case into the table whose configuration is another, with its right digest."""

    def make(scratch: Scratch) -> Path:
        image = image_of([TREE])
        settings = json.loads(image.config)
        changed = change(settings, scratch)
        content = changed if isinstance(changed, bytes) else dumps(settings if changed is None else changed)
        table = json.loads(image.manifest)
        table["config"] |= {"size": len(content), "digest": digest_of(content)}
        blobs = {digest_of(content): content, digest_of(image.layers[0]): image.layers[0]}
        return write_layout(scratch.made / "layout", {"latest": Built(dumps(table), image.media_type, content, image.layers, blobs)})

    add(name, kind, tries, must, make, says)


def set_in(table: Any, *path_and_value: Any) -> None:
    """Set a value below keys and indices."""
    *path, last, value = path_and_value
    for key in path:
        table = table[key]
    table[last] = value


def repeat(value: Any, count: int) -> list[Any]:
    """Return a list of one value."""
    return [value] * count


index("index-no-object", "json", "index.json is a list", REFUSED, lambda t, s: [])
index("index-empty", "json", "index.json is empty", REFUSED, lambda t, s: b" ")
index("index-no-manifests", "json", "an index that names nothing", REFUSED, lambda t, s: set_in(t, "manifests", []))
index("index-manifests-text", "json", "manifests are a text", REFUSED, lambda t, s: set_in(t, "manifests", "sha256:" + HEX))
index("index-nested", "json-bomb", "lists 100000 deep", REFUSED, lambda t, s: b"[" * 100_000 + b"]" * 100_000)
index("index-objects-nested", "json-bomb", "objects 100000 deep", REFUSED, lambda t, s: b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
index("index-huge", "json-bomb", "48 MiB of index.json", REFUSED, lambda t, s: b'{"manifests":[' + b" " * (48 << 20) + b"]}")
index("index-many", "json-bomb", "50000 manifests", REFUSED, lambda t, s: set_in(t, "manifests", repeat(t["manifests"][0], 50_000)))
index("index-number", "json-bomb", "a number of 200000 digits", REFUSED, lambda t, s: dumps(t).replace(b'"schemaVersion":2', b'"schemaVersion":' + b"9" * 200_000))
index("index-utf8", "json", "bytes that are no UTF-8", REFUSED, lambda t, s: dumps(t)[:-1] + b',"\xff":1}')
index("index-nan", "json", "NaN, which is no JSON", HARMLESS, lambda t, s: dumps(t)[:-1] + b',"a":NaN}')
index("index-twice", "json", "one key twice, with two meanings", REFUSED, lambda t, s: dumps(t)[:-1] + b',"manifests":[]}')
index("index-bom", "json", "a byte order mark", HARMLESS, lambda t, s: b"\xef\xbb\xbf" + dumps(t))
index("digest-path", "digest-path", "a digest that is a path outside", REFUSED, lambda t, s: set_in(t, "manifests", 0, "digest", f"sha256:{UP}{s.outside}/canary"))
index("digest-absolute", "digest-path", "a digest that is an absolute path", REFUSED, lambda t, s: set_in(t, "manifests", 0, "digest", f"sha256:{s.outside}/canary"))
index("digest-algorithm-path", "digest-path", "an algorithm that is a path outside", REFUSED, lambda t, s: set_in(t, "manifests", 0, "digest", f"{UP}{s.outside}:canary"))
index("digest-short", "digest-path", "a digest of 8 digits", REFUSED, lambda t, s: set_in(t, "manifests", 0, "digest", "sha256:00000000"))
index("digest-upper", "digest-path", "a digest in capitals", REFUSED, lambda t, s: set_in(t, "manifests", 0, "digest", t["manifests"][0]["digest"].upper().replace("SHA256", "sha256")))
index("digest-md5", "digest-path", "a digest that can be forged", REFUSED, lambda t, s: set_in(t, "manifests", 0, "digest", "md5:" + "0" * 32))
index("digest-nul", "digest-path", "a digest with a NUL", REFUSED, lambda t, s: set_in(t, "manifests", 0, "digest", "sha256:\0" + "0" * 63))
index("digest-number", "digest-path", "a digest that is a number", REFUSED, lambda t, s: set_in(t, "manifests", 0, "digest", 5))
index("digest-missing", "digest-path", "no digest", REFUSED, lambda t, s: t["manifests"][0].pop("digest") and None)
index("size-negative-index", "size", "a manifest of -1 bytes", REFUSED, lambda t, s: set_in(t, "manifests", 0, "size", -1))
index("size-huge-index", "size", "a manifest of 8 EiB", REFUSED, lambda t, s: set_in(t, "manifests", 0, "size", 1 << 63))
index("size-float-index", "size", "a size that is a fraction", REFUSED, lambda t, s: set_in(t, "manifests", 0, "size", 1e300))
index("size-wrong-index", "size", "a manifest that is one byte longer than it says", REFUSED, lambda t, s: set_in(t, "manifests", 0, "size", t["manifests"][0]["size"] - 1))
index("reference-path", "name", "a name that is a path outside", HARMLESS, lambda t, s: set_in(t, "manifests", 0, "annotations", {"org.opencontainers.image.ref.name": f"{UP}{s.outside}/canary"}))
index("reference-escape", "name", "a name that speaks to the terminal", HARMLESS, lambda t, s: set_in(t, "manifests", 0, "annotations", {"org.opencontainers.image.ref.name": "\x1b[2J\nerror: forged"}))
index("reference-long", "name", "a name of 1 MiB", REFUSED, lambda t, s: set_in(t, "manifests", 0, "annotations", {"org.opencontainers.image.ref.name": "n" * (1 << 20)}))
index("reference-type", "name", "a name that is a list", REFUSED, lambda t, s: set_in(t, "manifests", 0, "annotations", {"org.opencontainers.image.ref.name": ["a"]}))
index("media-type-index", "media-type", "a manifest that says it is a layer", REFUSED, lambda t, s: set_in(t, "manifests", 0, "mediaType", OCI["layer"]))
index("data-inline", "size", "content inside the descriptor that is not what the digest says", HARMLESS, lambda t, s: set_in(t, "manifests", 0, "data", "ZXZpbA=="))
index("urls", "name", "a descriptor that says where else to get it", HARMLESS, lambda t, s: set_in(t, "manifests", 0, "urls", ["http://169.254.169.254/"]))


def _loop(scratch: Scratch) -> Path:
    """Indexes in indexes, 200 deep: an index cannot name itself, its digest would have to be known before it."""
    image = image_of([TREE])
    path = write_layout(scratch.made / "layout", {"latest": image})
    inner: bytes = dumps({"schemaVersion": 2, "manifests": [{"mediaType": image.media_type, "size": len(image.manifest), "digest": image.digest}]})
    for _ in range(200):
        blob(path, digest_of(inner)).write_bytes(inner)
        inner = dumps({"schemaVersion": 2, "mediaType": OCI["index"], "manifests": [{"mediaType": OCI["index"], "size": len(inner), "digest": digest_of(inner)}]})
    (path / "index.json").write_bytes(inner)
    return path


def _wide(scratch: Scratch) -> Path:
    """Indexes that each name the one below 16 times: 16^8 manifests in a few KiB."""
    image = image_of([TREE])
    path = write_layout(scratch.made / "layout", {"latest": image})
    inner = dumps({"schemaVersion": 2, "manifests": [{"mediaType": image.media_type, "size": len(image.manifest), "digest": image.digest}] * 16})
    for _ in range(8):
        blob(path, digest_of(inner)).write_bytes(inner)
        inner = dumps({"schemaVersion": 2, "mediaType": OCI["index"], "manifests": [{"mediaType": OCI["index"], "size": len(inner), "digest": digest_of(inner)}] * 16})
    (path / "index.json").write_bytes(inner)
    return path


add("index-deep", "json-bomb", "indexes in indexes, 200 deep", REFUSED, _loop)
add("index-wide", "json-bomb", "indexes that name 4 billion manifests", REFUSED, _wide)

manifest("manifest-no-object", "json", "a manifest that is a list", REFUSED, lambda t, s: [])
manifest("manifest-no-config", "json", "a manifest without configuration", REFUSED, lambda t, s: t.pop("config") and None)
manifest("manifest-no-layers", "json", "a manifest without layers", REFUSED, lambda t, s: t.pop("layers") and None)
manifest("manifest-layers-object", "json", "layers are an object", REFUSED, lambda t, s: set_in(t, "layers", {"0": t["layers"][0]}))
manifest("manifest-schema-1", "media-type", "a manifest of schema 1", REFUSED, lambda t, s: dumps({"schemaVersion": 1, "name": "x", "fsLayers": [{"blobSum": "sha256:" + HEX}], "history": []}))
manifest("manifest-confused", "media-type", "a manifest that is an index, too", REFUSED, lambda t, s: set_in(t, "manifests", [{"mediaType": OCI["manifest"], "size": 2, "digest": "sha256:" + HEX}]))
manifest("layer-digest-path", "digest-path", "a layer's digest that is a path outside", REFUSED, lambda t, s: set_in(t, "layers", 0, "digest", f"sha256:{UP}{s.outside}/canary"))
manifest("config-digest-path", "digest-path", "a configuration's digest that is a path outside", REFUSED, lambda t, s: set_in(t, "config", "digest", f"sha256:{s.outside}/canary"))
manifest("layer-size-less", "size", "a layer that is one byte longer than it says", REFUSED, lambda t, s: set_in(t, "layers", 0, "size", t["layers"][0]["size"] - 1))
manifest("layer-size-more", "size", "a layer that is shorter than it says", REFUSED, lambda t, s: set_in(t, "layers", 0, "size", t["layers"][0]["size"] + 1))
manifest("layer-size-zero", "size", "a layer of no bytes", REFUSED, lambda t, s: set_in(t, "layers", 0, "size", 0))
manifest("layer-size-text", "size", "a size that is a text", REFUSED, lambda t, s: set_in(t, "layers", 0, "size", "100"))
manifest("layer-size-bool", "size", "a size that is true", REFUSED, lambda t, s: set_in(t, "layers", 0, "size", True))
manifest("layer-size-exa", "size", "a layer of 8 EiB", REFUSED, lambda t, s: set_in(t, "layers", 0, "size", (1 << 63) - 1))
manifest("layer-twice", "layers", "one layer twice, one diff id", REFUSED, lambda t, s: set_in(t, "layers", t["layers"] * 2))
manifest("layers-many", "layers", "20000 layers", REFUSED, lambda t, s: set_in(t, "layers", repeat(t["layers"][0], 20_000)))
manifest("layers-none", "layers", "no layers, one diff id", REFUSED, lambda t, s: set_in(t, "layers", []))
manifest("layer-media-type", "media-type", "a layer of a type that nobody knows", REFUSED, lambda t, s: set_in(t, "layers", 0, "mediaType", "application/x-evil"))
manifest("layer-foreign", "media-type", "a layer that has to be fetched from elsewhere", HARMLESS, lambda t, s: t["layers"][0].update(mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", urls=["http://127.0.0.1:1/"]))
manifest("layer-encrypted", "media-type", "an encrypted layer", REFUSED, lambda t, s: set_in(t, "layers", 0, "mediaType", OCI["layer+gzip"] + "+encrypted"))
manifest("layer-says-zstd", "media-type", "gzip that says it is zstd", HARMLESS, lambda t, s: set_in(t, "layers", 0, "mediaType", OCI["layer+zstd"]))
manifest("layer-says-plain", "media-type", "gzip that says it is not packed", HARMLESS, lambda t, s: set_in(t, "layers", 0, "mediaType", OCI["layer"]))
manifest("config-media-type", "media-type", "a configuration that is a chart", REFUSED, lambda t, s: set_in(t, "config", "mediaType", "application/vnd.cncf.helm.config.v1+json"))
manifest("annotations-huge", "json-bomb", "annotations of 6 MiB", REFUSED, lambda t, s: set_in(t, "annotations", {"a": "x" * (6 << 20)}))

config("config-no-object", "json", "a configuration that is a number", REFUSED, lambda t, s: b"5")
config("config-no-rootfs", "layers", "a configuration without diff ids", REFUSED, lambda t, s: t.pop("rootfs") and None)
config("diff-id-wrong", "digest", "a diff id that is not that of the layer", REFUSED, lambda t, s: set_in(t, "rootfs", "diff_ids", ["sha256:" + HEX]))
config("diff-id-path", "digest-path", "a diff id that is a path outside", REFUSED, lambda t, s: set_in(t, "rootfs", "diff_ids", [f"sha256:{UP}{s.outside}"]))
config("diff-id-dot", "digest-path", "a diff id that is a directory of the store", REFUSED, lambda t, s: set_in(t, "rootfs", "diff_ids", [".."]))
config("diff-ids-more", "layers", "more diff ids than layers", REFUSED, lambda t, s: set_in(t, "rootfs", "diff_ids", t["rootfs"]["diff_ids"] * 2))
config("architecture-path", "name", "an architecture that is a path", HARMLESS, lambda t, s: set_in(t, "architecture", "../../../outside"))
config("architecture-other", "name", "an image of another architecture", HARMLESS, lambda t, s: set_in(t, "architecture", "s390x"))
config("os-other", "name", "an image of another system", REFUSED, lambda t, s: set_in(t, "os", "windows"))
config("env-no-equals", "config", "a variable without a value", HARMLESS, lambda t, s: set_in(t, "config", {"Env": ["EVIL"]}))
config("env-newline", "config", "a variable with a newline: another line of whatever lists it", HARMLESS, lambda t, s: set_in(t, "config", {"Env": ["A=b\nworkdir /evil", "B\nlayer x=1"]}))
config("env-nul", "config", "a variable with a NUL", REFUSED, lambda t, s: set_in(t, "config", {"Env": ["A=b\0C=d"]}))
config("env-number", "config", "a variable that is a number", REFUSED, lambda t, s: set_in(t, "config", {"Env": [5]}))
config("env-surrogate", "config", "half a character", REFUSED, lambda t, s: dumps(t).replace(b'"config":{}', b'"config":{"Env":["A=\\ud800"]}'))
config("env-many", "config", "100000 variables", REFUSED, lambda t, s: set_in(t, "config", {"Env": [f"A{n}=b" for n in range(100_000)]}))
config("env-preload", "config", "variables that make programs load others", HARMLESS, lambda t, s: set_in(t, "config", {"Env": ["LD_PRELOAD=/evil.so", "PYTHONSTARTUP=/evil.py"]}))
config("workdir-relative", "config", "a working directory that is `..`", REFUSED, lambda t, s: set_in(t, "config", {"WorkingDir": "../../.."}))
config("workdir-proc", "config", "a working directory behind a descriptor (CVE-2024-21626)", HARMLESS, lambda t, s: set_in(t, "config", {"WorkingDir": "/proc/self/fd/7"}))
config("workdir-nul", "config", "a working directory with a NUL", REFUSED, lambda t, s: set_in(t, "config", {"WorkingDir": "/a\0b"}))
config("user-newline", "config", "a user with a newline", HARMLESS, lambda t, s: set_in(t, "config", {"User": "root\nlayer x"}))
config("user-number", "config", "a user that is a number", HARMLESS, lambda t, s: set_in(t, "config", {"User": 0}))
config("user-huge", "config", "a user id above any", HARMLESS, lambda t, s: set_in(t, "config", {"User": "99999999999999999999"}))
config("entrypoint-text", "config", "an entrypoint that is a text", REFUSED, lambda t, s: set_in(t, "config", {"Entrypoint": "/bin/sh"}))
config("entrypoint-nul", "config", "an entrypoint with a NUL", REFUSED, lambda t, s: set_in(t, "config", {"Entrypoint": ["/bin/sh\0-c"]}))
config("command-nested", "config", "a command of lists", REFUSED, lambda t, s: set_in(t, "config", {"Cmd": [["/bin/sh"]]}))
config("volumes-dotdot", "config", "a volume over `..`", REFUSED, lambda t, s: set_in(t, "config", {"Volumes": {"/../../../outside": {}, "..": {}}}))
config("volumes-root", "config", "a volume over the root", HARMLESS, lambda t, s: set_in(t, "config", {"Volumes": {"/": {}}}))
config("volumes-proc", "config", "volumes over /proc and /dev", HARMLESS, lambda t, s: set_in(t, "config", {"Volumes": {"/proc": {}, "/dev/null": {}}}))
config("volumes-list", "config", "volumes that are a list", REFUSED, lambda t, s: set_in(t, "config", {"Volumes": ["/a"]}))
config("labels-list", "config", "labels that are a list", REFUSED, lambda t, s: set_in(t, "config", {"Labels": ["a"]}))
config("labels-forged", "config", "a label that ends the line and adds a layer", HARMLESS, lambda t, s: set_in(t, "config", {"Labels": {"a=b\nlayer x": "\nend\n"}}))
config("config-huge", "json-bomb", "a configuration of 24 MiB", REFUSED, lambda t, s: set_in(t, "config", {"Labels": {"a": "x" * (24 << 20)}}))
config("config-nested", "json-bomb", "a configuration 100000 deep", REFUSED, lambda t, s: b'{"config":' * 100_000 + b"1" + b"}" * 100_000)
config("stop-signal", "config", "a signal that is a path", HARMLESS, lambda t, s: set_in(t, "config", {"StopSignal": "../../9"}))
config("created-forged", "config", "a date that speaks to the terminal", REFUSED, lambda t, s: set_in(t, "created", "\x1b[2J\nerror: forged"))


# ---- docker save -----------------------------------------------------------------------------------------------------


def saved(name: str, kind: str, tries: str, must: Must, build: Callable[[bytes, bytes, Scratch], bytes], says: str = "") -> None:
    """Put a case into the table that is a `docker save` archive; `build` gets the configuration and the layer."""

    def make(scratch: Scratch) -> Path:
        path = scratch.made / "saved.tar"
        path.write_bytes(build(image_of([TREE], compress=False).config, TREE, scratch))
        return path

    add(name, kind, tries, must, make, says)


def listing(config: str = "config.json", layers: list[Any] | None = None, tags: Any = ("evil:latest",), **more: Any) -> bytes:
    """Return manifest.json as an entry."""
    return file("manifest.json", dumps([{"Config": config, "RepoTags": list(tags) if isinstance(tags, tuple) else tags, "Layers": layers if layers is not None else ["layer.tar"], **more}]))


saved("saved-config-path", "saved-path", "the configuration is a path outside", REFUSED, lambda c, t, s: listing(config=f"{UP}{s.outside}/canary") + file("layer.tar", t) + END)
saved("saved-config-absolute", "saved-path", "the configuration is an absolute path", REFUSED, lambda c, t, s: listing(config=f"{s.outside}/canary") + file("layer.tar", t) + END)
saved("saved-layer-path", "saved-path", "a layer is a path outside", REFUSED, lambda c, t, s: listing(layers=[f"{UP}{s.outside}/canary"]) + file("config.json", c) + END)
saved("saved-layer-symlink", "saved-path", "a layer is a link outside", REFUSED, lambda c, t, s: listing() + file("config.json", c) + symlink("layer.tar", f"{s.outside}/canary") + END)
saved("saved-layer-symlink-loop", "saved-path", "a layer is a link to itself", REFUSED, lambda c, t, s: listing() + file("config.json", c) + symlink("layer.tar", "layer.tar") + END)
saved("saved-layer-hardlink", "saved-path", "a layer is a hard link outside", REFUSED, lambda c, t, s: listing() + file("config.json", c) + hardlink("layer.tar", f"{s.outside}/canary") + END)
saved("saved-manifest-symlink", "saved-path", "manifest.json is a link outside", REFUSED, lambda c, t, s: symlink("manifest.json", f"{s.outside}/canary") + file("config.json", c) + file("layer.tar", t) + END)
saved("saved-member-path", "saved-path", "a member beside these whose name leads outside", REFUSED, lambda c, t, s: listing() + file("config.json", c) + file("layer.tar", t) + file(f"{UP}{s.outside}/canary") + END)
saved("saved-layer-absent", "saved-odd", "a layer is not there", REFUSED, lambda c, t, s: listing() + file("config.json", c) + END)
saved("saved-layer-directory", "saved-odd", "a layer is a directory", REFUSED, lambda c, t, s: listing() + file("config.json", c) + directory("layer.tar") + END)
saved("saved-layer-fifo", "saved-odd", "a layer is a fifo", REFUSED, lambda c, t, s: listing() + file("config.json", c) + header("layer.tar", 0, b"6") + END)
saved("saved-diff-id", "digest", "a layer with another diff id than the configuration says", REFUSED, lambda c, t, s: listing() + file("config.json", c) + file("layer.tar", file("b") + END) + END)
saved("saved-twice", "saved-odd", "two of manifest.json, with two meanings", REFUSED, lambda c, t, s: listing() + file("config.json", c) + file("layer.tar", t) + listing(config=f"{UP}{s.outside}/canary") + END)
saved("saved-layer-twice", "digest", "two members of a layer's name, one of them another", REFUSED, lambda c, t, s: listing() + file("config.json", c) + file("layer.tar", t) + file("layer.tar", file("evil") + END) + END)
saved("saved-tags-path", "name", "a name that is a path outside", REFUSED, lambda c, t, s: listing(tags=(f"{UP}{s.outside}/canary:latest",)) + file("config.json", c) + file("layer.tar", t) + END)
saved("saved-tags-escape", "name", "a name that speaks to the terminal", REFUSED, lambda c, t, s: listing(tags=("\x1b[2J:\n",)) + file("config.json", c) + file("layer.tar", t) + END)
saved("saved-tags-text", "name", "names that are a text", REFUSED, lambda c, t, s: listing(tags="evil:latest") + file("config.json", c) + file("layer.tar", t) + END)
saved("saved-tags-many", "name", "100000 names", REFUSED, lambda c, t, s: listing(tags=tuple(f"evil:{n}" for n in range(100_000))) + file("config.json", c) + file("layer.tar", t) + END)
saved("saved-no-list", "json", "manifest.json is an object", REFUSED, lambda c, t, s: file("manifest.json", b"{}") + file("config.json", c) + file("layer.tar", t) + END)
saved("saved-empty-list", "json", "manifest.json names nothing", REFUSED, lambda c, t, s: file("manifest.json", b"[]") + file("config.json", c) + file("layer.tar", t) + END)
saved("saved-nested", "json-bomb", "manifest.json is 100000 deep", REFUSED, lambda c, t, s: file("manifest.json", b"[" * 100_000 + b"]" * 100_000) + END)
saved("saved-manifest-huge", "json-bomb", "manifest.json is 48 MiB", REFUSED, lambda c, t, s: file("manifest.json", b"[" + b" " * (48 << 20) + b"]") + END)
saved("saved-many-members", "saved-odd", "4000 members that nobody names", HARMLESS, lambda c, t, s: listing() + file("config.json", c) + file("layer.tar", t) + b"".join(header(f"m{n}") for n in range(4_000)) + END)
saved("saved-layers-many", "layers", "30000 times one layer", REFUSED, lambda c, t, s: listing(layers=repeat("layer.tar", 30_000)) + file("config.json", c) + file("layer.tar", t) + END)
saved("saved-layer-number", "json", "a layer that is a number", REFUSED, lambda c, t, s: listing(layers=[5]) + file("config.json", c) + file("layer.tar", t) + END)
saved("saved-hostile-layer", "saved-odd", "a layer that leads outside", HARMLESS, lambda c, t, s: _hostile_layer(s))
saved("saved-gzip-layer", "saved-odd", "a layer that is gzip, which docker never writes", HARMLESS, lambda c, t, s: listing() + file("config.json", c) + file("layer.tar", gzipped(t)) + END)
saved("saved-truncated", "broken", "an archive that ends in a layer", REFUSED, lambda c, t, s: (listing() + file("config.json", c) + file("layer.tar", t))[:-700])
saved("saved-size-claimed", "broken", "a layer of 8 EiB", REFUSED, lambda c, t, s: listing() + file("config.json", c) + pax(record("size", str((1 << 63) - 1))) + header("layer.tar") + padded(t))


def _hostile_layer(scratch: Scratch) -> bytes:
    inner = symlink("x", str(scratch.outside)) + file("x/canary") + END
    return listing() + file("config.json", image_of([inner], compress=False).config) + file("layer.tar", inner) + END


def _directory(name: str, tries: str, must: Must, fill: Callable[[Path, Scratch], None]) -> None:
    """Put a case into the table that is a directory to import as it stands."""

    def make(scratch: Scratch) -> Path:
        path = scratch.made / "tree"
        path.mkdir()
        (path / "a").write_text("a")
        fill(path, scratch)
        return path

    add(name, "source-directory", tries, must, make)


def _deep(path: Path) -> None:
    here = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)


_directory("directory-link", "a directory with links outside", HARMLESS, lambda p, s: (p / "l").symlink_to(s.outside))
_directory("directory-hardlink", "a directory with a second name of a file outside", HARMLESS, lambda p, s: os.link(p / "a", p / "b"))
_directory("directory-fifo", "a directory with a fifo: who opens it hangs", HARMLESS, lambda p, s: os.mkfifo(p / "f"))
_directory("directory-deep", "a directory 2000 deep", REFUSED, lambda p, s: _deep(p))
_directory("directory-sparse", "a directory with a sparse file of 1 TiB", REFUSED, lambda p, s: os.truncate(p / "a", 1 << 40))
_directory("directory-names", "a directory with names that are no text, and one that is a whiteout's", REFUSED, lambda p, s: [(Path(os.fsdecode(bytes(p) + b"/" + name))).write_bytes(b"x") for name in (b"\xff", b"a\nb", b"\x1b[2J", b".wh.a")] and None)
_directory("directory-set-id", "a directory with a set-user-id program", HARMLESS, lambda p, s: os.chmod(p / "a", 0o6755))


def _socket(path: Path) -> None:
    import socket

    with contextlib.closing(socket.socket(socket.AF_UNIX)) as bound:
        old = os.getcwd()
        os.chdir(path)
        try:
            bound.bind("s")
        finally:
            os.chdir(old)


_directory("directory-socket", "a directory with a socket", HARMLESS, lambda p, s: _socket(p))
