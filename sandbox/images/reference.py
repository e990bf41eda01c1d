"""Names of images as registries and container tools have them: parsed, checked, normalised. Pure, no regular expressions: a run imports it.

``debian:12`` is short for ``docker.io/library/debian:12``. Source: distribution's reference grammar, docs of containers/image.
"""

from __future__ import annotations

from sandbox.errors import PolicyError
from sandbox.record import dataclass

_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_WORD = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_HEX = frozenset("0123456789abcdef")
_DOCKER = "docker.io"
_MAXIMUM_TAG = 128
MAXIMUM_LENGTH = 255
"""Characters of a normalised reference, which is the name of a file of the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A normalised name: `domain` (``docker.io``, ``localhost:5000``), `path` (``library/debian``), `tag` and `digest`, either of which may be empty."""

    domain: str
    path: str
    tag: str
    digest: str

    @property
    def repository(self) -> str:
        """The name without tag and digest."""
        return f"{self.domain}/{self.path}"

    def __str__(self) -> str:
        return self.repository + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def familiar(self) -> str:
        """The short form that people write: ``debian:12``."""
        text = str(self)
        if self.domain != _DOCKER or _is_domain(self.path.partition("/")[0]):
            return text
        first, _, rest = self.path.partition("/")
        short = rest if first == "library" and rest and "/" not in rest else self.path
        return short + text[len(self.repository) :]


def parse_reference(text: str, *, origin: str | None = None) -> Reference:
    """Read ``[DOMAIN/]PATH[:TAG][@sha256:HEX]``; the tag is ``latest`` where neither is given.

    Args:
        text: what somebody wrote.
        origin: where, for the message.

    Raises:
        PolicyError: it has another form; the message says which part.
    """

    def refuse(reason: str, hint: str | None = None) -> PolicyError:
        return PolicyError(f"image name `{text[:300]}`: {reason}", origin=origin, hint=hint)

    if not text:
        raise refuse("it is empty")
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise refuse("after `@` there must be `sha256:` and 64 lower-case hexadecimal digits")
    head, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":")
    if colon and not is_tag(tag):
        raise refuse(f"tag `{tag}` must be 1 to {_MAXIMUM_TAG} of letters, digits, `_`, `.` and `-`, not beginning with `.` or `-`")
    name = head + slash + last
    first, slash, rest = name.partition("/")
    if slash and _is_domain(first):
        domain, path = first, rest
    else:
        domain, path = _DOCKER, name
    if domain == "index.docker.io":
        domain = _DOCKER
    if domain == _DOCKER and path and "/" not in path:
        path = f"library/{path}"
    if not _valid_domain(domain):
        raise refuse(f"`{domain}` is no host name with an optional port")
    for part in path.split("/"):
        if not _valid_part(part):
            lower = path.lower()
            hint = f"`{lower}` would be one" if lower != path and all(map(_valid_part, lower.split("/"))) else None
            reason = f"`{part}` must be of lower-case letters and digits, with `.`, `_`, `__` or `-` between them" if part else "a part of it is empty"
            raise refuse(reason, hint)
    found = Reference(domain=domain, path=path, tag=tag if colon or at else "latest", digest=digest)
    if len(str(found)) > MAXIMUM_LENGTH:
        raise refuse(f"it is longer than {MAXIMUM_LENGTH} characters")
    return found


def is_digest(text: str) -> bool:
    """Whether a text is ``sha256:`` and 64 lower-case hexadecimal digits; nothing else ever becomes the name of a blob."""
    return len(text) == 71 and text.startswith("sha256:") and _HEX.issuperset(text[7:])


def is_tag(text: str) -> bool:
    """Whether a text is a tag."""
    return 0 < len(text) <= _MAXIMUM_TAG and text[0] in _WORD and all(each in _WORD or each in ".-" for each in text)


def is_id(text: str) -> bool:
    """Whether a text may be the beginning of an image's digest: four or more hexadecimal digits, after ``sha256:`` or alone."""
    digits = text.removeprefix("sha256:")
    return 4 <= len(digits) <= 64 and _HEX.issuperset(digits)


def _is_domain(part: str) -> bool:
    return "." in part or ":" in part or part == "localhost" or part != part.lower()


def _valid_domain(text: str) -> bool:
    if text.startswith("["):  # an IPv6 address
        host, bracket, port = text[1:].partition("]")
        if not bracket or not host or not _HEX.issuperset(host.lower().replace(":", "")):
            return False
        return not port or (port[0] == ":" and port[1:].isascii() and port[1:].isdecimal())
    host, colon, port = text.partition(":")
    if colon and not (port.isascii() and port.isdecimal()):
        return False
    return all(
        part and part.isascii() and part.replace("-", "").isalnum() and part[0] != "-" and part[-1] != "-" for part in host.split(".")
    )


def _valid_part(part: str) -> bool:
    if not part or part[0] not in _LOWER or part[-1] not in _LOWER:
        return False
    separator = ""
    for each in part:
        if each in _LOWER:
            if separator and separator not in (".", "_", "__") and separator.strip("-"):
                return False
            separator = ""
        elif each in "._-":
            separator += each
        else:
            return False
    return True


__all__ = ["MAXIMUM_LENGTH", "Reference", "is_digest", "is_id", "is_tag", "parse_reference"]
