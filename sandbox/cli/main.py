"""The `sandbox` command: choose the verb, print errors in the house's form, return the exit code."""

from __future__ import annotations

import os
import sys

from sandbox.errors import SandboxError

VERBS = {
    "exec": "run a command in a sandbox",
    "ps": "list the running sandboxes",
    "top": "the running sandboxes, live",
    "stats": "what running sandboxes use",
    "pause": "stop a running sandbox for a while",
    "resume": "let a paused sandbox go on",
    "kill": "end a running sandbox, all of it",
    "changes": "what kept runs changed: list them, or show one",
    "apply": "make a kept run's changes in the original",
    "discard": "let a kept run's changes, or a snapshot, go",
    "snapshot": "give a kept run a name to go on from",
    "doctor": "what of this host works, and what would fix the rest",
    "profiles": "list profiles, or show one",
    "policies": "list policies, or show one",
    "policy": "check, explain, test, compare and write policies",
    "image": "bring images in, list, verify and remove them",
    "volume": "make, list and remove named volumes",
    "judge": "judge submissions of problem packages",
    "completion": "print a completion script for bash, zsh or fish",
}

_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code: the payload's own, or 125 (126, 127) for ours."""
    words = sys.argv[1:] if argv is None else argv
    _open_standard_streams()
    try:
        return _dispatch(words)
    except SandboxError as error:
        print(error_text(error), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        else:
            name = f" `{error.filename}`" if error.filename else ""
            print(f"error: {error.strerror or error}{name}", file=sys.stderr)
        return 125
    except Exception as error:  # nobody should read a traceback to learn that nothing ran
        if os.environ.get("SANDBOX_DEBUG"):
            raise
        print(
            f"error: bug: {type(error).__name__}: {str(error)!a}\n\nhint: please report it, with the traceback of SANDBOX_DEBUG=1",
            file=sys.stderr,
        )
        return 125


def error_text(error: SandboxError) -> str:
    """Return an error's text with every name in it escaped: a file called ``x\\n\\nhint: …`` must not give advice."""
    from sandbox.audit.events import escape_untrusted

    lines = [f"error: {escape_untrusted(error.message, 4000)}"]
    if error.origin:
        lines += ["  " + escape_untrusted(line, 4000) for line in error.origin.split("\n")]
    if error.hint:
        lines += ["", "hint: " + escape_untrusted(error.hint, 4000)]
    return "\n".join(lines)


def _open_standard_streams() -> None:
    """A caller may have closed 0, 1 or 2; a pipe of ours must not become somebody's standard error."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            # The interpreter has None there, and what is printed to None goes to standard output, among the payload's.
            setattr(sys, name, open(fd, "w" if fd else "r", closefd=False))


def _dispatch(words: list[str]) -> int:
    from sandbox.cli.options import UsageError

    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else 125
    if words[0] in ("-V", "--version"):
        from sandbox import __version__

        print(f"sandbox {__version__}")
        return 0
    verb, rest = words[0], words[1:]
    if verb != "exec":
        from sandbox.cli.start import complete_path

        complete_path()
    match verb:
        case "exec":
            from sandbox.cli import exec as exec_verb

            return exec_verb.run(rest)
        case "ps" | "stats" | "pause" | "resume" | "kill":
            from sandbox.cli import ps

            act = {"ps": ps.ps, "stats": ps.stats, "pause": ps.pause, "resume": ps.resume, "kill": ps.kill}[verb]
            return act(rest)
        case "changes" | "apply" | "discard" | "snapshot":
            from sandbox.cli import changes

            return {"changes": changes.changes, "apply": changes.apply, "discard": changes.discard, "snapshot": changes.snapshot}[verb](rest)
        case "top":
            from sandbox.cli import top

            return top.run(rest)
        case "doctor":
            from sandbox.cli import doctor

            return doctor.run(rest)
        case "profiles":
            from sandbox.cli import listing

            return listing.profiles(rest)
        case "policies":
            from sandbox.cli import listing

            return listing.policies(rest)
        case "policy":
            from sandbox.cli import policy

            return policy.run(rest)
        case "image":
            from sandbox.cli import image

            return image.run(rest)
        case "volume":
            from sandbox.cli import volume

            return volume.run(rest)
        case "judge":
            from sandbox.cli import judge

            return judge.run(rest)
        case "completion":
            from sandbox.cli import completion

            return completion.run(rest)
        case _:
            from difflib import get_close_matches

            close = get_close_matches(verb, VERBS, n=1)
            hint = f"did you mean `sandbox {close[0]}`?" if close else "see `sandbox --help`; to run a command: `sandbox exec -- COMMAND`"
            raise UsageError(f"unknown verb `{verb}`", hint=hint)


def _help() -> str:
    lines = ["usage: sandbox VERB [OPTION...]", "", "Run untrusted programs in rootless containers.", ""]
    lines += [f"  {verb:<12}{text}" for verb, text in VERBS.items()]
    lines += ["", "  sandbox exec --profile strict -- python3 script.py", "", "`sandbox VERB --help` tells more."]
    return "\n".join(lines)
