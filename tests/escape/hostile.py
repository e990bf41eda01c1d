"""Runs a hostile archive against an importer in a child with limits, and looks at what lies around it before and after.

The control of each kind is the same archive given to `naive`, which does what programs did before each of these had a name: `tarfile` with full
trust, whiteouts by path, blobs by whatever the JSON says. It must come to harm, or the import's unharmed canaries would show nothing. It never runs as
root: what it follows out of the scratch directory would be the machine's own files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import select
import shutil
import signal
import stat
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from escape.hostile_cases import Case, Scratch

SECRET = b"what only the host may read\n"
NOBODY = 61234
"""Who a naive importer runs as where the tests run as root; the scratch directory is this user's."""
MEMORY_BYTES = 2 << 30
FILE_BYTES = 64 << 20
CPU_S = 300
WALL_S = 900.0
DISK_BYTES = 160 << 20
ENTRIES = 20_000


@dataclass(frozen=True)
class Outcome:
    """How an importer ended: `refused` has the error's text, `crashed` what it ended with otherwise."""

    refused: str = ""
    crashed: str = ""
    value: Any = None


def prepare(directory: Path) -> Scratch:
    """Make the surroundings of an attack: files, a directory, a fifo and links that may not change, and a place for the archive."""
    outside, made = directory / "outside", directory / "made"
    for path in (outside / "dir", made, directory / "home"):
        path.mkdir(parents=True)
    (outside / "canary").write_bytes(SECRET)
    (outside / "dir" / "inner").write_bytes(SECRET)
    os.mkfifo(outside / "fifo")
    (outside / "stdio").touch()
    (outside / "link").symlink_to("canary")
    for path in (outside / "canary", outside / "stdio", outside / "dir" / "inner", outside / "dir", outside):
        os.utime(path, ns=(10**18, 10**18))
    return Scratch(outside, made, SECRET)


def clean(directory: Path) -> None:
    """Remove everything, however deep: Python's own way recurses."""
    subprocess.run(["chmod", "-R", "u+rwx", "--", str(directory)], check=False, stderr=subprocess.DEVNULL)
    subprocess.run(["rm", "-rf", "--", str(directory)], check=True)


def snapshot(directory: Path) -> dict[str, tuple[Any, ...]]:
    """Return everything about what lies outside of the archive and the store: type, mode, owner, links, size, times, content, attributes."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in [directory, *sorted(directory.iterdir()), *sorted((directory / "outside").rglob("*"))]:
        if path.name in ("made", "home") and path.parent == directory:
            continue
        status = os.lstat(path)
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}
        time_ns = 0 if path == directory else status.st_mtime_ns
        links = 0 if stat.S_ISDIR(status.st_mode) else status.st_nlink
        found[str(path)] = (status.st_mode, status.st_uid, status.st_gid, links, status.st_size, time_ns, content, attributes)
    return found


def difference(before: Mapping[str, tuple[Any, ...]], after: Mapping[str, tuple[Any, ...]]) -> list[str]:
    """Return what has changed, by path."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def in_child(act: Callable[[], Any], directory: Path, wall_s: float = WALL_S, *, harmless: bool = False) -> Outcome:
    """Run a function in a forked child with limits; what it returns, raises or dies of is the outcome.

    Args:
        act: the function.
        directory: of `prepare`.
        wall_s: after which it counts as hanging.
        harmless: give up root first.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(read_end)
            os.chdir(directory / "home")
            # A canary as well: what is written through /proc/self/fd is seen.
            stdio = os.open(directory / "outside" / "stdio", os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(stdio, fd)
            if harmless and not os.geteuid():
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            os.setpgid(0, 0)
            for limit, value in (
                (resource.RLIMIT_AS, _size_bytes() + MEMORY_BYTES),
                (resource.RLIMIT_FSIZE, FILE_BYTES),
                (resource.RLIMIT_CPU, CPU_S),
                (resource.RLIMIT_CORE, 0),
            ):
                resource.setrlimit(limit, (value, value))
            answer = _answer(act)
            os.write(write_end, json.dumps(answer).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    said = b""
    end = time.monotonic() + wall_s
    hung = False
    with os.fdopen(read_end, "rb", buffering=0) as stream:
        while True:
            ready, _, _ = select.select([stream], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                hung = True
                os.kill(pid, signal.SIGKILL)
                break
            piece = stream.read(1 << 16)
            if not piece:
                break
            said += piece
    _, status = os.waitpid(pid, 0)
    if hung:
        return Outcome(crashed="hangs")
    if not said:
        return Outcome(crashed=f"ended with {os.waitstatus_to_exitcode(status)}")
    refused, crashed, value = json.loads(said)
    return Outcome(refused, crashed, value)


def _size_bytes() -> int:
    """Return what this process has mapped: a whole suite in it leaves a gigabyte."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _answer(act: Callable[[], Any]) -> tuple[str, str, Any]:
    from sandbox.errors import SandboxError

    try:
        return "", "", act()
    except SandboxError as error:
        return str(error)[:20_000] or "refused", "", None
    except BaseException as error:
        return "", f"{type(error).__name__}: {error}"[:2000], None


