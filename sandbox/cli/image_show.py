"""``sandbox image show``: everything that the store knows of an image."""

from __future__ import annotations

from sandbox.audit.events import escape_untrusted
from sandbox.cli.columns import short_size
from sandbox.cli.image_text import HELP, JSON, familiar, need, parse, print_json, to_dict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.model import Image

OPTIONS = (JSON, HELP)
_LENGTH = 2000


def run(words: list[str]) -> int:
    """Show images."""
    parsed = parse(words, OPTIONS, "show", "[--json] IMAGE...", "Show what an image is, how it wants to be run, and where its layers are.")
    if parsed is None:
        return 0
    options, operands = parsed
    need(operands, 1, None, "which image", "show")
    from sandbox.api import images

    found = [images.show(name) for name in operands]
    if "json" in options:
        print_json([to_dict(image) for image in found])
        return 0
    print("\n\n".join("\n".join(_lines(image)) for image in found))
    return 0


def _lines(image: Image) -> list[str]:
    config = image.config
    facts: list[tuple[str, str]] = [("name", familiar(name)) for name in image.names]
    facts += [
        ("digest", image.digest),
        ("platform", "/".join(filter(None, (image.os, image.architecture, image.variant)))),
        ("created", image.created),
        ("size", f"{short_size(image.unpacked_bytes)} in files, {short_size(image.size_bytes)} in archives"),
        ("user", config.user),
        ("workdir", config.workdir),
        ("entrypoint", repr(list(config.entrypoint)) if config.entrypoint else ""),
        ("command", repr(list(config.command)) if config.command else ""),
        ("stop signal", config.stop_signal),
        *(("env", f"{name}={value}") for name, value in config.environment),
        *(("volume", path) for path in config.volumes),
        *(("port", port) for port in config.ports),
        *(("label", f"{name}={value}") for name, value in config.labels),
        *(("layer", f"{layer.diff_id}  {short_size(layer.size_bytes)}") for layer in image.details),
    ]
    return [f"{name:<13}{escape_untrusted(text, _LENGTH)}" for name, text in facts if text]
