"""Keeping an image for what stands on it when nothing runs: the kept changes of a run, whose lower layers are the image's.

A pin is a link in the store's ``pins``, whose name says what needs the image. Made while the image is held (`lookup.hold_image`), it cannot come too late.
"""

from __future__ import annotations

import os

from sandbox.errors import SandboxError, describe_errno
from sandbox.images.lookup import store_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.images.model import Image


def pin_image(image: Image, environ: Mapping[str, str], name: str) -> None:
    """Keep an image from being removed until `unpin_image`; pinning it again under the same name is no error.

    Args:
        image: that the caller holds.
        environ: for where the store is.
        name: of what needs it, such as ``changes-19abcdef012``; a file's name.

    Raises:
        SandboxError: the store cannot be written.
    """
    path = f"{store_path(environ)}/pins"
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        os.symlink(image.digest[7:], f"{path}/{name}")
    except FileExistsError:
        pass
    except OSError as error:
        raise SandboxError(f"pin image `{image.short_id}` in `{path}`: {describe_errno(error.errno or 0)}") from None


def unpin_image(environ: Mapping[str, str], name: str) -> None:
    """Let an image go; a pin that is not there is no error."""
    try:
        os.unlink(f"{store_path(environ)}/pins/{name}")
    except OSError:
        pass


__all__ = ["pin_image", "unpin_image"]
