"""The store's entry of one image as text: a line for each fact, read without a parser that a run would have to import.

Only whole entries are ever seen under their name (`store` renames them there), and the directory is the caller's alone; what does not fit all the same
is refused, not guessed at. Pure.
"""

from __future__ import annotations

from sandbox.images.model import Image, ImageConfig, Layer
from sandbox.images.reference import is_digest

_FIRST, _LAST = "sandbox image 1", "end"
_PAIRS = ("env", "label")
_LISTS = ("env", "label", "entrypoint", "command", "volume", "port", "layer")
_ONES = (
    "manifest", "config", "architecture", "os", "variant", "created", "size", "unpacked", "workdir", "user", "stop-signal",
)  # fmt: skip


def encode_image(image: Image) -> bytes:
    """Return the entry of an image; its names and the directory that the store lies in are not part of it."""
    config = image.config
    lines: list[tuple[str, str]] = [
        ("manifest", image.digest),
        ("config", image.config_digest),
        ("architecture", image.architecture),
        ("os", image.os),
        ("variant", image.variant),
        ("created", image.created),
        ("size", str(image.size_bytes)),
        ("unpacked", str(image.unpacked_bytes)),
        ("workdir", config.workdir),
        ("user", config.user),
        ("stop-signal", config.stop_signal),
    ]
    lines += [("layer", f"{each.key} {each.diff_id} {each.blob} {each.size_bytes} {each.media_type}") for each in image.details]
    lines += [("env", f"{name}={value}") for name, value in config.environment]
    lines += [("label", f"{_escape_name(name)}={value}") for name, value in config.labels]
    for key, values in (
        ("entrypoint", config.entrypoint),
        ("command", config.command),
        ("volume", config.volumes),
        ("port", config.ports),
    ):
        lines += [(key, value) for value in values]
    text = "".join(f"{key} {_escape(value)}\n" for key, value in lines)
    return f"{_FIRST}\n{text}{_LAST}\n".encode("utf-8", "surrogatepass")


def decode_image(content: bytes, names: tuple[str, ...], directory: str, suffix: str = "") -> Image:
    """Return the image of an entry.

    Args:
        content: of `encode_image`.
        names: what it is called.
        directory: where unpacked layers are, resolved.
        suffix: of the form of layers that is wanted: "" or ``.range``.

    Raises:
        ValueError: it is no whole entry.
    """
    lines = content.decode("utf-8", "surrogatepass").split("\n")
    if lines[0] != _FIRST or lines[-2:] != [_LAST, ""]:
        raise ValueError("it is cut off or of another version")
    ones: dict[str, str] = dict.fromkeys(_ONES, "")
    many: dict[str, list[str]] = {key: [] for key in _LISTS}
    for line in lines[1:-2]:
        key, space, value = line.partition(" ")
        value = _unescape(value) if "\\" in value else value
        if not space or (key not in ones and key not in many):
            raise ValueError(f"line `{line[:80]}` is unknown")
        if key in ones:
            ones[key] = value
        else:
            many[key].append(value)
    details = tuple([_layer(text) for text in many["layer"]])
    if not is_digest(ones["manifest"]) or not is_digest(ones["config"]):
        raise ValueError("it names no manifest or no configuration")
    return Image(
        digest=ones["manifest"],
        names=names,
        architecture=ones["architecture"],
        config=ImageConfig(
            environment=tuple([_pair(text) for text in many["env"]]),
            workdir=ones["workdir"],
            user=ones["user"],
            entrypoint=tuple(many["entrypoint"]),
            command=tuple(many["command"]),
            volumes=tuple(many["volume"]),
            labels=tuple([(_unescape_name(name), value) for name, value in map(_pair, many["label"])]),
            ports=tuple(many["port"]),
            stop_signal=ones["stop-signal"],
        ),
        layers=tuple([f"{directory}/{layer.key}{suffix}/tree" for layer in reversed(details)]),
        size_bytes=int(ones["size"]),
        unpacked_bytes=int(ones["unpacked"]),
        os=ones["os"],
        variant=ones["variant"],
        created=ones["created"],
        config_digest=ones["config"],
        details=details,
    )


def _layer(text: str) -> Layer:
    key, diff_id, blob, size, media_type = text.split(" ", 4)
    if not is_digest(f"sha256:{key}") or not is_digest(diff_id) or not is_digest(blob):
        raise ValueError(f"layer `{text[:80]}` is none")
    return Layer(key=key, diff_id=diff_id, blob=blob, media_type=media_type, size_bytes=int(size))


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _unescape(text: str) -> str:
    return "\\".join(part.replace("\\n", "\n") for part in text.split("\\\\"))


def _escape_name(text: str) -> str:
    return text.replace("%", "%25").replace("=", "%3D")


def _unescape_name(text: str) -> str:
    return text.replace("%3D", "=").replace("%25", "%")


__all__ = ["decode_image", "encode_image"]
