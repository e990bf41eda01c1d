"""From a manifest's digest to an image that can be run: its documents read and checked, its layers unpacked, one above the other."""

from __future__ import annotations

import errno
import hashlib
import os

from sandbox.images.bounds import Budget, ImageError, copy_error
from sandbox.images.documents import Descriptor, Manifest, choose_platform, parse_config, parse_manifest, parse_manifest_or_index
from sandbox.images.facts import LayerFacts, read_facts, write_facts
from sandbox.images.lower import Below, LowerView
from sandbox.images.model import Image, Layer
from sandbox.images.packing import Unpacked, packing_of
from sandbox.images.treeops import DIRECTORY_FLAGS, PATH_FLAGS, make_new_directory
from sandbox.images.unpacking import unpack_layer
from sandbox.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from sandbox.images.layer_tree import Owners
    from sandbox.images.store import Progress, Store

_MAXIMUM_NESTING = 4
_WORDS = {"x86_64": "amd64", "aarch64": "arm64"}


def host_architecture() -> str:
    """Return this machine's architecture in OCI's word."""
    machine = os.uname().machine
    return _WORDS.get(machine, machine)


def add_image(
    store: Store,
    digest: str,
    names: Iterable[str] = (),
    *,
    architecture: str = "",
    ids: str = "single",
    budget: Budget | None = None,
    progress: Progress | None = None,
) -> Image:
    """Make an image of blobs that are in the store: check its documents, unpack its layers, write its entry, give it names.

    Args:
        store: open for writing.
        digest: of a manifest, or of an index, of which one is chosen; every blob of it is in the store.
        names: normalised references (`str` of a `Reference`), taken from other images.
        architecture: in OCI's words, ``arm64`` or ``arm/v7``; empty is this machine's. Only an index is asked for it.
        ids: ``single``, or ``range``, which unpacks the layers a second time, with the image's ids as the caller's subordinate ones.
        budget: what may still be spent; None is a new one of the store's bounds.
        progress: told what is done.

    Returns:
        the image as it now is in the store.

    Raises:
        ImageError: something is missing, damaged, contradictory, hostile or too large. Blobs and finished layers stay for the next try, and are
            collected when there is none.
    """
    budget = budget or Budget(store.bounds)
    chosen, _ = choose_manifest(store, digest, architecture or host_architecture())
    image = parse_image(store, chosen)
    if len(image.details) > budget.bounds.layers:
        budget.refuse("layers", f"{len(image.details)} layers, more than overlay can stack")
    image = replace(image, unpacked_bytes=unpack_chain(store, image.details, budget, ids=ids, progress=progress))
    store.commit(image, names)
    return next((each for each in store.images() if each.digest == chosen), image)


def parse_image(store: Store, digest: str) -> Image:
    """Return what the documents of a manifest's digest say of an image, without names and sizes of files.

    Raises:
        ImageError: they are missing, damaged, or contradict each other.
    """
    what = f"manifest `{digest}`"
    manifest = parse_manifest(store.read_blob(digest, what), what)
    what = f"configuration `{manifest.config.digest}`"
    config = parse_config(store.read_blob(manifest.config.digest, what), what)
    if config.os != "linux":
        raise ImageError(f"the image is for `{config.os}`, not for Linux", origin=f"manifest `{digest}`")
    if len(config.diff_ids) != len(manifest.layers):
        raise ImageError(
            f"the manifest has {len(manifest.layers)} layers, the configuration {len(config.diff_ids)} `diff_ids`", origin=f"manifest `{digest}`"
        )
    details = tuple(
        Layer(key=key, diff_id=diff_id, blob=layer.digest, media_type=layer.media_type, size_bytes=layer.size_bytes)
        for key, diff_id, layer in zip(chain_keys(config.diff_ids), config.diff_ids, manifest.layers, strict=True)
    )
    return Image(
        digest=digest,
        names=(),
        architecture=config.architecture,
        config=config.config,
        layers=tuple(f"{store.path}/layers/{layer.key}/tree" for layer in reversed(details)),
        size_bytes=_blob_bytes(store, digest, manifest),
        os=config.os,
        variant=config.variant,
        created=config.created,
        config_digest=manifest.config.digest,
        details=details,
    )


def choose_manifest(store: Store, digest: str, architecture: str) -> tuple[str, Manifest]:
    """Follow an index, or an index of indexes, to the manifest for an architecture; return its digest and what it says.

    Raises:
        ImageError: there is none, or the indexes are nested too deeply.
    """
    for _ in range(_MAXIMUM_NESTING):
        what = f"manifest `{digest}`"
        found = parse_manifest_or_index(store.read_blob(digest, what), what)
        if isinstance(found, Manifest):
            return digest, found
        digest = choose_platform(found, architecture, what).digest
    raise ImageError(f"index `{digest}` is nested more than {_MAXIMUM_NESTING} deep")


def needed_blobs(store: Store, digest: str, architecture: str) -> tuple[Descriptor, ...]:
    """Return what an image needs beside its manifest, which is in the store: its configuration first, then its layers, each once."""
    _, manifest = choose_manifest(store, digest, architecture)
    return tuple({each.digest: each for each in (manifest.config, *manifest.layers)}.values())


def chain_keys(diff_ids: Iterable[str]) -> list[str]:
    """Return the hex digits of each layer's ChainID, which is a digest over its own diff id and all below. Source: OCI image specification, config.md."""
    keys: list[str] = []
    for diff_id in diff_ids:
        keys.append(hashlib.sha256(f"sha256:{keys[-1]} {diff_id}".encode()).hexdigest() if keys else diff_id[7:])
    return keys


