"""``sandbox policy convert``: other programs' system call policies to ours and back."""

from __future__ import annotations

import os
import re
import stat
import sys

from sandbox.cli.options import Option, UsageError
from sandbox.cli.policy_text import ARCH, HELP, choose_arch, need, parse, printable, wrap
from sandbox.errors import PolicyError, describe_errno
from sandbox.policy.nearest import suggest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.abi.arch import Arch
    from sandbox.policy.model import SyscallPolicy
    from sandbox.seccomp.convert import Converted
    from sandbox.seccomp.convert_oci import Kernel

_SOURCES = ("oci", "toml")
_TARGETS = ("toml", "oci", "bpf", "kafel")
_SUFFIXES = {".json": "oci", ".toml": "toml", ".bpf": "bpf", ".kafel": "kafel", ".policy": "kafel"}
_MAXIMUM_BYTES = 4 << 20
_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}", re.ASCII)
_KERNEL = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})", re.ASCII)

OPTIONS = (
    Option(
        name="from", metavar="FORMAT", help="oci (Docker's and Podman's JSON, too) or toml; default: by the name of IN", values=_SOURCES
    ),
    Option(
        name="to",
        metavar="FORMAT",
        help="toml, oci, bpf (for bwrap --seccomp) or kafel (for nsjail); default: by --output",
        values=_TARGETS,
    ),
    ARCH,
    Option(name="output", short="o", metavar="FILE", help="where to write; default: standard output", values=("@files",)),
    Option(name="capabilities", metavar="LIST", help="from oci: the container's, as SYS_ADMIN,SYS_PTRACE; `docker`, `all`; default: none"),
    Option(name="kernel", metavar="X.Y", help="from oci: the container's kernel; default: this machine's"),
    Option(name="exact", help="from oci: compare whole registers as libseccomp does, instead of arguments in their C width"),
    Option(name="as", metavar="ACTION=ACTION", many=True, help="from oci: replace kill-thread, trace or notify, as in `trace=errno EPERM`"),
    Option(name="strict", help="from oci: refuse unknown system calls, which runtimes leave out"),
    Option(name="name", metavar="NAME", help="to toml: the policy's name; default: of the file"),
    Option(name="description", metavar="TEXT", help="to toml: the policy's description"),
    Option(name="notify", help="from toml: recorded refusals stay user notifications, for a supervisor of yours"),
    HELP,
)
_TEXT = """Convert a system call policy. IN is a file, `-` for standard input, or the name of a policy.

What is written was compared with what was read, over all calls there can be; standard error tells the result."""
_OCI_ONLY = ("capabilities", "kernel", "exact", "as", "strict")


def run(words: list[str]) -> int:
    """Convert one file."""
    parsed = parse(words, OPTIONS, "convert", "[--to FORMAT] [OPTION...] IN", _TEXT)
    if parsed is None:
        return 0
    found, operands = parsed
    need(operands, 1, 1, "what to convert", "convert")
    options = {name: values[0] for name, values in found.items() if name != "as"}
    output = options.get("output", "-")
    source = _format(options.get("from"), operands[0], "from", _SOURCES)
    target = _format(options.get("to"), output, "to", _TARGETS)
    _check_options(options, found, source, target)
    if target == "bpf" and output == "-" and sys.stdout.isatty():
        raise UsageError("a filter is binary and standard output a terminal", hint="say `--output FILE`")
    arch = choose_arch(found)
    notify = "notify" in options
    if source == "oci":
        converted = _read_profile(operands[0], output, target, options, found.get("as", []), arch)
        _report(converted)
        policy, data = converted.policy, converted.text.encode()
        if target != "toml":
            data = _write_policy(policy, arch, target, notify=False)
    else:
        policy = _read_policy(operands[0])
        data = _write_policy(policy, arch, target, notify=notify)
    _write(output, data)
    return 0


def _format(word: str | None, path: str, option: str, known: tuple[str, ...]) -> str:
    """Return a format that was said, or that a name tells."""
    if word is not None:
        if word not in known:
            raise UsageError(f"unknown format `{word}` for `--{option}`; known: {', '.join(known)}", hint=suggest(word, known))
        return word
    found = _SUFFIXES.get(os.path.splitext(path)[1])
    if found is None and option == "from" and path != "-" and "/" not in path:
        found = "toml"  # a policy's name
    if found is None or found not in known:
        what = "standard input" if path == "-" and option == "from" else "the result" if path == "-" else f"`{path}`"
        raise UsageError(f"say the format of {what}: `--{option} {'|'.join(known)}`")
    return found


