"""``sandbox exec``: run one command and end as it ended."""

from __future__ import annotations

import os
import sys

from sandbox.cli.options import Option, UsageError, format_options, parse_options
from sandbox.errors import PolicyError, SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.api.finish import Finished
    from sandbox.api.keeping import CowRequest
    from sandbox.api.prepare import Prepared
    from sandbox.api.volumes import Opened
    from sandbox.audit.events import Event
    from sandbox.audit.sinks import Sink, SinkReport
    from sandbox.cli.result_file import ResultFile
    from sandbox.policy.profile import Profile

OUR_FAILURE = 125
OPTIONS = (
    Option(name="profile", short="p", metavar="NAME", help="profile by name or path (default: default)", values=("@profiles",)),
    Option(name="policy", metavar="NAME", help="another syscall policy than the profile's", values=("@policies",)),
    Option(
        name="volume", short="v", metavar="SRC[:DST][:ro|rw]", help="share a path, or NAME:DST a named volume",
        many=True, values=("@files", "@volumes"),
    ),
    Option(name="tmpfs", metavar="DST[:size=SIZE]", help="an empty file system in memory (64M)", many=True),
    Option(name="env", short="e", metavar="NAME[=VALUE]", help="set a variable, or pass the caller's", many=True),
    Option(name="cwd", metavar="ro|rw|no", help="how the working directory is shared", values=("ro", "rw", "no")),
    Option(name="image", short="i", metavar="IMAGE", help="an image of the store is its system"),
    Option(name="pull", metavar="WHEN", help="ask its registry: never, missing, always", values=("missing", "never", "always")),
    Option(name="entrypoint", metavar="COMMAND", help="in the place of the image's; empty for none"),
    Option(name="require-overlay", help="refuse a read-only copy in its place"),
    Option(name="cow", metavar="DIR", help="it may write there, and DIR stays as it is", many=True, values=("@files",)),
    Option(name="cow-size", metavar="SIZE", help="how much it may write there (default: 4G)"),
    Option(name="cow-tmpfs", help="keep what it writes there in memory only"),
    Option(name="keep", help="keep what it writes over the image, too"),
    Option(name="resume", metavar="RUN", help="go on from a kept run or a snapshot of one"),
    Option(name="network", metavar="none|loopback", help="what the run's own network has", values=("none", "loopback")),
    Option(
        name="machine-view", metavar="off|static|live", help="whose processors and memory programs see", values=("off", "static", "live")
    ),
    Option(name="limit", short="l", metavar="KEY=VALUE", help="such as wall=10s, memory=64M, processes=8", many=True),
    Option(name="name", metavar="NAME", help="what `sandbox ps` and its kin call it"),
    Option(name="require-cgroup", help="refuse where rlimits would stand in for it"),
    Option(name="audit", metavar="FILE", help="append denied syscalls here as JSON lines", values=("@files",)),
    Option(name="no-audit", help="refuse in the kernel, record nothing"),
    Option(name="result", metavar="FILE", help="write verdict, evidence and usage as JSON", values=("@files",)),
    Option(name="dry-run", metavar="[=json|syscalls]", help="print the plan and run nothing", values=("json", "syscalls")),
    Option(name="tty", short="t", help="a terminal of its own (default on a terminal)"),
    Option(name="no-tty", help="pipes even on a terminal"),
    Option(name="quiet", short="q", help="no summary line on stderr"),
    Option(name="no-cache", help="prepare the launch anew, and do not store it"),
    Option(name="executor", metavar="KIND", help="auto, native, or python (the reference)", values=("auto", "native", "python")),
    Option(name="help", short="h", help="this text"),
)


