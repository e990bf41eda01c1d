"""OCI layouts and docker archives made by hand, entry by entry, and trees read back through the kernel's own overlay."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

MTIME = 1_600_000_000

Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, content: bytes | str = b"", kind: bytes = tarfile.REGTYPE, **facts: Any) -> Entry:
    """Return a tar entry; a text as content is a link's target."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mtime = MTIME
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    if isinstance(content, str):
        info.linkname = content
        content = b""
    info.size = len(content)
    for key, value in facts.items():
        setattr(info, key, value)
    return info, content


def directory(name: str, **facts: Any) -> Entry:
    return entry(name, kind=tarfile.DIRTYPE, **facts)


def symlink(name: str, target: str, **facts: Any) -> Entry:
    return entry(name, target, tarfile.SYMTYPE, **facts)


def hardlink(name: str, target: str, **facts: Any) -> Entry:
    return entry(name, target, tarfile.LNKTYPE, **facts)


def tar_of(entries: Iterable[Entry], format: int = tarfile.PAX_FORMAT) -> bytes:
    """Return an archive; sizes are written as they are said, content as it is given."""
    out = io.BytesIO()
    for info, content in entries:
        out.write(info.tobuf(format, "utf-8", "surrogateescape"))
        out.write(content + bytes(-len(content) % 512))
    out.write(bytes(1024))
    return out.getvalue()


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Layout:
    """An OCI layout that is being made; every lie about it is told by changing what `write` would say."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.blobs = path / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.entries: list[dict[str, Any]] = []

    def blob(self, content: bytes) -> dict[str, Any]:
        """Add a blob; return its digest and size."""
        digest = digest_of(content)
        (self.blobs / digest[7:]).write_bytes(content)
        return {"digest": digest, "size": len(content)}

    def image(
        self,
        layers: Sequence[bytes],
        *,
        ref: str = "latest",
        packed: bool = True,
        config: dict[str, Any] | None = None,
        architecture: str = "amd64",
        diff_ids: Sequence[str] | None = None,
        platform: dict[str, str] | None = None,
        listed: bool = True,
    ) -> dict[str, Any]:
        """Add an image of unpacked layers, bottom first; return its descriptor."""
        document = {
            "architecture": architecture,
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers] if diff_ids is None else list(diff_ids)},
        }
        media = "application/vnd.oci.image.layer.v1.tar"
        described = [
            {"mediaType": media + ("+gzip" if packed else "")} | self.blob(gzip.compress(layer, 1, mtime=0) if packed else layer) for layer in layers
        ]
        return self.manifest(self.blob(json.dumps(document).encode()), described, ref=ref, platform=platform, listed=listed)

    def manifest(
        self, config: dict[str, Any], layers: list[dict[str, Any]], *, ref: str = "latest", platform: dict[str, str] | None = None, listed: bool = True
    ) -> dict[str, Any]:
        """Add a manifest of descriptors."""
        made = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json"} | config,
            "layers": layers,
        }
        return self.descriptor("application/vnd.oci.image.manifest.v1+json", json.dumps(made).encode(), ref, platform, listed)

    def index(self, manifests: Sequence[dict[str, Any]], ref: str = "latest", *, listed: bool = True) -> dict[str, Any]:
        """Add an index of descriptors."""
        made = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": list(manifests)}
        return self.descriptor("application/vnd.oci.image.index.v1+json", json.dumps(made).encode(), ref, None, listed)

    def descriptor(self, media: str, content: bytes, ref: str, platform: dict[str, str] | None, listed: bool) -> dict[str, Any]:
        found = {"mediaType": media} | self.blob(content) | ({"platform": platform} if platform else {})
        if listed:
            self.entries.append(found | {"annotations": {"org.opencontainers.image.ref.name": ref}})
            self.write()
        return found

    def write(self) -> None:
        """Write the index of the layout."""
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.entries}))


def docker_archive(images: Sequence[tuple[Sequence[str], Sequence[bytes], dict[str, Any]]]) -> bytes:
    """Return an archive as `docker save` wrote it before version 25: (names, layers, config) of each image; equal layers are links."""
    entries: list[Entry] = []
    manifest = []
    where: dict[str, str] = {}
    for at, (names, layers, config) in enumerate(images):
        document = {
            "architecture": "amd64", "os": "linux", "config": config, "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        }  # fmt: skip
        paths = []
        for number, layer in enumerate(layers):
            path = f"{at:032x}{number:032x}/layer.tar"
            known = where.setdefault(digest_of(layer), path)
            entries += [directory(os.path.dirname(path)), symlink(path, f"../{known}") if known != path else entry(path, layer)]
            paths.append(path)
        content = json.dumps(document).encode()
        name = f"{hashlib.sha256(content).hexdigest()}.json"
        entries.append(entry(name, content))
        manifest.append({"Config": name, "RepoTags": list(names), "Layers": paths})
    entries.append(entry("manifest.json", json.dumps(manifest).encode()))
    entries.append(entry("repositories", b"{}"))
    return tar_of(entries)


_WALK = """
import hashlib, json, os, stat, sys
root, found, links = sys.argv[1], {}, {}
def look(path):
    name = os.path.relpath(path, root)
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    facts = [oct(kind), oct(stat.S_IMODE(status.st_mode)) if kind != stat.S_IFLNK else "", int(status.st_mtime)]
    if kind == stat.S_IFREG:
        with open(path, "rb") as file:
            facts += [status.st_size, hashlib.sha256(file.read()).hexdigest()]
    if kind == stat.S_IFLNK:
        facts.append(os.readlink(path))
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        facts.append({key: os.getxattr(path, key).hex() for key in os.listxattr(path) if key.startswith("user.") and not key.startswith("user.overlay")
                      and key != "user.rootlesscontainers"})
    if kind != stat.S_IFDIR and status.st_nlink > 1:
        links.setdefault((status.st_dev, status.st_ino), []).append(name)
    found[name] = facts
    if kind == stat.S_IFDIR:
        for each in sorted(os.listdir(path)):
            look(os.path.join(path, each))
look(root)
for names in links.values():
    for name in names if len(names) > 1 else ():
        found[name].append(sorted(names))
print(json.dumps(found))
"""


def tree_of(path: str | Path) -> dict[str, list[Any]]:
    """Return everything below a directory: type, mode, time, content, target, user xattrs, and which names are one file."""
    done = subprocess.run(
        ["unshare", "-Ur", sys.executable, "-I", "-c", _WALK, str(path)], capture_output=True, text=True, check=True, timeout=240
    )
    found: dict[str, list[Any]] = json.loads(done.stdout)
    return found


def merged_tree(layers: Sequence[str], tmp_path: Path) -> dict[str, list[Any]]:
    """Return the same of layers (topmost first) mounted by the kernel, as an ordinary user can."""
    for name in ("mnt", "empty"):
        (tmp_path / name).mkdir(exist_ok=True)
    top = os.path.dirname(os.path.dirname(layers[0]))  # a page has no room for 30 whole paths
    lowers = ":".join([*(os.path.relpath(layer, top) for layer in layers), str(tmp_path / "empty")])
    script = 'cd "$5" && mount -t overlay -o "userxattr,lowerdir=$1" overlay "$2" && exec "$3" -I -c "$4" "$2"'
    words = [lowers, str(tmp_path / "mnt"), sys.executable, _WALK, top]
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script, "sh", *words], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[Any]] = json.loads(done.stdout)
    return found
