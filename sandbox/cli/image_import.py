"""``sandbox image import``: an image out of a directory or an archive into the store."""

from __future__ import annotations

from sandbox.cli.image_text import BOUNDS, HELP, IDS, JSON, ProgressLine, familiar, need, note, parse, print_json, read_bounds, to_dict
from sandbox.cli.options import Option, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.images.compose import ConfigChanges

OPTIONS = (
    Option(name="name", short="n", metavar="NAME", many=True, help="what to call it, such as debian:12"),
    Option(name="kind", metavar="KIND", help="what the source is; default: what it looks like", values=("auto", "oci", "docker", "rootfs")),
    Option(name="ref", metavar="REF", help="which image, where there are several"),
    Option(name="arch", metavar="ARCH", help="which, where there are several, such as amd64", values=("amd64", "arm64")),
    IDS,
    Option(name="env", short="e", metavar="NAME=VALUE", many=True, help="for a root file system: a variable"),
    Option(name="label", metavar="NAME=VALUE", many=True, help="a label"),
    Option(name="workdir", short="w", metavar="DIR", help="where programs start"),
    Option(name="user", short="u", metavar="USER", help="who they are: NAME, UID, or either with :GROUP"),
    Option(name="entrypoint", metavar="WORDS", help="words before every command, or a JSON array"),
    Option(name="command", short="c", metavar="WORDS", help="what runs without one; default /bin/sh"),
    *BOUNDS,
    Option(name="quiet", short="q", help="print the digest only"),
    JSON,
    HELP,
)
_TEXT = """Import a root file system (a directory, or a tar archive, packed or not), an OCI
layout (a directory or an archive), or an archive of `docker save`. SOURCE may
be - for standard input. Nothing in it is trusted; see sandbox-image(1)."""


def run(words: list[str]) -> int:
    """Import a source."""
    parsed = parse(words, OPTIONS, "import", "[OPTION...] SOURCE", _TEXT)
    if parsed is None:
        return 0
    options, operands = parsed
    need(operands, 1, 1, "what to import", "import")
    from sandbox.api.images import import_all
    from sandbox.images.importing import Request, SourceKind
    from sandbox.images.reference import parse_reference

    kind, ids = options.get("kind", ["auto"])[0], options.get("ids", ["single"])[0]
    if kind not in tuple(SourceKind):
        raise UsageError(f"option `--kind`: unknown kind `{kind}`; known: {', '.join(SourceKind)}")
    if ids not in ("single", "range"):
        raise UsageError(f"option `--ids`: unknown form `{ids}`; known: single, range")
    request = Request(
        path=operands[0],
        names=tuple(parse_reference(name, origin="option `--name`") for name in options.get("name", ())),
        kind=SourceKind(kind),
        ref=options.get("ref", [""])[0],
        architecture=options.get("arch", [""])[0],
        ids=ids,
        changes=read_changes(options),
    )
    with ProgressLine() as progress:
        done = import_all(request, bounds=read_bounds(options), progress=progress)
    if "json" in options:
        print_json([to_dict(each.image) | {"notes": list(each.notes)} for each in done])
        return 0
    for each in done:
        if "quiet" in options:
            print(each.image.digest)
            continue
        print(f"{', '.join(map(familiar, each.image.names)) or '-'}  {each.image.digest}")
        for text in each.notes:
            note(text)
    return 0


def read_changes(options: dict[str, list[str]]) -> ConfigChanges:
    """Return the changes of a configuration that options ask for."""
    from sandbox.images.compose import ConfigChanges

    workdir = options.get("workdir", [None])[0]
    if workdir is not None and not workdir.startswith("/"):
        raise UsageError(f"option `--workdir`: `{workdir}` must be an absolute path")
    return ConfigChanges(
        environment=_pairs(options, "env"),
        labels=_pairs(options, "label"),
        workdir=workdir,
        user=options.get("user", [None])[0],
        entrypoint=_words(options, "entrypoint"),
        command=_words(options, "command"),
    )


def _pairs(options: dict[str, list[str]], name: str) -> tuple[tuple[str, str], ...]:
    found = []
    for text in options.get(name, ()):
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"option `--{name}`: `{text}` is not of the form NAME=VALUE")
        found.append((key, value))
    return tuple(found)


def _words(options: dict[str, list[str]], name: str) -> tuple[str, ...] | None:
    if name not in options:
        return None
    text = options[name][0]
    if text.startswith("["):
        import json

        try:
            found = json.loads(text)
        except ValueError as error:
            raise UsageError(f"option `--{name}`: {error}") from None
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise UsageError(f"option `--{name}`: a JSON array of texts is wanted")
        return tuple(found)
    import shlex

    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"option `--{name}`: {error}") from None