def run(words: list[str]) -> int:
    """Run the verb; returns the payload's exit code, or raises a SandboxError for ours."""
    options, argv = parse_options(words, OPTIONS, "exec")
    if "help" in options:
        print("usage: sandbox exec [OPTION...] [--] COMMAND [ARGUMENT...]\n       sandbox exec [OPTION...] --image IMAGE [-- [COMMAND] [ARGUMENT...]]\n")
        print("\n".join(format_options(OPTIONS)))
        print(
            "\nExit code: the command's own, 128+n for signal n; 125 the sandbox failed,\n"
            "126 not executable, 127 not found. More: sandbox-exec(1), sandbox-profile(5)."
        )
        return 0
    if not argv and "image" not in options and "profile" not in options:
        raise _no_command()
    _check(options)
    cwd = _working_directory()
    if "dry-run" in options:
        return _dry_run(_prepare(options, argv, cwd), options["dry-run"][0])
    entry = _entry_name(options, argv, cwd)
    if not entry:
        return _execute(_prepare(options, argv, cwd), options)
    from sandbox.api.stored import Command, recall

    command = Command(
        argv=tuple(argv), audit="no-audit" not in options, interactive=_is_interactive(options), executor=options.get("executor", ["auto"])[0],
        name=options.get("name", [""])[0],
    )  # fmt: skip
    loaded = sys.modules.get("sandbox.cli.modules")
    stored = recall(entry, command, os.environ, lambda: _prepare(options, argv, cwd), loaded.checked if loaded is not None else ())
    if stored is not None:
        code = _execute(stored.as_prepared(), options)
        if loaded is not None and not loaded.loaded:
            loaded.keep_modules(os.environ)
        return code
    from sandbox.api.storing import keep, listen

    prepared, noted = listen(lambda: _prepare(options, argv, cwd))
    code = _execute(prepared, options)
    if noted is not None:
        keep(entry, prepared, noted, os.environ)
    return code


def _no_command() -> UsageError:
    return UsageError("no command given", hint="`sandbox exec --profile strict -- python3 script.py`")


def _check(options: dict[str, list[str]]) -> None:
    """Refuse what excludes each other."""
    if "audit" in options and "no-audit" in options:
        raise UsageError("`--audit` and `--no-audit` exclude each other")
    if "tty" in options and "no-tty" in options:
        raise UsageError("`--tty` and `--no-tty` exclude each other")
    if not {"cow", "resume", "keep"} & options.keys():
        for name in ("cow-size", "cow-tmpfs"):
            if name in options:
                raise UsageError(f"`--{name}` needs `--cow DIR`")
    if "resume" in options and {"cow", "cow-tmpfs", "keep"} & options.keys():
        raise UsageError("`--resume` brings its own directories: `--cow`, `--cow-tmpfs` and `--keep` are not to be given with it")
    if _is_interactive(options) and not os.isatty(0):
        raise UsageError("`--tty` needs a terminal as standard input")


def _is_interactive(options: dict[str, list[str]]) -> bool:
    return "tty" in options or ("no-tty" not in options and all(os.isatty(fd) for fd in (0, 1)))


def _entry_name(options: dict[str, list[str]], argv: list[str], cwd: str) -> str:
    """Return the name under which a launch like this one is stored; empty where it is not to be."""
    if "cow" in options or "resume" in options or "keep" in options:  # no other run writes where this one does
        return ""
    if options.get("pull") == ["always"]:  # what is stored would not ask the registry
        return ""
    if "no-cache" in options or not argv or any("=" in text for text in options.get("env", [])):  # values may be secret
        return ""
    from sandbox.api.stored import entry_name, store_path

    if store_path(os.environ) is None:
        return ""
    if "name" in options:
        from sandbox.registry.facts import check_name

        check_name(options["name"][0])
    # What has no part in the plan may differ from run to run.
    counted = tuple(sorted((name, tuple(values)) for name, values in options.items() if name not in ("name", "audit", "result", "quiet")))
    return entry_name((counted, argv[0], cwd, _is_interactive(options)), os.environ)


