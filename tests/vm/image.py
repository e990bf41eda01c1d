"""What the guests are made of: a Debian tree with its kernel, made once, and the checkout with what its tests import.

Both become initial ramfs archives (cpio "newc"), which the kernel unpacks one after another; so there is no disk, no boot loader and
no driver in these machines, and nothing of them is mounted here. Only the stage's own `__main__` imports this module.

Source: kernel Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
import marshal
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent.parent
GUEST = Path(__file__).resolve().parent / "guest"
CHECKOUT = "srv/sandbox"
LIBRARIES = "usr/local/lib/python3.11/dist-packages"
BUILT = "srv/built"

SUITE = "bookworm"
KERNEL = "linux-image-cloud-amd64"
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "dbus-user-session",
    "libpam-systemd",
    "python3",
    "libseccomp2",
    "procps",
    "uidmap",
    "gcc",
    "libc6-dev",
    "e2fsprogs",
    "apparmor",
    "busybox-static",
)
# What the tests import, for the guest's interpreter; the sandbox itself needs only tomli and pyseccomp where the native executor is.
REQUIREMENTS = ("pytest>=8", "tomli>=2.0.1", "pyseccomp>=0.1.2")
GUEST_PYTHON = (3, 11)
KEPT_S = 8 * 86400

# The kernel's package is unpacked and not installed: installing it would bring an initramfs generator and run it.
_HOOKS = (
    'cd "$1/boot" && export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" && '
    f'name=$(apt-cache depends --important {KERNEL} | sed -n "s/.*Depends: \\(linux-image-[0-9].*\\)/\\1/p") && '
    'apt-get -q download "$name" && '
    'dpkg-deb --fsys-tarfile "$name"_*.deb | tar -x --strip-components=2 --wildcards "./boot/vmlinuz-*" && '
    # A few modules: a file system with a page cache, on a file of the guest, overlayfs, and quotas.
    'dpkg-deb --fsys-tarfile "$name"_*.deb | tar -x -C "$1" --wildcards "./lib/modules/*/kernel/drivers/block/loop.ko*" '
    '"./lib/modules/*/kernel/fs/overlayfs/overlay.ko*" "./lib/modules/*/kernel/fs/quota/*.ko*" && rm "$name"_*.deb',
    # Loads every profile that Debian has, which takes seconds; the stage loads its own.
    'ln -sf /dev/null "$1/etc/systemd/system/apparmor.service"',
    'chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash user',
    'echo guest >"$1/etc/hostname" && echo 127.0.0.1 localhost guest >"$1/etc/hosts" && : >"$1/etc/fstab"',
    # A known one, or systemd takes this for a first boot and presets every unit.
    'echo 0123456789abcdef0123456789abcdef >"$1/etc/machine-id"',
)
_DPKG = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/info/*",
)
_SKIPPED_TOP = ("boot", "dev")


class StageError(Exception):
    """The stage could not be prepared; the text says what to do."""


class Archive:
    """Writes a "newc" archive.

    Args:
        stream: takes the bytes; borrowed.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._number = 0
        self._directories: set[str] = set()

    def add(
        self, name: str, mode: int, *, content: bytes = b"", uid: int = 0, gid: int = 0, mtime: int = 0, device: tuple[int, int] = (0, 0)
    ) -> None:
        """Add one entry; `mode` has the file's type, a link's `content` is its target. Missing parents are made."""
        parent = os.path.dirname(name)
        if parent and parent not in self._directories:
            self.add(parent, stat.S_IFDIR | 0o755)
        if stat.S_ISDIR(mode):
            self._directories.add(name)
        self._number += 1
        encoded = os.fsencode(name) + b"\0"
        fields = (self._number, mode, uid, gid, 1, mtime, len(content), 0, 0, *device, len(encoded), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self._write(header + encoded)
        self._write(content)

    def end(self) -> None:
        """Write the trailer; another archive may follow in the same file."""
        self.add("TRAILER!!!", 0)

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._stream.write(bytes(-len(data) % 4))


def missing_tools() -> list[str]:
    """Return the Debian packages that the stage needs and this machine lacks."""
    needs = {"qemu-system-x86_64": "qemu-system-x86", "mmdebstrap": "mmdebstrap", "apt-get": "apt", "dpkg-deb": "dpkg"}
    return [package for tool, package in needs.items() if shutil.which(tool) is None]


def debian_tree(cache: Path, *, refresh: bool = False) -> tuple[Path, Path]:
    """Return (kernel, archive of the tree), made when the cache has none of this recipe and week.

    Raises:
        StageError: mmdebstrap failed; its last words are in the text.
    """
    week = "-".join(map(str, datetime.date.today().isocalendar()[:2]))
    key = hashlib.sha256(repr((week, SUITE, PACKAGES, _HOOKS, _DPKG)).encode()).hexdigest()[:16]
    kernel, tree = cache / f"vmlinuz-{key}", cache / f"tree-{key}.cpio"
    if kernel.exists() and tree.exists() and not refresh:
        for path in (kernel, tree):
            path.touch()
        return kernel, tree
    # Two checkouts may have different recipes, each its own tree; what nobody has used for a week goes.
    for old in (*cache.glob("vmlinuz-*"), *cache.glob("tree-*")):
        if old.stat().st_mtime < time.time() - KEPT_S:
            old.unlink()
    packed = cache / "tree.tar"
    command = [
        "mmdebstrap",
        "--variant=minbase",
        "--format=tar",
        "--aptopt=APT::Install-Recommends false",
        "--aptopt=Acquire::Languages none",
    ]
    command += (
        [f"--dpkgopt={option}" for option in _DPKG] + [f"--include={','.join(PACKAGES)}"] + [f"--customize-hook={hook}" for hook in _HOOKS]
    )
    log = cache / "mmdebstrap.log"
    try:
        with log.open("wb") as words:
            status = subprocess.run(
                [*command, SUITE, str(packed), *_mirror()], stdin=subprocess.DEVNULL, stdout=words, stderr=words, timeout=900, check=False
            ).returncode
        if status:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
            raise StageError(f"mmdebstrap ended with {status}, its output is in `{log}`:\n{tail}")
        _convert(packed, kernel, tree)
    finally:
        packed.unlink(missing_ok=True)
    return kernel, tree


def _mirror() -> list[str]:
    """The machine's own mirror of Debian, which may be a near or the only reachable one; empty lets mmdebstrap choose."""
    form = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"]
    done = subprocess.run(form, capture_output=True, text=True, check=False)
    found = dict.fromkeys(line for line in done.stdout.split() if line.rstrip("/").endswith("/debian"))
    return list(found)[:1]


def _convert(packed: Path, kernel: Path, tree: Path) -> None:
    partial = tree.with_suffix(".part")
    with tarfile.open(packed) as source, partial.open("wb") as stream:
        archive = Archive(stream)
        # The kernel opens it before anything can mount a /dev.
        archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
        for member in source:
            name = os.path.normpath(member.name)
            if name.startswith("boot/vmlinuz-"):
                data = source.extractfile(member)
                assert data is not None
                kernel.write_bytes(data.read())
            if name == "." or name.split("/")[0] in _SKIPPED_TOP:
                continue
            kinds = {
                tarfile.DIRTYPE: stat.S_IFDIR,
                tarfile.SYMTYPE: stat.S_IFLNK,
                tarfile.REGTYPE: stat.S_IFREG,
                tarfile.LNKTYPE: stat.S_IFREG,
            }
            kind = kinds.get(member.type)
            if kind is None:
                continue
            content = os.fsencode(member.linkname) if member.issym() else b""
            if kind == stat.S_IFREG:
                data = source.extractfile(member)  # follows hard links; a second copy of a few small files does no harm
                assert data is not None
                content = data.read()
            archive.add(name, kind | member.mode, content=content, uid=member.uid, gid=member.gid, mtime=int(member.mtime))
        archive.end()
    if not kernel.exists():
        raise StageError(f"the packages of `{SUITE}` brought no kernel")
    partial.rename(tree)


def libraries(cache: Path) -> Path:
    """Return a directory with `REQUIREMENTS` for the guest's interpreter, made by pip when the cache has none.

    Raises:
        StageError: pip failed.
    """
    key = hashlib.sha256(repr((REQUIREMENTS, GUEST_PYTHON)).encode()).hexdigest()[:16]
    target = cache / f"libraries-{key}"
    if target.is_dir():
        return target
    partial = cache / "libraries.part"
    shutil.rmtree(partial, ignore_errors=True)
    command = [sys.executable, "-I", "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile", "--target", str(partial)]
    command += [
        "--python-version",
        ".".join(map(str, GUEST_PYTHON)),
        "--platform",
        "manylinux2014_x86_64",
        "--only-binary=:all:",
        *REQUIREMENTS,
    ]
    done = subprocess.run(
        command, env=os.environ | {"PIP_USER": "0"}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise StageError(f"pip could not bring {', '.join(REQUIREMENTS)}:\n{done.stderr[-2000:]}")
    for old in cache.glob("libraries-*"):
        shutil.rmtree(old)
    partial.rename(target)
    return target


def write_payload(target: Path, tree: Path, brought: Path) -> None:
    """Write the machine's whole initial ramfs: the tree, then the checkout, the libraries and the guest's own files over it."""
    with target.open("wb") as stream:
        with tree.open("rb") as source:
            shutil.copyfileobj(source, stream, 1 << 20)
        archive = Archive(stream)
        for path, name in (*_checkout(), *_below(brought, LIBRARIES)):
            status = path.lstat()
            mode = stat.S_IFREG | (0o755 if status.st_mode & 0o100 else 0o644)
            content = path.read_bytes()
            archive.add(name, mode, content=content, mtime=int(status.st_mtime))
            if path.suffix == ".py" and sys.version_info[:2] == GUEST_PYTHON:
                _add_compiled(archive, name, content, int(status.st_mtime))
        # Isolated interpreters (-I) look at no PYTHONPATH.
        archive.add(f"{LIBRARIES}/checkout.pth", stat.S_IFREG | 0o644, content=f"/{CHECKOUT}\n".encode())
        for path, name in _below(GUEST, ""):
            archive.add(name, stat.S_IFREG | (0o755 if path.stat().st_mode & 0o100 else 0o644), content=path.read_bytes())
        for name, program in _built(target.parent):
            archive.add(f"{BUILT}/{name}", stat.S_IFREG | 0o755, content=program)
        archive.add("etc/host-mark", stat.S_IFREG | 0o644, content=b"a file of the host that no sandbox is given\n")
        archive.end()


def _add_compiled(archive: Archive, name: str, source: bytes, mtime: int) -> None:
    """Add a module's byte code: compiling in the guest, on an emulated processor, takes a minute.

    Source: PEP 552, the time-stamped form.
    """
    try:
        code = compile(source, f"/{name}", "exec", dont_inherit=True)
    except SyntaxError:
        return  # a file that is meant to be wrong, or for another version
    head = importlib.util.MAGIC_NUMBER + bytes(4) + (mtime & 0xFFFFFFFF).to_bytes(4, "little") + len(source).to_bytes(4, "little")
    folder, file = os.path.split(name)
    tag = "cpython-" + "".join(map(str, GUEST_PYTHON))
    archive.add(f"{folder}/__pycache__/{file[:-3]}.{tag}.pyc", stat.S_IFREG | 0o644, content=head + marshal.dumps(code))


def _built(cache: Path) -> Iterator[tuple[str, bytes]]:
    """Compile the tests' payloads, where this machine has a compiler: on an emulated processor each takes ten seconds. Without one the guest does it."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    for source in sorted((ROOT / "tests" / "payloads").glob("limits_*.c")) if compiler else ():
        output = cache / "payload"
        command = [compiler, "-O1", "-pthread", "-static", "-o", str(output), str(source)]
        if subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0:
            yield source.name, output.read_bytes()
            output.unlink()


def _checkout() -> Iterator[tuple[Path, str]]:
    for name in ("pyproject.toml", "README.md", "dev"):
        yield ROOT / name, f"{CHECKOUT}/{name}"
    for folder in ("sandbox", "profiles", "policies", "examples", "tests", "docs", "scripts"):
        yield from _below(ROOT / folder, f"{CHECKOUT}/{folder}")


def _below(top: Path, name: str) -> Iterator[tuple[Path, str]]:
    for directory, folders, files in os.walk(top):
        folders[:] = sorted(folder for folder in folders if folder not in ("__pycache__", "bin"))
        for file in sorted(files):
            path = Path(directory) / file
            if path.is_file() and not path.is_symlink() and path.suffix != ".pyc":
                yield path, os.path.join(name, path.relative_to(top))
