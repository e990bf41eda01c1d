"""Images from Python, as `sandbox.images`: bring them into the store, look at them, give them out again, take them away.

Each call opens the store of the environment's directories (SANDBOX_DATA_DIR, XDG_DATA_HOME, HOME) and closes it again; several at once, from several
processes too, do not harm each other.
"""

from __future__ import annotations

import os

from sandbox.errors import PolicyError
from sandbox.images.bounds import DEFAULT, Bounds, Budget, ImageError
from sandbox.images.chain import unpack_chain
from sandbox.images.collect import Collected, Removed, collect, prune_images, remove_name
from sandbox.images.compose import ConfigChanges
from sandbox.images.exporting import ExportFormat, export_image
from sandbox.images.importing import Imported, Request, SourceKind, import_source
from sandbox.images.lookup import find_digest, find_image, list_images, read_image, read_names, store_path
from sandbox.images.model import Image, ImageConfig
from sandbox.images.reference import parse_reference
from sandbox.images.store import Store, open_store
from sandbox.images.verifying import Damage, verify_images
from sandbox.launch.idmap import write_range_maps
from sandbox.record import dataclass
from sandbox.store import open_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Mapping, Sequence

    from sandbox.images.store import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What `prune` took: images by their digests, and what only they, or nothing, needed. `complete` is false where another command had the store open."""

    images: tuple[str, ...]
    blobs: int
    layers: int
    bytes: int
    complete: bool


def open_images(*, bounds: Bounds = DEFAULT, environ: Mapping[str, str] | None = None) -> Store:
    """Open the store for writing, able to make layers of every form; a context manager.

    Raises:
        SandboxError: it cannot be used.
    """
    store = open_store(os.environ if environ is None else environ, bounds=bounds)
    store.map_ids = _map_ids
    return store


def _map_ids(pid: int) -> None:
    import pwd

    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = ""
    write_range_maps(pid, inside_uid=0, inside_gid=0, uid=os.geteuid(), gid=os.getegid(), user=user)


def import_image(
    source: str | os.PathLike[str],
    *,
    name: str | Sequence[str] = (),
    ref: str = "",
    architecture: str = "",
    ids: str = "single",
    kind: str = "auto",
    env: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    workdir: str | None = None,
    user: str | None = None,
    entrypoint: Sequence[str] | None = None,
    command: Sequence[str] | None = None,
    bounds: Bounds = DEFAULT,
    progress: Progress | None = None,
) -> Image:
    """Bring an image into the store: a root file system in a directory or a tar archive, an OCI layout (a directory or an archive), a ``docker save`` archive.

    Args:
        source: a path; ``-`` is standard input.
        name: what to call it, one name or several; else it has the names of the source, else one made of the path's.
        ref: which image, where the source has several.
        architecture: which, where the source has several: ``amd64``, ``arm64``; by default this machine's.
        ids: ``single``, or ``range`` for a second form of the layers, with the image's owners as the caller's subordinate ids.
        kind: ``auto``, ``oci``, ``docker`` or ``rootfs``, what the source is.
        env: for a root file system, as all of the following: variables of its configuration, besides PATH.
        labels: labels of its configuration.
        workdir: where programs start.
        user: who they are.
        entrypoint: words before every command.
        command: what runs without one; by default ``/bin/sh``.
        bounds: how large it may be.
        progress: called with what is done, how many bytes of it, of how many (0: unknown).

    Raises:
        ImageError: the source is missing, damaged, hostile or larger than the bounds; the store is as it was, but for what the next call can use.
        PolicyError: an argument is wrong, or the source has several images and `ref` says none.
    """
    changes = ConfigChanges(
        environment=tuple((env or {}).items()),
        labels=tuple((labels or {}).items()),
        workdir=workdir,
        user=user,
        entrypoint=None if entrypoint is None else tuple(entrypoint),
        command=None if command is None else tuple(command),
    )
    names = (name,) if isinstance(name, str) else name
    found = import_all(
        Request(
            path=os.fspath(source),
            names=tuple(parse_reference(each, origin="argument `name`") for each in names),
            kind=SourceKind(_choice("kind", kind, tuple(SourceKind))),
            ref=ref,
            architecture=architecture,
            ids=_choice("ids", ids, ("single", "range")),
            changes=changes,
        ),
        bounds=bounds,
        progress=progress,
    )
    if len(found) > 1:
        raise PolicyError(f"`{source}` has {len(found)} images, all of which are in the store now", hint="choose one with `ref`")
    return found[0].image


def pull(
    name: str,
    *,
    architecture: str = "",
    ids: str = "single",
    tls_verify: bool = True,
    authfile: str | None = None,
    stall_ns: int = 60_000_000_000,
    bounds: Bounds = DEFAULT,
    progress: Progress | None = None,
    environ: Mapping[str, str] | None = None,
) -> Image:
    """Bring an image from its registry into the store, or what of it the store has not; the image as it is now.

    Args:
        name: ``debian:12``, ``localhost:5000/x@sha256:…``.
        architecture: which, where there are several: ``amd64``, ``arm64``; by default this machine's.
        ids: see `import_image`.
        tls_verify: False allows plain HTTP and unknown certificates; only digests vouch for what arrives then.
        authfile: of credentials; by default skopeo looks where podman and docker have theirs.
        stall_ns: how long 16 KiB may take to arrive.
        bounds: how large it may be.
        progress: see `import_image`.
        environ: instead of `os.environ`: where the store is, and what skopeo needs (proxies, directories of credentials and certificates).

    Raises:
        PolicyError: the name has another form.
        UnsupportedError: this host has no skopeo.
        ImageError: the registry could not or would not send it, or it is damaged, hostile or larger than the bounds. What had arrived whole stays
            for the next try.
    """
    from sandbox.images.client import find_client
    from sandbox.images.pulling import pull_image

    environ = os.environ if environ is None else environ
    _choice("ids", ids, ("single", "range"))
    parse_reference(name)
    client = find_client(environ, tls_verify=tls_verify, authfile=authfile, stall_ns=stall_ns)
    with open_images(bounds=bounds, environ=environ) as store:
        return pull_image(store, client, name, architecture=architecture, ids=ids, progress=progress)


def ensure(
    name: str,
    *,
    when: str = "missing",
    ids: str = "single",
    origin: str | None = None,
    progress: Progress | None = None,
    environ: Mapping[str, str] | None = None,
) -> Image:
    """Return an image for a run, from its registry where that is wanted; for the command line.

    Args:
        name: as for `show`.
        when: ``missing`` asks the registry when the store does not have it, ``never`` and ``always`` as they say.
        ids: see `import_image`.
        origin: where the name was written, for messages.
        progress: see `import_image`.
        environ: see `pull`.

    Raises:
        SandboxError: as `show` and `pull`.
    """
    from sandbox.images.pulling import ensure_image

    environ = os.environ if environ is None else environ
    return ensure_image(name, environ, lambda: pull(name, ids=ids, progress=progress, environ=environ), when=when, ids=ids, origin=origin)


def is_loopback(name: str) -> bool:
    """Whether an image's registry is on this machine."""
    domain = parse_reference(name).domain
    host = domain[1:].partition("]")[0] if domain.startswith("[") else domain.partition(":")[0]
    return host in ("localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdecimal())


def import_all(request: Request, *, bounds: Bounds = DEFAULT, progress: Progress | None = None) -> builtins.list[Imported]:
    """Bring every image of a source into the store; for the command line.

    Raises:
        SandboxError: as `import_image`.
    """
    with open_images(bounds=bounds) as store:
        return import_source(store, request, progress)


def list() -> tuple[Image, ...]:
    """Return every image of the store, by name, those without one last.

    Raises:
        PolicyError: the store is damaged.
    """
    path = store_path(os.environ)
    fd = open_directory(path, make=False)
    if fd is None:
        return ()
    try:
        names = read_names(fd)
        found = [read_image(fd, path, digits, names) for digits in list_images(fd)]
    finally:
        os.close(fd)
    return tuple(sorted((each for each in found if each is not None), key=lambda image: (not image.names, image.names, image.digest)))


def show(name: str) -> Image:
    """Return an image by its name, or by its digest or the beginning of it.

    Raises:
        PolicyError: there is no such image, with the nearest name.
    """
    return find_image(name, os.environ)


def remove(name: str, *, force: bool = False) -> Removed:
    """Take a name from an image, and the image itself if it has no other; then what nothing needs any more.

    Args:
        name: a name, or a digest or the beginning of it, which means the image with its only name.
        force: by a digest, the image with all its names.

    Raises:
        PolicyError: there is no such image; it has several names; a run uses it.
    """
    with open_images() as store:
        done = remove_name(store, name, force=force)
        if done.digest:
            collect(store)
    return done


def prune(*, all: bool = False) -> Pruned:
    """Take every image without a name away, and what nothing needs any more: blobs, layers, what crashed imports left.

    Args:
        all: every image that no run uses.
    """
    with open_images() as store:
        gone = prune_images(store, every=all)
        garbage: Collected = collect(store)
    return Pruned(
        images=tuple(each.digest for each in gone), blobs=garbage.blobs, layers=garbage.layers, bytes=garbage.bytes, complete=garbage.complete
    )


def export(
    name: str, path: str | os.PathLike[str], *, format: str = "oci-archive", force: bool = False, progress: Progress | None = None
) -> None:
    """Write an image as it came in.

    Args:
        name: as for `show`.
        path: of a new file, or, for ``oci``, a new directory; ``-`` is standard output.
        format: ``oci``, an OCI layout; ``oci-archive``, the same as a tar archive; ``docker-archive``, for ``docker load``.
        force: replace a file that is there.
        progress: see `import_image`.

    Raises:
        PolicyError: there is no such image, or something is at `path`.
        ImageError: the store is damaged.
        OSError: it cannot be written.
    """
    form = ExportFormat(_choice("format", format, tuple(ExportFormat)))
    with open_images() as store:
        export_image(store, _in(store, name), os.fspath(path), form, force=force, progress=progress)


def unpack(name: str, *, ids: str = "single", bounds: Bounds = DEFAULT, progress: Progress | None = None) -> Image:
    """Unpack what of an image's layers is not unpacked in a form.

    Args:
        name: as for `show`.
        ids: see `import_image`.
        bounds: how large it may be.
        progress: see `import_image`.

    Raises:
        PolicyError: there is no such image.
        ImageError: the store is damaged.
        UnsupportedError: the caller has no subordinate ids.
    """
    with open_images(bounds=bounds) as store:
        image = _in(store, name)
        unpack_chain(store, image.details, Budget(bounds), ids=_choice("ids", ids, ("single", "range")), progress=progress)
    return find_image(name, os.environ, ids=ids)


def verify(
    name: str | Sequence[str] = (), *, fast: bool = False, repair: bool = False, bounds: Bounds = DEFAULT, progress: Progress | None = None
) -> tuple[Damage, ...]:
    """Look for damage: every blob against its digest, every unpacked layer against its archive, file by file.

    Args:
        name: one image or several, as for `show`; none is all of them.
        fast: blobs only.
        repair: unpack damaged layers again, and take damaged blobs away for the next import to bring.
        bounds: how large an image may be.
        progress: see `import_image`.

    Raises:
        PolicyError: there is no such image.
    """
    names = (name,) if isinstance(name, str) else name
    with open_images(bounds=bounds) as store:
        images = [_in(store, each) for each in names] or store.images()
        return tuple(verify_images(store, images, fast=fast, repair=repair, progress=progress))


def _in(store: Store, name: str) -> Image:
    """Return an image whose layers need not all be there."""
    names = read_names(store.fd)
    image = read_image(store.fd, store.path, find_digest(store.fd, name, names), names)
    if image is None:
        raise PolicyError(f"there is no image `{name}` in the store")
    return image


def _choice(what: str, given: str, known: Sequence[str]) -> str:
    if given not in known:
        from sandbox.policy.nearest import suggest

        raise PolicyError(f"unknown {what} `{given}`; known: {', '.join(known)}", hint=suggest(given, known))
    return given


__all__ = [
    "Bounds", "Damage", "Image", "ImageConfig", "ImageError", "Imported", "Pruned", "Removed", "export", "import_all", "import_image", "list", "open_images",
    "prune", "pull", "remove", "show", "unpack", "verify",
]  # fmt: skip