def unpack_chain(store: Store, layers: tuple[Layer, ...], budget: Budget, *, ids: str = "single", progress: Progress | None = None) -> int:
    """Unpack what of an image's layers (bottom first) is not there yet, and return the bytes in all of them.

    Raises:
        ImageError: as `add_image`.
    """
    if ids == "range":
        from sandbox.images.ranged import unpack_ranged

        unpack_chain(store, layers, budget, progress=progress)
        return unpack_ranged(store, layers, progress=progress)
    return unpack_here(store, layers, budget, "", None, progress)


def unpack_here(store: Store, layers: tuple[Layer, ...], budget: Budget, suffix: str, owners: Owners | None, progress: Progress | None) -> int:
    """Unpack in this process; `suffix` names the form, `owners` says whose files are on the disk."""
    rooms = store.room("layers")
    below: list[Below] = []
    total = 0
    try:
        for number, layer in enumerate(layers, 1):
            what = f"layer {number} of {len(layers)}"
            name = layer.key + suffix
            directory = _open_layer(rooms, name)
            if directory is None:
                with Workshop(store) as made:
                    made.unpack(layer, LowerView(below[::-1]), budget, what, owners=owners, progress=progress)
                    _place(store, rooms, made.name, name)
                directory = os.open(name, DIRECTORY_FLAGS, dir_fd=rooms)
            try:
                facts = read_facts(directory, f"{store.path}/layers/{name}")
                if facts.diff_id != layer.diff_id:
                    raise ImageError(f"{what}: `{store.path}/layers/{name}` is another layer's", hint="`sandbox image verify --repair`")
                below.append(Below(root=os.open("tree", PATH_FLAGS | os.O_DIRECTORY, dir_fd=directory), facts=facts))
            finally:
                os.close(directory)
            total += facts.size_bytes
    finally:
        for each in below:
            os.close(each.root)
        os.close(rooms)
    return total


def read_left_out(store: Store, image: Image) -> dict[str, int]:
    """Return what an image's archives have and its trees have not, counted."""
    found: dict[str, int] = {}
    for layer in image.details:
        directory = os.open(f"layers/{layer.key}", DIRECTORY_FLAGS, dir_fd=store.fd)
        try:
            for what, count in read_facts(directory, f"{store.path}/layers/{layer.key}").left_out.items():
                found[what] = found.get(what, 0) + count
        finally:
            os.close(directory)
    return found


def _open_layer(rooms: int, name: str) -> int | None:
    try:
        return os.open(name, DIRECTORY_FLAGS, dir_fd=rooms)
    except FileNotFoundError:
        return None


class Workshop:
    """A layer that is being made beside the others, in the store's ``tmp``; a context manager, after which what was not renamed away goes with the store.

    `directory` and `tree` are descriptors of it, `name` is its name in ``tmp``.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.name = store.new_name()
        self.directory = make_new_directory(store.tmp, self.name)
        self.tree = make_new_directory(self.directory, "tree")
        self._trash = make_new_directory(store.tmp, store.new_name())
        self.facts = LayerFacts()

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for fd in (self.tree, self.directory, self._trash):
            os.close(fd)

    def unpack(
        self, layer: Layer, below: LowerView, budget: Budget, what: str, *, owners: Owners | None = None, progress: Progress | None = None
    ) -> None:
        """Unpack a layer's blob, and prove that it is the one that the configuration names.

        Raises:
            ImageError: it is not, or is refused.
        """
        _refuse_folded_names(self.directory)
        blob = self._store.open_blob(layer.blob)
        # Docker's archives say gzip of what is not packed, and the other way round: the bytes say better.
        stream = Unpacked(blob, packing_of(blob), budget, what)
        try:
            watched = _Watched(stream, what, layer.size_bytes, progress)
            self.facts = unpack_layer(watched, self.tree, self._trash, below, budget, what, owners=owners, needs_end=False)
            found = stream.drain()
            if found != layer.diff_id:
                raise ImageError(f"{what}: its content has the digest `{found}`, the configuration says `{layer.diff_id}`: it is damaged, or forged")
            self.facts.diff_id = found
            write_facts(self.directory, self.facts)
        except ImageError as error:
            raise copy_error(error, f"blob `{layer.blob}`") from None
        finally:
            stream.close()
            os.close(blob)


def _place(store: Store, rooms: int, made: str, name: str) -> None:
    """Rename a whole layer among the others; where another import was faster, ours goes with ``tmp``."""
    try:
        os.rename(made, name, src_dir_fd=store.tmp, dst_dir_fd=rooms)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def _refuse_folded_names(directory: int) -> None:
    """Refuse a file system that takes `A` and `a` for one name: an archive's two files would become one, and a link's name another's."""
    try:
        os.stat("TREE", dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    raise ImageError("the file system of the store does not tell `A` from `a`", hint="see SANDBOX_DATA_DIR in sandbox-image(1)")


def _blob_bytes(store: Store, digest: str, manifest: Manifest) -> int:
    """Return what an image's blobs take."""
    total = 0
    for each in {digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)}:
        fd = store.open_blob(each)
        total += os.fstat(fd).st_size
        os.close(fd)
    return total


class _Watched:
    """A stream that tells how far it is."""

    def __init__(self, stream: Unpacked, what: str, total: int, progress: Progress | None) -> None:
        self._stream = stream
        self._what = what
        self._total = total
        self._progress = progress
        self._told = -1

    def read(self, count: int) -> bytes:
        found = self._stream.read(count)
        if self._progress is not None and self._stream.given >> 20 != self._told:
            self._told = self._stream.given >> 20
            self._progress(f"unpack {self._what}", min(self._stream.taken, self._total or self._stream.taken), self._total)
        return found


__all__ = [
    "Workshop", "add_image", "chain_keys", "choose_manifest", "host_architecture", "needed_blobs", "parse_image", "read_left_out", "unpack_chain",
    "unpack_here",
]  # fmt: skip