BOUNDS = {"entries": 6_000, "bytes": 48 << 20, "ratio_free_bytes": 16 << 20, "seconds": 600}
"""Bounds of these imports: a machine of tests is smaller than a user's."""


def own_importer(path: Path, directory: Path) -> Any:
    """Import with the product, into a store below `directory`; return the names of the image."""
    from sandbox.images.bounds import Bounds
    from sandbox.images.importing import Request, import_source
    from sandbox.images.reference import parse_reference
    from sandbox.images.store import open_store

    environ = {"SANDBOX_DATA_DIR": str(directory / "home" / "data"), "HOME": str(directory / "home"), "PATH": os.environ["PATH"]}
    with open_store(environ, bounds=Bounds(**BOUNDS)) as store:
        done = import_source(store, Request(path=str(path), names=(parse_reference("evil"),)))
        return [[*each.image.names, *each.notes] for each in done]


def look_at_store(directory: Path) -> list[str]:
    """Return what may not be in a store after an import, refused or not: what is half done, dangerous, or too much."""
    problems: list[str] = []
    store = directory / "home" / "data" / "images"
    bytes_there = entries = 0
    secret = hashlib.sha256(SECRET).digest()
    stack = [os.fsencode(store)] if store.exists() else []
    while stack:
        path = stack.pop()
        if path.count(b"/") > 200:
            entries += 1
            continue  # deep trees are looked at by their upper part
        for name in os.listdir(path):
            full = os.path.join(path, name)
            status = os.lstat(full)
            entries += 1
            bytes_there += status.st_blocks * 512
            kind = stat.S_IFMT(status.st_mode)
            shown = os.fsdecode(os.path.relpath(full, os.fsencode(store)))
            inside = shown.startswith("layers/") and "/tree/" in shown
            if kind == stat.S_IFDIR:
                if os.access(full, os.R_OK | os.X_OK):
                    stack.append(full)
            elif inside and (kind == stat.S_IFIFO or (kind == stat.S_IFCHR and status.st_rdev == 0)):
                pass  # a fifo is never opened, the device 0/0 is a whiteout
            elif kind == stat.S_IFREG:
                if status.st_size == len(SECRET) and os.access(full, os.R_OK):
                    with open(full, "rb") as content:
                        if hashlib.sha256(content.read()).digest() == secret:
                            problems.append(f"the secret is in {shown}")
            elif kind != stat.S_IFLNK:
                problems.append(f"{shown} is of type {kind:o}")
            for attribute in os.listxattr(full, follow_symlinks=False):
                allowed = attribute == "user.overlay.opaque" or (attribute.startswith("user.") and not attribute.startswith("user.overlay."))
                if not allowed and attribute not in ("security.selinux", "security.ima"):
                    problems.append(f"{shown} has {attribute}")
            if not inside and kind != stat.S_IFLNK and status.st_mode & 0o6022:
                problems.append(f"{shown} has mode {status.st_mode:o}")
        if entries > 2 * ENTRIES:
            break
    if bytes_there > DISK_BYTES:
        problems.append(f"{bytes_there} bytes in the store")
    if entries > ENTRIES:
        problems.append(f"{entries} files in the store")
    temporary = store / "tmp"
    if temporary.exists() and os.listdir(temporary):
        problems.append(f"temporary files are left: {os.listdir(temporary)}")
    return problems


# ---- the naive importer ----------------------------------------------------------------------------------------------


def naive(path: Path, directory: Path) -> Any:
    """Unpack as carelessly as it was done once; return what was believed."""
    assert os.geteuid(), "never as root"
    root = directory / "home" / "root"
    root.mkdir()
    if path.is_dir() and (path / "index.json").exists():
        return _naive_layout(path, root)
    if path.is_dir():
        shutil.copytree(path, root / "tree")  # links are followed
        return "copied"
    with tarfile.open(path) as archive:
        names = archive.getnames()
        if "manifest.json" in names:
            return _naive_saved(path, root)
    _naive_layer(path, root)
    return "unpacked"