def _check_options(options: dict[str, str], found: dict[str, list[str]], source: str, target: str) -> None:
    if source == target == "toml":
        raise UsageError("both sides are TOML", hint="say another format by `--to`")
    wrong = [name for name in _OCI_ONLY if name in found and source != "oci"]
    wrong += [name for name in ("name", "description") if name in options and target != "toml"]
    wrong += ["notify"] if "notify" in options and source == "oci" else []
    if wrong:
        raise UsageError(f"option `--{wrong[0]}` does not go with a conversion from {source} to {target}")


def _read_profile(path: str, output: str, target: str, options: dict[str, str], replacements: list[str], arch: Arch) -> Converted:
    from sandbox.seccomp.convert import convert_profile

    name = options.get("name") or _default_name(output if output != "-" and target == "toml" else path)
    if not _NAME.fullmatch(name):
        raise UsageError(f"policy name `{name}` is not lower-case letters, digits and hyphens")
    if target == "toml" and output != "-" and _is_file(output) and os.path.basename(output) != f"{name}.toml":
        raise UsageError(f"a policy called `{name}` must be in a file `{name}.toml`", hint="leave out `--name`, or change `--output`")
    shown = "standard input" if path == "-" else path
    capabilities, kernel = _capabilities(options.get("capabilities", "")), _kernel(options.get("kernel"))
    values = _replacements(replacements)
    return convert_profile(
        _read(path),
        shown,
        arch,
        capabilities=capabilities,
        kernel=kernel,
        name=name,
        description=options.get("description") or f"converted from {os.path.basename(shown)}",
        exact="exact" in options,
        strict="strict" in options,
        replacements=values,
    )


def _default_name(path: str) -> str:
    """Return a policy's name made of a file's."""
    stem = os.path.splitext(os.path.basename(path))[0].lower() if path != "-" else ""
    name = re.sub(r"[^a-z0-9]+", "-", stem).strip("-")[:64]
    return name if _NAME.fullmatch(name) else f"converted-{name}"[:64].rstrip("-") if name else "converted"


