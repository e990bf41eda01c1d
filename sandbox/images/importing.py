"""From a path to an image of the store: what kind of source it is, its layers and documents into the store, its name."""

from __future__ import annotations

import os
import posixpath
import stat

from sandbox.enums import StrEnum
from sandbox.errors import PolicyError, describe_errno
from sandbox.images.bounds import Budget, ImageError
from sandbox.images.chain import add_image, host_architecture, read_left_out
from sandbox.images.compose import DEFAULT_CONFIG, NO_CHANGES, ConfigChanges, add_manifest
from sandbox.images.members import ArchiveMembers, open_directory_members
from sandbox.images.reference import Reference, parse_reference
from sandbox.images.source_dir import add_directory
from sandbox.images.source_docker import MANIFEST, add_docker_archive
from sandbox.images.source_oci import LAYOUT, Offer, add_layout
from sandbox.images.source_tar import Scan, add_rootfs_archive, scan_archive
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from sandbox.images.members import Members
    from sandbox.images.model import Image
    from sandbox.images.store import Progress, Store

_ROOT_NAMES = ("bin", "etc", "usr")
_ENDINGS = (".tar", ".tgz", ".txz", ".tzst", ".gz", ".xz", ".zst", ".bz2", ".oci")


class SourceKind(StrEnum):
    """What a path holds."""

    AUTO = "auto"
    OCI = "oci"
    DOCKER = "docker"
    ROOTFS = "rootfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to import, and as what.

    `names` are what to call it; none takes the source's own names, else one made of the path's. `ref` chooses among a source's images. `changes` are
    for a root file system, whose configuration is else `compose.DEFAULT_CONFIG`.
    """

    path: str
    names: tuple[Reference, ...] = ()
    kind: SourceKind = SourceKind.AUTO
    ref: str = ""
    architecture: str = ""
    ids: str = "single"
    changes: ConfigChanges = NO_CHANGES


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """An image that was imported, and what of it could not be kept, for the user to read."""

    image: Image
    notes: tuple[str, ...]


def import_source(store: Store, request: Request, progress: Progress | None = None) -> list[Imported]:
    """Import what lies at a path; ``-`` is standard input.

    Args:
        store: open for writing.
        request: what.
        progress: told of each part.

    Raises:
        ImageError: the source is missing, damaged, hostile or too large; nothing is named that is not whole.
        PolicyError: the options do not fit it.
    """
    budget = Budget(store.bounds)
    if request.path != "-" and os.path.isdir(request.path):
        offers, notes = _from_directory(store, request, budget, progress)
    else:
        offers, notes = _from_file(store, request, budget, progress)
    if len(offers) > 1 and request.names:
        called = ", ".join(f"`{each.called}`" for each in offers if each.called)
        raise PolicyError(f"`{request.path}` has {len(offers)} images, one name is not enough", hint=f"choose one with `--ref`: {called}")
    done = []
    for offer in offers:
        names = tuple(map(str, request.names)) or offer.names or (_name_of(request.path, offer.called),)
        image = add_image(store, offer.digest, names, architecture=request.architecture, ids=request.ids, budget=budget, progress=progress)
        left = notes + [f"left out: {what} ({count})" for what, count in sorted(read_left_out(store, image).items())]
        if image.architecture and image.architecture != host_architecture():
            left.append(f"it is for {image.architecture}, this machine is {host_architecture()}")
        done.append(Imported(image=image, notes=tuple(left)))
    return done


def _from_directory(store: Store, request: Request, budget: Budget, progress: Progress | None) -> tuple[list[Offer], list[str]]:
    there = set(os.listdir(request.path))
    kind = request.kind
    if kind is SourceKind.AUTO:
        if _is_layout(there):
            kind = SourceKind.OCI
        elif MANIFEST in there and not there.intersection(_ROOT_NAMES):
            kind = SourceKind.DOCKER
        else:
            kind = SourceKind.ROOTFS
    if kind is SourceKind.ROOTFS:
        blob, diff_id, left = add_directory(store, request.path, budget, progress)
        digest = add_manifest(
            store, [(blob, diff_id)], request.changes.apply(DEFAULT_CONFIG), request.architecture or host_architecture(), note="imported from a directory"
        )
        return [Offer(digest=digest, called="", names=())], [f"left out: {what} ({count})" for what, count in sorted(left.items())]
    _refuse_changes(request)
    members = open_directory_members(request.path)
    try:
        return _from_members(store, request, kind, members, progress), []
    finally:
        members.close()


def _from_file(store: Store, request: Request, budget: Budget, progress: Progress | None) -> tuple[list[Offer], list[str]]:
    fd = _open_source(store, request.path, progress)
    try:
        scan = scan_archive(fd, Budget(store.bounds), request.path, progress)
        kind = request.kind
        if kind is SourceKind.AUTO:
            kind = _kind_of(scan)
        os.lseek(fd, 0, os.SEEK_SET)
        if kind is SourceKind.ROOTFS:
            blob, diff_id = add_rootfs_archive(store, fd, scan, request.path, progress)
            digest = add_manifest(
                store, [(blob, diff_id)], request.changes.apply(DEFAULT_CONFIG), request.architecture or host_architecture(), note="imported from an archive"
            )
            return [Offer(digest=digest, called="", names=())], []
        _refuse_changes(request)
        members = ArchiveMembers(store, fd, budget, request.path, progress)
        return _from_members(store, request, kind, members, progress), []
    finally:
        os.close(fd)


def _from_members(store: Store, request: Request, kind: SourceKind, members: Members, progress: Progress | None) -> list[Offer]:
    if kind is SourceKind.OCI:
        return add_layout(store, members, request.architecture or host_architecture(), request.ref, progress)
    return add_docker_archive(store, members, request.ref, progress)


def _is_layout(names: Collection[str]) -> bool:
    """Whether names at the top are those of an OCI layout; half a layout is a damaged one, not somebody's root."""
    return LAYOUT in names or ("index.json" in names and "blobs" in names)