def _naive_layout(path: Path, root: Path) -> Any:
    def blob(descriptor: Any) -> bytes:
        algorithm, _, digits = descriptor["digest"].partition(":")
        return Path(os.path.join(path, "blobs", algorithm, digits)).read_bytes()

    table = json.loads((path / "index.json").read_bytes())
    while "manifests" in table:
        table = json.loads(blob(table["manifests"][0]))
    settings = json.loads(blob(table["config"]))
    for number, layer in enumerate(table["layers"]):
        place = root.parent / f"layer-{number}"
        place.write_bytes(blob(layer))
        _naive_layer(place, root)
    return {"config": settings, "layers": len(table["layers"])}


def _naive_saved(path: Path, root: Path) -> Any:
    place = root.parent / "saved"
    with tarfile.open(path) as archive:
        archive.extractall(place)
    entry = json.loads((place / "manifest.json").read_bytes())[0]
    settings = (place / entry["Config"]).read_bytes()
    for layer in entry["Layers"]:
        _naive_layer(place / layer, root)
    return {"config": settings.decode(errors="replace"), "tags": entry["RepoTags"]}


def _naive_layer(path: Path, root: Path) -> None:
    with tarfile.open(path) as archive:
        for entry in archive:
            head, _, name = entry.name.rpartition("/")
            if name == ".wh..wh..opq":
                shutil.rmtree(root / head)
                (root / head).mkdir()
            elif name.startswith(".wh."):
                gone = os.path.join(root, head, name.removeprefix(".wh."))
                shutil.rmtree(gone) if os.path.isdir(gone) and not os.path.islink(gone) else os.unlink(gone)
            else:
                archive.extract(entry, root)
                for key, value in entry.pax_headers.items():
                    if key.startswith("SCHILY.xattr.") and not entry.issym():
                        os.setxattr(root / entry.name, key.removeprefix("SCHILY.xattr."), value.encode("utf-8", "surrogateescape"))


def dangers(directory: Path) -> list[str]:
    """Return what an importer has put where others of the host can use it: devices, set-id files, overlay's attributes, the secret, too much of anything."""
    problems: list[str] = []
    total = entries = 0
    for path, names, files in os.walk(directory / "home"):
        if path.count("/") > 100:
            names.clear()
        for name in [*names, *files]:
            full = os.path.join(path, name)
            status = os.lstat(full)
            entries += 1
            total += status.st_size
            if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                problems.append(f"a device: {name}")
            if stat.S_ISREG(status.st_mode) and status.st_mode & 0o6000 and _others_reach(Path(path), directory):
                problems.append(f"a set-id program: {name}")
            if stat.S_ISREG(status.st_mode) and status.st_size == len(SECRET) and os.access(full, os.R_OK) and Path(full).read_bytes() == SECRET:
                problems.append(f"the secret: {name}")
            if any("overlay." in key for key in os.listxattr(full, follow_symlinks=False)):
                problems.append(f"an attribute of overlay's: {name}")
    if total > DISK_BYTES:
        problems.append(f"{total} bytes")
    if entries > BOUNDS["entries"]:
        problems.append(f"{entries} files")
    return problems


def _others_reach(path: Path, top: Path) -> bool:
    return all(each.stat().st_mode & 0o001 for each in (path, *path.parents) if each.is_relative_to(top) and each != top)


def judge(case: Case, importer: Callable[[Path, Path], Any], directory: Path, wall_s: float = WALL_S) -> tuple[Outcome, list[str]]:
    """Run one case in a fresh directory; return how the importer ended and what it has changed around it."""
    scratch = prepare(directory)
    path = case.make(scratch)
    if importer is naive and not os.geteuid():
        subprocess.run(["chown", "-Rh", f"{NOBODY}:{NOBODY}", "--", str(directory)], check=True)
    before = snapshot(directory)
    outcome = in_child(lambda: importer(path, directory), directory, wall_s, harmless=importer is naive)
    return outcome, difference(before, snapshot(directory))


def plain(text: str, directory: Path) -> str:
    """Return the first line of a message without what differs from run to run."""
    line = re.sub(r"(is no JSON|data is damaged): .*", r"\1", text.split("\n", 1)[0]).replace(str(directory), "DIR").replace(str(directory).lstrip("/"), "DIR")
    return re.sub(r"[0-9a-f]{64}", "HEX", re.sub(r"\bblob [0-9a-f]{12}\b", "blob HEX", line))[:200].encode("ascii", "backslashreplace").decode()