def _is_file(path: str) -> bool:
    """Tell whether a path is, or would become, a regular file: a pipe or /dev/stdout has no name to agree with."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return True


def _capabilities(text: str) -> frozenset[str]:
    from sandbox.seccomp.convert_oci import CAPABILITIES, DOCKER_CAPABILITIES

    found: set[str] = set()
    for word in filter(None, (part.strip() for part in text.split(","))):
        if word.lower() in ("all", "docker"):
            found.update(CAPABILITIES if word.lower() == "all" else DOCKER_CAPABILITIES)
            continue
        name = word.upper() if word.upper().startswith("CAP_") else f"CAP_{word.upper()}"
        if name not in CAPABILITIES:
            raise UsageError(f"unknown capability `{word}`", hint=suggest(name, CAPABILITIES))
        found.add(name)
    return frozenset(found)


def _kernel(text: str | None) -> Kernel:
    match = _KERNEL.match(os.uname().release) if text is None else _KERNEL.fullmatch(text)
    if match is None:
        raise UsageError(f"kernel version `{text or os.uname().release}` is not two numbers", hint="say it as `--kernel 6.1`")
    return int(match[1]), int(match[2])


def _replacements(words: Iterable[str]) -> dict[str, int]:
    """Return what ``--as`` replaces: word → return value."""
    import errno

    from sandbox.policy.model import Action, Outcome
    from sandbox.seccomp.convert_meaning import REPLACEABLE
    from sandbox.seccomp.lower import return_value

    errnos = {name: number for number, name in errno.errorcode.items()}
    values: dict[str, int] = {}
    for text in words:
        old, equals, new = text.partition("=")
        word, _, name = new.strip().partition(" ")
        if old not in REPLACEABLE or not equals:
            raise UsageError(f"option `--as` takes ACTION=ACTION, not `{text}`; replaced can be: {', '.join(REPLACEABLE)}")
        if old in values:
            raise UsageError(f"action `{old}` is replaced twice")
        if word == "errno" and name in errnos:
            values[old] = return_value(Outcome(action=Action.ERRNO, errno=errnos[name]), False)
        elif not name and word in (Action.ALLOW, Action.LOG, Action.TRAP, Action.KILL_PROCESS):
            values[old] = return_value(Outcome(action=Action(word)), False)
        else:
            raise UsageError(
                f"unknown action `{new.strip()}`; known: allow, log, errno NAME, trap, kill-process", hint=suggest(name, errnos)
            )
    return values


def _read_policy(path: str) -> SyscallPolicy:
    from sandbox.policy.load import GROUPS, load_policy, parse_layer
    from sandbox.policy.merge import merge_layers

    if path != "-":
        return load_policy(path)
    content = _read(path)
    name = re.search(rb'^name *= *"([a-z][a-z0-9-]*)"', content, re.MULTILINE)
    layer = parse_layer(content, f"{name[1].decode() if name else 'stdin'}.toml", GROUPS)
    if layer.extends:
        raise PolicyError("a policy from standard input cannot extend others", hint="give its file")
    return merge_layers((layer,), GROUPS)


def _read(path: str) -> bytes:
    if path == "-":
        data = sys.stdin.buffer.read(_MAXIMUM_BYTES + 1)
    else:
        try:
            with open(path, "rb") as file:
                data = file.read(_MAXIMUM_BYTES + 1)
        except OSError as error:
            raise PolicyError(f"open `{path}`: {describe_errno(error.errno or 0)}") from None
    if len(data) > _MAXIMUM_BYTES:
        raise PolicyError(f"read `{path}`: larger than {_MAXIMUM_BYTES} bytes")
    return data


def _write_policy(policy: SyscallPolicy, arch: Arch, target: str, *, notify: bool) -> bytes:
    """Return a policy in another format; what it cannot carry goes to standard error."""
    from sandbox.seccomp.compile import compile_filter

    if target == "oci":
        from sandbox.seccomp.convert import convert_policy
        from sandbox.seccomp.convert_oci import OCI_ARCH

        text = convert_policy(policy, arch, notify=notify)
        _say(f"proven: libseccomp makes of this JSON what policy `{policy.name}` says, for every call of {OCI_ARCH[arch]}")
        _tell_refusals(notify)
        _say("note: what is no call of this architecture a runtime kills by its thread, we by its process")
        return text.encode()
    from sandbox.policy.emulation import without_emulation

    policy = without_emulation(policy)  # nobody else answers those calls
    compiled = compile_filter(policy, arch, notify=notify, launch=False)
    if target == "bpf":
        _say(f"proven: {compiled.instructions} instructions do what policy `{policy.name}` says, for every call")
        _tell_refusals(notify)
        return compiled.bpf
    from sandbox.seccomp.convert_kafel import convert_to_kafel

    text = convert_to_kafel(policy, arch, notify=notify)
    _say(f"note: compiled by kafel, not by us: nothing is proven of the filter that nsjail will make of policy `{policy.name}`")
    _tell_refusals(notify)
    x32 = " and gives x32 calls the default" if arch == "x86_64" else ""
    _say(f"note: kafel kills the thread, not the process, for calls of other architectures{x32}")
    return text.encode()


def _tell_refusals(notify: bool) -> None:
    what = "wait for a listener: without one they fail with ENOSYS" if notify else "are refused in the kernel; nobody records them"
    _say(f"note: refusals that a run of ours would record {what}")


def _report(converted: Converted) -> None:
    """Say what was not carried over, and what the comparison with libseccomp found."""
    from sandbox.seccomp.prove import describe_value

    for note in converted.notes:
        for line in wrap(note.split(" "), first="note: ", indent="      ", separator=" "):
            _say(line)
    ours, theirs = converted.filter.instructions, converted.foreign_instructions
    if not converted.differences:
        _say(
            f"proven: policy `{converted.policy.name}` ({ours} instructions) decides every call as libseccomp's filter of the same profile ({theirs})"
        )
        return
    count = len({difference.syscall for difference in converted.differences})
    _say(
        f"proven: policy `{converted.policy.name}` ({ours} instructions) decides as libseccomp's filter of the same profile ({theirs}), but for "
        f"{count} system call{'s' if count > 1 else ''},"
    )
    if not converted.misread:
        _say("        where that compares bits that the kernel drops (`--exact` does, too):")
    else:
        _say("        where that compares bits that the kernel drops, or does what the profile does not say:")
    for difference in converted.differences:
        _say(f"  {difference.call}: here {describe_value(difference.left)}, there {describe_value(difference.right)}")


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr)


def _write(path: str, data: bytes) -> None:
    """Write the result: a regular file whole or not at all."""
    if path == "-":
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    if not _is_file(path):
        with open(path, "wb") as file:
            file.write(data)
        return
    # A link stays a link to what it names.
    real = os.path.realpath(path)
    temporary = f"{real}.{os.getpid()}.tmp"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with open(fd, "wb") as file:
                file.write(data)
            os.replace(temporary, real)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise PolicyError(f"write `{path}`: {describe_errno(error.errno or 0)}") from None