def _prepare(options: dict[str, list[str]], argv: list[str], cwd: str) -> Prepared:
    from sandbox.cli.start import complete_path

    complete_path()
    from sandbox.api.prepare import Command, prepare
    from sandbox.api.request import build_profile

    name = options.get("profile", ["default"])[0]
    limits: dict[str, object] = {}
    for text in options.get("limit", []):
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"`--limit {text}` is not KEY=VALUE", hint="for example `--limit memory=64M`")
        limits[key] = int(value) if value.isdecimal() else value
    env: dict[str, str] = {}
    passed: list[str] = []
    for text in options.get("env", []):
        key, equals, value = text.partition("=")
        if equals:
            env[key] = value
        else:
            passed.append(text)
    cow = _cow(options)
    image = options.get("image", [None])[0]
    if cow is not None and cow.resume and image is None:
        from sandbox.api.keeping import image_of

        image = image_of(cow.resume, os.environ) or None
    profile = build_profile(
        name, limits=limits, volumes=options.get("volume", []), tmpfs=options.get("tmpfs", []), base=cwd, env=env, env_pass=passed,
        policy=options.get("policy", [None])[0], cwd=options.get("cwd", [None])[0], network=options.get("network", [None])[0],
        image=image, overlay="required" if "require-overlay" in options else None,
        machine_view=options.get("machine-view", [None])[0], origin="command line",
    )  # fmt: skip
    if not argv and not profile.image:
        raise _no_command()
    if "pull" in options:
        _pull(profile, options["pull"][0])
    # An image has a directory of its own to start in; the caller's is shared with it only when that is asked for.
    copied = [os.path.join(os.path.realpath(directory), "") for directory in options.get("cow", ())]
    shared = cwd if not profile.image or "cwd" in options or any((cwd + "/").startswith(directory) for directory in copied) else None
    entrypoint = (tuple(options["entrypoint"]) if options["entrypoint"][0] else ()) if "entrypoint" in options else None
    return prepare(
        Command(
            argv=tuple(argv), profile=profile, cwd=shared, environ=os.environ, entrypoint=entrypoint, audit="no-audit" not in options,
            name=options.get("name", [""])[0], require_cgroup="require-cgroup" in options, interactive=_is_interactive(options),
            executor=options.get("executor", ["auto"])[0], cow=cow,
        )
    )  # fmt: skip


def _cow(options: dict[str, list[str]]) -> CowRequest | None:
    """Return what is to be seen copy-on-write; nothing for a run without."""
    if "cow" not in options and "resume" not in options and "keep" not in options:
        return None
    from sandbox.api.keeping import CowRequest
    from sandbox.units import parse_size

    resume = ""
    if "resume" in options:
        from sandbox.api.changes import find_kept

        resume = find_kept(options["resume"][0]).run_id
    size = parse_size(options["cow-size"][0], where="option `--cow-size`") if "cow-size" in options else 0
    if "cow-size" in options and size <= 0:
        raise UsageError("`--cow-size 0`: nothing could be written", hint="leave `--cow` out to share the directory read-only")
    return CowRequest(directories=tuple(options.get("cow", ())), resume=resume, root="keep" in options, memory="cow-tmpfs" in options, limit_bytes=size)


def _pull(profile: Profile, when: str) -> None:
    """Bring the image of a run from its registry, where that is wanted."""
    if not profile.image:
        raise UsageError("`--pull` is for runs with `--image`")
    from sandbox.api import images
    from sandbox.cli.image_text import ProgressLine
    from sandbox.policy.profile import IdMode

    with ProgressLine() as progress:
        ids = "range" if profile.ids is IdMode.RANGE else "single"
        images.ensure(profile.image, when=when, ids=ids, origin=dict(profile.origins).get("mounts.image"), progress=progress)


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        raise PolicyError(f"the working directory does not exist any more: {error.strerror}", hint="`cd` to one that does") from None


def _dry_run(prepared: Prepared, form: str) -> int:
    from sandbox.api.requesting import dry_plan
    from sandbox.plan.lower import lower_plan
    from sandbox.plan.render import render_json, render_rows, render_text

    plan = dry_plan(prepared)
    match form:
        case "":
            text = render_text(plan, prepared.notes)
        case "json":
            text = render_json(plan, prepared.notes)
        case "syscalls":
            text = render_rows(plan, lower_plan(plan))
        case _:
            raise UsageError(f"`--dry-run={form}`: unknown form", hint="json or syscalls")
    print(text)
    return 0


