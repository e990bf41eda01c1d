"""What the commands of ``sandbox image`` share: parsing, bounds, progress on a terminal, images as lines and as JSON."""

from __future__ import annotations

import os
import sys
import time

from sandbox.audit.events import escape_untrusted
from sandbox.cli import operands
from sandbox.cli.columns import short_size
from sandbox.cli.options import Option, UsageError
from sandbox.images.bounds import DEFAULT, Bounds, names_of_bounds
from sandbox.images.reference import parse_reference
from sandbox.record import replace
from sandbox.units import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from sandbox.images.model import Image

HELP = Option(name="help", short="h", help="this text")
JSON = Option(name="json", help="as JSON")
IDS = Option(name="ids", metavar="FORM", help="`single`, or `range`: its owners as your other ids", values=("single", "range"))
_BOUNDS = {
    "entries": ("COUNT", "files, directories and links in it"),
    "bytes": ("SIZE", "size of all its files"),
    "ratio": ("COUNT", "how much larger than packed"),
    "depth": ("COUNT", "names in a path"),
    "header_bytes": ("SIZE", "what an archive says of one file"),
    "document_bytes": ("SIZE", "a manifest or configuration"),
    "seconds": ("COUNT", "time that it may take"),
}
BOUNDS = tuple(
    Option(name=f"max-{name.replace('_', '-')}", metavar=_BOUNDS[name][0], help=f"{_BOUNDS[name][1]}; default {getattr(DEFAULT, name)}")
    for name in names_of_bounds()
)
_INTERVAL_S = 0.1
_WIDTH = 78


def parse(
    words: list[str], options: tuple[Option, ...], command: str, synopsis: str, text: str
) -> tuple[dict[str, list[str]], list[str]] | None:
    """See `operands.parse`."""
    return operands.parse(words, options, f"image {command}", synopsis, text)


def need(given: Sequence[str], least: int, most: int | None, what: str, command: str) -> None:
    """See `operands.need`."""
    operands.need(given, least, most, what, f"image {command}")


def read_bounds(options: dict[str, list[str]]) -> Bounds:
    """Return the bounds that the options of `BOUNDS` say.

    Raises:
        PolicyError: a size is none.
        UsageError: a count is none.
    """
    changed: dict[str, int] = {}
    for name in names_of_bounds():
        option = f"max-{name.replace('_', '-')}"
        if option in options:
            text = options[option][0]
            if _BOUNDS[name][0] == "SIZE":
                changed[name] = parse_size(text, where=f"option `--{option}`")
            elif text.isascii() and text.isdecimal() and len(text) < 12:
                changed[name] = int(text)
            else:
                raise UsageError(f"option `--{option}`: `{text}` is no number")
    return replace(DEFAULT, **changed)


def familiar(name: str) -> str:
    """Return a normalised name as people write it."""
    return parse_reference(name).familiar


def to_dict(image: Image) -> dict[str, object]:
    """Return an image as JSON has it."""
    config = image.config
    return {
        "names": list(image.names),
        "digest": image.digest,
        "config_digest": image.config_digest,
        "architecture": image.architecture,
        "os": image.os,
        "variant": image.variant,
        "created": image.created,
        "size_bytes": image.size_bytes,
        "unpacked_bytes": image.unpacked_bytes,
        "config": {
            "environment": dict(config.environment),
            "workdir": config.workdir,
            "user": config.user,
            "entrypoint": list(config.entrypoint),
            "command": list(config.command),
            "volumes": list(config.volumes),
            "labels": dict(config.labels),
            "ports": list(config.ports),
            "stop_signal": config.stop_signal,
        },
        "layers": [
            {
                "directory": directory, "diff_id": layer.diff_id, "blob": layer.blob, "media_type": layer.media_type, "size_bytes": layer.size_bytes,
            }
            for directory, layer in zip(reversed(image.layers), image.details, strict=True)
        ],
    }  # fmt: skip


class ProgressLine:
    """One line on a terminal's standard error that says what goes on, and goes again; nothing elsewhere. A context manager."""

    def __init__(self) -> None:
        self._shown = os.isatty(2) and os.environ.get("TERM") != "dumb"
        self._next = time.monotonic() + _INTERVAL_S
        self._written = False

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._written:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say that `done` of `total` bytes of something are done; 0 for a total that is not known."""
        if not self._shown or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _INTERVAL_S
        share = f" of {short_size(total)} ({100 * done // total} %)" if total else ""
        line = f"{escape_untrusted(what, _WIDTH - 30)}: {short_size(done)}{share}"
        sys.stderr.write(f"\r{line[:_WIDTH]}\x1b[K")
        sys.stderr.flush()
        self._written = True


def print_json(value: object) -> None:
    """Print a value as JSON."""
    import json

    print(json.dumps(value, indent=2))


def note(text: str) -> None:
    """Say something about an image on standard error, harmless for a terminal."""
    print(f"sandbox: {escape_untrusted(text, 4000)}", file=sys.stderr)


__all__ = [
    "BOUNDS", "HELP", "IDS", "JSON", "ProgressLine", "familiar", "need", "note", "parse", "print_json", "read_bounds", "to_dict",
]  # fmt: skip
