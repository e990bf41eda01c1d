"""Names of images: only `PolicyError` comes out, what is accepted is what the published grammar accepts, and a name written out is read as itself."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz import engine

with engine.instrumented(__name__ == "__main__"):
    from fuzz.choose import Bytes
    from sandbox.errors import PolicyError
    from sandbox.images.reference import MAXIMUM_LENGTH, parse_reference

DIGEST = "sha256:" + "0123456789abcdef" * 4
PARTS = (
    "debian", "library/debian", "docker.io/", "index.docker.io/", "localhost", "localhost:5000/", "127.0.0.1:5000/", "[::1]:5000/", "[fe80::1]/",
    "registry.example.com/", "EXAMPLE.com/", "a", "a/b/c", "x__y", "x_y", "x---y", "x.y", "x..y", "x_._y", "..", "../..", "/", "//", ":", "@", ":12",
    ":latest", ":v1.2-rc_3", ":-x", ":" + "t" * 128, ":" + "t" * 129, "@" + DIGEST, "@sha256:0", "@SHA256:" + "0" * 64, DIGEST, "é", "\0", "\n", " ",
    "a" * 256, "A", "%2f", "+", "?", "#", "\u0130",
)  # fmt: skip
WORDS = PARTS
SEEDS = tuple(b"\0" + word.encode() for word in PARTS) + tuple(bytes((1, *range(seed, seed + 12))) for seed in range(0, 240, 12))

# The grammar as distribution's documents have it (reference grammar), as one pattern a part; written apart from the product's own reading.
_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PATH_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(
    rf"(?:(?P<domain>{_DOMAIN})/)?(?P<path>{_PATH_PART}(?:/{_PATH_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


def one_input(data: bytes) -> str:
    """Read one name."""
    kind, rest = data[:1], data[1:]
    if kind and kind[0] & 1:
        chooser = Bytes(rest)
        text = "".join(chooser.pick(PARTS) for _ in range(chooser.integer(1, 5)))
    else:
        text = rest.decode("utf-8", "surrogateescape")
    try:
        found = parse_reference(text)
    except PolicyError as error:
        assert error.message and not error.message.endswith(".")
        assert not _expected(text), f"refused, the grammar accepts it: {text!r}: {error.message}"
        return "refused: " + re.sub(r"`[^`]*`|\d+", "…", error.message)
    assert _expected(text), f"accepted, the grammar refuses it: {text!r}: {found}"
    again = parse_reference(str(found))
    assert again == found, f"{text!r}: {found} is read as {again}"
    assert parse_reference(found.familiar) == found, f"{text!r}: {found.familiar} is not {found}"
    assert len(str(found)) <= MAXIMUM_LENGTH and "/" in str(found) and ".." not in str(found).replace(found.tag, "").split("/")
    assert found.tag or found.digest
    kinds = " ".join(word for word, has in (("tag", found.tag), ("digest", found.digest), ("port", ":" in found.domain)) if has)
    return f"accepted: {len(found.path.split('/'))} parts, {kinds}"


def _expected(text: str) -> bool:
    """Tell whether the grammar accepts a name; where the first part might be a host or a path, hosts are told as container tools tell them."""
    match = _NAME.fullmatch(text)
    if match is None or not text.isascii():
        return False
    name = text.partition("@")[0]
    head, slash, last = name.rpartition("/")
    name = head + slash + last.partition(":")[0]
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        domain, path = first, rest
    else:
        domain, path = "docker.io", name
    if re.fullmatch(_DOMAIN, domain) is None or re.fullmatch(rf"{_PATH_PART}(?:/{_PATH_PART})*", path) is None:
        return False
    domain = "docker.io" if domain == "index.docker.io" else domain
    if domain == "docker.io" and "/" not in path:
        path = "library/" + path
    tag, digest = match["tag"], match["digest"]
    whole = f"{domain}/{path}" + (f":{tag}" if tag else "" if digest else ":latest") + (f"@{digest}" if digest else "")
    return len(whole) <= MAXIMUM_LENGTH


if __name__ == "__main__":
    engine.main("image_reference", one_input, SEEDS, WORDS)
