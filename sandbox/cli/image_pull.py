"""``sandbox image pull``: an image from a registry into the store."""

from __future__ import annotations

from sandbox.cli.image_text import BOUNDS, HELP, IDS, JSON, ProgressLine, familiar, need, note, parse, print_json, read_bounds, to_dict
from sandbox.cli.options import Option, UsageError
from sandbox.units import parse_duration

OPTIONS = (
    Option(name="arch", metavar="ARCH", help="which, where there are several, such as amd64", values=("amd64", "arm64")),
    IDS,
    Option(name="authfile", metavar="FILE", help="credentials, as `skopeo login` writes them", values=("@files",)),
    Option(name="tls-verify", metavar="BOOL", help="false: plain HTTP and unknown certificates will do", values=("true", "false")),
    Option(name="stall", metavar="TIME", help="give up when nothing much comes; default 60s"),
    *BOUNDS,
    Option(name="quiet", short="q", help="print the digest only"),
    JSON,
    HELP,
)
_TEXT = """Pull images from their registries with skopeo, checked byte by byte against
their digests. What the store has is not asked for again. Nothing in an image is
trusted; see sandbox-image(1)."""
_SHORTEST_NS = 1_000_000_000


def run(words: list[str]) -> int:
    """Pull images."""
    parsed = parse(words, OPTIONS, "pull", "[OPTION...] IMAGE...", _TEXT)
    if parsed is None:
        return 0
    options, operands = parsed
    need(operands, 1, None, "which image", "pull")
    verify = options.get("tls-verify", ["true"])[0]
    if verify not in ("true", "false"):
        raise UsageError(f"option `--tls-verify`: `{verify}` is neither `true` nor `false`")
    stall_ns = parse_duration(options.get("stall", ["60s"])[0], where="option `--stall`")
    if stall_ns < _SHORTEST_NS:
        raise UsageError("option `--stall`: less than a second")
    from sandbox.api import images

    done = []
    for operand in operands:
        with ProgressLine() as progress:
            image = images.pull(
                operand,
                architecture=options.get("arch", [""])[0],
                ids=options.get("ids", ["single"])[0],
                tls_verify=verify == "true",
                authfile=options.get("authfile", [None])[0],
                stall_ns=stall_ns,
                bounds=read_bounds(options),
                progress=progress,
            )
        done.append(image)
        if "json" in options:
            continue
        if verify == "false" and not images.is_loopback(operand):
            note(f"{operand}: nobody vouches for the registry, only digests for what it sent")
        print(image.digest if "quiet" in options else f"{', '.join(map(familiar, image.names))}  {image.digest}")
    if "json" in options:
        print_json([to_dict(image) for image in done])
    return 0
