"""Runs on an image: which image a profile means, what it asks for, and whether it can be mounted. Imported by the run path only where there is one."""

from __future__ import annotations

import errno
import os

from sandbox.api import questions
from sandbox.api.questions import digest
from sandbox.errors import UnsupportedError
from sandbox.images.lookup import find_image, store_path
from sandbox.kernel.procfs import read_bytes
from sandbox.launch.trial import Trial, try_overlay
from sandbox.policy.profile import IdMode, OverlayMode
from sandbox.record import replace
from sandbox.rootfs.image import Layered, compose_image
from sandbox.store import cache_path, open_directory, read_entry, write_entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sandbox.api.prepare import Command
    from sandbox.images.model import Image
    from sandbox.plan.root import Overlay
    from sandbox.policy.profile import Profile


def find(profile: Profile, environ: Mapping[str, str]) -> Image:
    """Return the image that a profile names, as it is called now.

    Raises:
        PolicyError: there is none.
    """
    ids = "range" if profile.ids is IdMode.RANGE else "single"
    origin = dict(profile.origins).get("mounts.image")
    listener = questions.listening
    if listener is None:
        return find_image(profile.image, environ, ids=ids, origin=origin)
    image: Image = listener.aside(find_image)(profile.image, environ, ids=ids, origin=origin)
    _note_store(listener, store_path(environ), image)
    return image


def _note_store(listener: Any, store: str, image: Image) -> None:
    """Ask, by path, what decides about which image a name is, so that it is asked again before a stored launch is used."""
    os.stat(store).st_mode  # noqa: B018  # whose it is
    for name in os.listdir(f"{store}/names"):
        os.readlink(f"{store}/names/{name}")
    os.listdir(f"{store}/manifests")
    listener.look_at(f"{store}/manifests/{image.digest[7:]}")
    for layer in image.layers:
        os.lstat(layer).st_mode  # noqa: B018


def compose(image: Image, command: Command) -> Layered:
    """Return what the image makes of a command, see `compose_image`; without overlayfs a read-only tree, where the profile accepts that.

    Raises:
        PolicyError: there is nothing to run, or the image's user cannot be found.
        UnsupportedError: overlayfs is refused here, and nothing may stand in for it.
    """
    environ = command.environ or os.environ
    layered = compose_image(command.profile, layers=image.layers, config=image.config, argv=command.argv, entrypoint=command.entrypoint)
    listener = questions.listening
    if command.profile.ids is IdMode.RANGE:
        from sandbox.launch.idmap import outer_extents

        ask = outer_extents if listener is None else listener.aside(outer_extents)
        layered = replace(layered, maps=ask(os.geteuid(), 0, 0))
        if listener is not None and all(layered.maps):  # else there is no such run
            listener.look_at("/etc/subuid")
            listener.look_at("/etc/subgid")
    if listener is None:
        trial = recall_trial(layered.root, environ, command.executor)
    else:
        trial = listener.aside(recall_trial)(layered.root, environ, command.executor)
        listener.of_image(layered.environment, layered.argv[: len(layered.argv) - len(command.argv)])
        if trial.reason:
            listener.void = "overlayfs is refused"
    if not trial.reason:
        if not trial.mapped:
            layered = replace(layered, root=replace(layered.root, owner=-1), notes=(*layered.notes, NO_MAPS))
        return layered if trial.attributes else replace(layered, notes=(*layered.notes, NO_ATTRIBUTES))
    if command.profile.overlay is OverlayMode.REQUIRED:
        raise refused(trial, layered.root.why)
    from sandbox.images.flat import flat_copy

    flat = flat_copy(image, store_path(environ), [name for name, _ in layered.databases])
    weaker = f"overlayfs is refused ({trial.reason}): the image is read-only, with empty /tmp, /run and /var/tmp"
    return replace(layered, flat=flat, weaker=weaker, notes=(*layered.notes, f"{weaker} (`--require-overlay` refuses)"))


NO_ATTRIBUTES = (
    "this kernel keeps no extended attributes on a tmpfs (Linux 6.6 does): a directory of the image cannot be removed inside (EIO)"
)


NO_MAPS = "no id-mapped mounts here (overlayfs has them from Linux 5.19 on): what is root's in the image cannot be changed inside"


def refused(trial: Trial, needed_by: str) -> UnsupportedError:
    """Return the error for a run that cannot do without an overlay, with what mends it."""
    hint = overlay_hint(trial.errno) or "`sandbox doctor` tells what else is missing here"
    return UnsupportedError("an overlay mount in a user namespace (Linux 5.11)", needed_by, reason=trial.reason, hint=hint)


def overlay_hint(number: int) -> str | None:
    """Return what mends a refused overlay mount, as far as its errno tells."""
    return _HINTS.get(number)


_HINTS = {
    errno.ENODEV: "the kernel has no overlayfs: as root, `modprobe overlay`",
    errno.EPERM: "a kernel before 5.11, or a security module or an outer container that refuses mounts: use a newer one, or run outside of it",
    errno.EINVAL: (
        "a file system that cannot be a layer, or cannot hold changes (NFS, FUSE, another overlay), or has others mounted in it: set SANDBOX_DATA_DIR "
        "and SANDBOX_STATE_DIR to ext4, XFS or btrfs"
    ),
    errno.ENOMEM: "an option of overlayfs is longer than a page: use fewer layers",
}


def recall_trial(overlay: Overlay, environ: Mapping[str, str], executor: str = "auto") -> Trial:
    """Return whether an overlay of these directories can be mounted: from memory or from the cache where one could, since the boot, of these file systems.

    A refusal is not kept: what mends it counts from the next run on.
    """
    boot = read_bytes("/proc/sys/kernel/random/boot_id", 64) or b""
    host = os.uname()
    places = (*overlay.lowers, *filter(None, (overlay.upper,)))
    devices = sorted({os.stat(place).st_dev for place in places})
    key = digest(repr((boot, host.release, host.version, os.geteuid(), devices, overlay.upper is None, len(overlay.lowers))).encode()).hex()
    known = _known.get(key)
    if known is not None:
        return known
    directory = open_directory(cache_path(environ, "overlays"))
    try:
        content = read_entry(directory, key, 64) if directory is not None else None
        if content in _ENTRIES:
            found = _ENTRIES[content]
        else:
            found = try_overlay(overlay, executor=executor)
            if found.call and not found.call.startswith("mount overlay"):
                return Trial()  # it is something else that is refused, and the run will say so
            if not found.reason and directory is not None:
                write_entry(directory, key, next(text for text, trial in _ENTRIES.items() if trial == found))
    finally:
        if directory is not None:
            os.close(directory)
    if not found.reason:
        _known[key] = found
    return found


_ENTRIES = {
    b"ok\n": Trial(), b"no attributes\n": Trial(attributes=False), b"no maps\n": Trial(mapped=False), b"neither\n": Trial(attributes=False, mapped=False),
}  # fmt: skip
_known: dict[str, Trial] = {}


__all__ = ["NO_ATTRIBUTES", "compose", "find", "overlay_hint", "recall_trial", "refused"]