def _kind_of(scan: Scan) -> SourceKind:
    if _is_layout(scan.top):
        return SourceKind.OCI
    if MANIFEST in scan.top and not scan.top.intersection(_ROOT_NAMES):
        return SourceKind.DOCKER
    return SourceKind.ROOTFS


def _open_source(store: Store, path: str, progress: Progress | None) -> int:
    """Return a descriptor of a regular file: the source itself, or what a pipe gave."""
    if path == "-":
        if os.isatty(0):
            raise PolicyError("standard input is a terminal", hint="pipe an archive into it, or name a file")
        return _spool(store, 0, progress)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise ImageError(f"open `{path}`: {describe_errno(error.errno or 0)}") from None
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return fd
    try:
        if not stat.S_ISFIFO(mode):
            raise ImageError(f"`{path}` is neither a file nor a directory")
        return _spool(store, fd, progress)
    finally:
        os.close(fd)


def _spool(store: Store, source: int, progress: Progress | None) -> int:
    name = store.new_name()
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=store.tmp)
    try:
        size = 0
        while chunk := os.read(source, 1 << 20):
            size += len(chunk)
            if size > 2 * store.bounds.bytes:
                raise ImageError(f"more than {2 * store.bounds.bytes} bytes", origin="standard input", hint="where you trust it, `--max-bytes`")
            while chunk:
                chunk = chunk[os.write(fd, chunk) :]
            if progress is not None:
                progress("read", size, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd
    except BaseException:
        os.close(fd)
        raise


def _refuse_changes(request: Request) -> None:
    if request.changes != NO_CHANGES:
        raise PolicyError(
            f"`{request.path}` has a configuration of its own", hint="options that change one are for root file systems; give them to `sandbox exec` instead"
        )


def _name_of(path: str, called: str) -> str:
    """Return a name made of a path's last part, and of how the source calls the image."""
    base = os.path.basename(os.path.realpath(path)).lower() if path != "-" else "imported"
    while any(base.endswith(ending) for ending in _ENDINGS):
        base = posixpath.splitext(base)[0]
    letters = "".join(each if each.isascii() and (each.isalnum() or each in "._-") else "-" for each in base)
    words = [word for word in letters.replace(".", "-").replace("_", "-").split("-") if word]
    tag = called if called and len(called) <= 128 and all(each.isascii() and (each.isalnum() or each in "._-") for each in called) else ""
    try:
        return str(parse_reference(f"localhost/{'-'.join(words) or 'imported'}{':' + tag if tag and tag[0] not in '.-' else ''}"))
    except PolicyError as error:
        raise ImageError("no name can be made of the path's", hint="say `--name NAME`") from error


__all__ = ["Imported", "Request", "SourceKind", "import_source"]
