"""From a name to an image of the store, by way of its registry. What `sandbox image pull` and the ``--pull`` of a run do."""

from __future__ import annotations

import os

from sandbox.errors import PolicyError, UnsupportedError
from sandbox.images.bounds import ImageError
from sandbox.images.chain import add_image
from sandbox.images.client import Client
from sandbox.images.lookup import find_image
from sandbox.images.reference import is_id, parse_reference
from sandbox.images.registry import find_remote
from sandbox.images.transfer import Transfer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox.images.model import Image
    from sandbox.images.store import Progress, Store

WHEN = ("missing", "never", "always")
"""When a run asks the registry for its image."""


def pull_image(
    store: Store, client: Client, reference: str, *, architecture: str = "", ids: str = "single", progress: Progress | None = None
) -> Image:
    """Bring an image from its registry into the store, unpack it and give it its name.

    Args:
        store: open for writing.
        client: of `client.find_client`.
        reference: ``debian:12``, ``localhost:5000/x@sha256:…``.
        architecture: OCI's word, ``arm64`` or ``arm/v7``; the machine's own where it is empty.
        ids: ``single``, or ``range`` for a second form with the caller's subordinate ids.
        progress: told what is done.

    Raises:
        PolicyError: the name has another form.
        ClientError: the registry could not or would not send it.
        ImageError: what it sent is not what it stands for, hostile, or too large. Layers that had arrived stay for the next try.
    """
    name = parse_reference(reference)
    what = f"pull `{name.familiar}`"
    directory = f"{os.readlink(f'/proc/self/fd/{store.tmp}')}/{store.new_name()}"
    try:
        os.mkdir(directory, 0o700)
        remote = find_remote(client, name, directory, architecture=architecture, bounds=store.bounds)
        Transfer(client, remote, store, directory, what, progress=progress).run()
    except OSError as error:
        raise ImageError(f"{what}: {error.strerror or error}", origin=store.path) from None
    try:
        return add_image(store, remote.digest, [str(name)], architecture=architecture, ids=ids, progress=progress)
    except UnsupportedError:
        raise
    except ImageError as error:
        raise ImageError(f"{what}: {error.message}", origin=error.origin, hint=error.hint) from None


def ensure_image(
    reference: str, environ: Mapping[str, str], pull: Callable[[], Image], *, when: str = "missing", ids: str = "single", origin: str | None = None
) -> Image:
    """Return an image for a run, from its registry where that is wanted.

    Args:
        reference: as `lookup.find_image` takes it; what may be the beginning of a digest is never asked for.
        environ: the caller's environment, for where the store is.
        pull: brings it.
        when: of `WHEN`: ``missing`` asks when the store does not have it, ``never`` and ``always`` as they say.
        ids: see `lookup.find_image`.
        origin: where the name was written, for messages.

    Raises:
        PolicyError: there is no such image in the store, and it may not or cannot be asked for.
        ImageError: see `pull_image`.
    """
    if when not in WHEN:
        raise PolicyError(f"`pull` is one of {', '.join(f'`{each}`' for each in WHEN)}, not `{when}`", origin=origin)
    if when != "always":
        try:
            return find_image(reference, environ, ids=ids, origin=origin)
        except PolicyError:
            if when == "never" or reference.startswith("sha256:") or is_id(reference):
                raise  # the beginning of a digest is no name of a stranger's image
    return pull()


__all__ = ["WHEN", "ensure_image", "pull_image"]
