"""``sandbox image commit``: a new image of what a run wrote over an image."""

from __future__ import annotations

from sandbox.cli.image_text import HELP, JSON, familiar, need, parse, print_json, to_dict
from sandbox.cli.options import Option, UsageError

OPTIONS = (
    Option(name="owner", metavar="UID:GID", help="whose everything is that the run made; default 0:0"),
    Option(name="env", short="e", metavar="NAME=VALUE", many=True, help="a variable"),
    Option(name="label", metavar="NAME=VALUE", many=True, help="a label"),
    Option(name="workdir", short="w", metavar="DIR", help="where programs start"),
    Option(name="user", short="u", metavar="USER", help="who they are: NAME, UID, or either with :GROUP"),
    Option(name="entrypoint", metavar="WORDS", help="words before every command, or a JSON array"),
    Option(name="command", short="c", metavar="WORDS", help="what runs without one"),
    Option(name="quiet", short="q", help="print the digest only"),
    JSON,
    HELP,
)
_TEXT = """Make an image of a kept run: that of its image, with one layer more of what the
run changed. RUN is its id or a snapshot, see sandbox-changes(1); it was made by
`sandbox exec --image IMAGE --keep`. It is kept afterwards, too."""


def run(words: list[str]) -> int:
    """Commit a run."""
    parsed = parse(words, OPTIONS, "commit", "[OPTION...] RUN NAME", _TEXT)
    if parsed is None:
        return 0
    options, operands = parsed
    need(operands, 2, 2, "which run, and what to call the image", "commit")
    from sandbox.api.changes import find_kept
    from sandbox.api.commit import commit_run
    from sandbox.cli.image_import import read_changes

    uid, colon, gid = options.get("owner", ["0:0"])[0].partition(":")
    if not (colon and uid.isdecimal() and gid.isdecimal() and int(uid) < 1 << 31 and int(gid) < 1 << 31):
        raise UsageError(f"option `--owner {options['owner'][0]}` is not UID:GID", hint="for example `--owner 1000:1000`")
    image = commit_run(find_kept(operands[0]), operands[1], changes=read_changes(options), owner=(int(uid), int(gid)))
    if "json" in options:
        print_json([to_dict(image)])
    elif "quiet" in options:
        print(image.digest)
    else:
        print(f"{', '.join(map(familiar, image.names)) or '-'}  {image.digest}")
    return 0