def _execute(prepared: Prepared, options: dict[str, list[str]]) -> int:
    from sandbox.api.execute import Hooks, execute
    from sandbox.api.request import harden
    from sandbox.api.streams import Streams
    from sandbox.cli.signals import Forwarder

    quiet = "quiet" in options
    result_path = options.get("result", [None])[0]
    place: ResultFile | None = None
    if "audit" in options:
        from sandbox.api.prepare import check_log_place

        check_log_place(prepared, options["audit"][0])
    sink = _open_sink(options)
    opened: Opened | None = None
    try:
        if result_path is not None:
            from sandbox.cli.result_file import ResultFile

            place = ResultFile(result_path)
        if not quiet:
            for note in prepared.notes:
                _say(note)
        if prepared.volumes:
            from sandbox.api.volumes import open_volumes

            opened = open_volumes(prepared.volumes, run_id=prepared.run_id, name=prepared.command.name)
            prepared = prepared.with_volumes(opened)
            for note in () if quiet else opened.notes:
                _say(note)
        with Forwarder(interactive=prepared.command.interactive) as forwarder:
            streams = Streams(stdin=0, stdout=1, stderr=2, terminal=forwarder.attach_terminal if prepared.command.interactive else None)
            finished = execute(prepared, streams, Hooks(watches=((forwarder.fd, forwarder.on_wake),), on_spawn=harden, on_start=_collect, sink=sink))
        _summarize(finished, sink, quiet)
        if place is not None:
            place.write(finished.result)
    finally:
        if opened is not None:
            opened.close()
        sink.close()
        if place is not None:
            place.close()
    # Nobody may take what is left of a lost output for the whole.
    return finished.result.exit_code or (OUR_FAILURE if finished.lost else 0)


def _collect(monitor: object) -> None:
    """What there is by now stays; from now on garbage is collected."""
    import gc

    gc.freeze()
    gc.enable()


def _open_sink(options: dict[str, list[str]]) -> Sink:
    if "audit" not in options:
        return _UsualSink(kept="no-audit" not in options)
    from sandbox.audit.sinks import FileSink

    return FileSink(options["audit"][0])


class _UsualSink:
    """The log that nobody named: made when there is something to write. Where it cannot be, denials are still counted and summarised."""

    def __init__(self, *, kept: bool) -> None:
        self._kept = kept
        self._sink: Sink | None = None

    def _open(self) -> Sink:
        from sandbox.api.request import default_audit_path
        from sandbox.audit.sinks import FileSink, NullSink

        path = default_audit_path() if self._kept else None
        try:
            return NullSink() if path is None else FileSink(path)
        except SandboxError:
            return NullSink()

    def write(self, event: Event) -> None:
        """See `Sink.write`."""
        if self._sink is None:
            self._sink = self._open()
        self._sink.write(event)

    def report(self) -> SinkReport:
        """See `Sink.report`."""
        if self._sink is None:
            self._kept = False
            self._sink = self._open()
        return self._sink.report()

    def close(self) -> None:
        """See `Sink.close`."""
        if self._sink is not None:
            self._sink.close()


def _say(text: str) -> None:
    from sandbox.audit.events import escape_untrusted

    print(f"sandbox: {escape_untrusted(text, 1000)}", file=sys.stderr, flush=True)


def _summarize(finished: Finished, sink: Sink, quiet: bool) -> None:
    from sandbox.result import Verdict

    result = finished.result
    for line in finished.lost:
        _say(line)
    if quiet:
        if result.verdict is Verdict.SETUP_FAILED:
            _say(f"{result.verdict}: {result.cause}")
        return
    if result.verdict not in (Verdict.OK, Verdict.NONZERO_EXIT, Verdict.SIGNALED) or result.cause.startswith("killed by"):
        _say(f"{result.verdict}: {result.cause}")
    if finished.denials.counts or finished.denials.mismatches:
        from sandbox.audit.summary import summary_lines

        for line in summary_lines(finished.denials, sink.report()):
            _say(line)
    if result.changes is not None:
        from sandbox.cli.changes import summary

        _say(summary(result.changes))
