"""Conversions whole: a container's profile becomes a policy that is compared with libseccomp's own filter, a policy becomes other programs' text.

Nothing comes out of here that was not compared with what it was made from, over all calls; only kafel's compiler is not ours to ask. Imported by the
front end, tests and ``tests/suites/docker.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.abi.arch import Arch
from sandbox.errors import CompileError, InternalError
from sandbox.policy.emulation import without_emulation
from sandbox.policy.load import GROUPS, parse_layer
from sandbox.policy.merge import merge_layers
from sandbox.policy.model import Action, SyscallPolicy
from sandbox.record import dataclass
from sandbox.seccomp.compile import LAUNCH_CALLS, compile_filter, compile_foreign
from sandbox.seccomp.convert_meaning import foreign_rules, replace_actions
from sandbox.seccomp.convert_oci import Kernel, OciProfile
from sandbox.seccomp.convert_oci_read import read_oci, select
from sandbox.seccomp.convert_oci_write import convert_to_oci
from sandbox.seccomp.convert_toml import convert_to_toml
from sandbox.seccomp.evaluate import RejectedError, decode
from sandbox.seccomp.filter import INSTRUCTION_BYTES, Filter
from sandbox.seccomp.prove import Difference, ProgramDecider, describe_value, differences


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A policy made of a container's profile.

    `filter` is compiled of `policy`, without a listener. `differences` are the calls that it decides otherwise than libseccomp's filter of the same rules
    (left: ours, right: libseccomp's): none for an exact conversion. `misread` are those that libseccomp's filter decides otherwise than the rules say,
    by a mistake of its own. `foreign_instructions` is the size of libseccomp's filter.
    """

    text: str
    policy: SyscallPolicy
    filter: Filter
    differences: tuple[Difference, ...]
    misread: tuple[Difference, ...]
    foreign_instructions: int
    notes: tuple[str, ...]


def convert_profile(
    content: bytes,
    file: str,
    arch: Arch,
    *,
    capabilities: frozenset[str] = frozenset(),
    kernel: Kernel,
    name: str,
    description: str,
    exact: bool = False,
    strict: bool = False,
    replacements: Mapping[str, int] | None = None,
) -> Converted:
    """Make a policy of a container's seccomp profile, and prove what it is.

    Args:
        content: the JSON text.
        file: what errors call it.
        arch: the architecture to read it for.
        capabilities: the container's bounding set, with ``CAP_``.
        kernel: version and major revision of the container's kernel.
        name: the policy's name.
        description: one line of text.
        exact: compare whole registers wherever libseccomp does.
        strict: refuse syscall names that no architecture has.
        replacements: an action of `convert_meaning.REPLACEABLE` → the return value to take instead.

    Raises:
        PolicyError: the profile is wrong, or says what a policy cannot say; with its place.
        CompileError: libseccomp refuses the profile, or an exact conversion is asked for and libseccomp makes something else of it than its rules say.
    """
    profile = replace_actions(select(read_oci(content, file), arch, capabilities, kernel, strict=strict), replacements or {})
    notes: list[str] = list(profile.notes)
    heading = _heading(profile, arch, capabilities, kernel, exact)
    text = convert_to_toml(profile, arch, name=name, description=description, exact=True, notes=notes, heading=heading)
    policy, compiled = _compile(text, name, arch)
    foreign = compile_foreign(foreign_rules(profile, arch), profile.default, arch, f"profile `{file}`")
    libseccomps = _decider(foreign, f"profile `{file}`")
    found = misread = differences(_decider(compiled.bpf, f"policy `{name}`"), libseccomps, arch)
    if exact and misread:
        raise CompileError(
            f"libseccomp makes something else of profile `{file}` than its rules say: `{found[0].call}`: libseccomp gives "
            f"{describe_value(found[0].right)}, the rules say {describe_value(found[0].left)}",
            hint="libseccomp 2.5 mixes up rules that compare one register by size; without `--exact` you get what they say",
        )
    if not exact:
        notes = list(profile.notes)
        text = convert_to_toml(profile, arch, name=name, description=description, exact=False, notes=notes, heading=heading)
        policy, compiled = _compile(text, name, arch)
        found = differences(_decider(compiled.bpf, f"policy `{name}`"), libseccomps, arch)
    missing = [call for call in LAUNCH_CALLS if not _is_allowed(policy, call)]
    if missing:
        words = ", ".join(f"`{call}`" for call in missing)
        notes.append(f"`sandbox exec` cannot use this policy: it does not allow {words} without a condition, which a launch needs")
    return Converted(
        text=text,
        policy=policy,
        filter=compiled,
        differences=found,
        misread=misread,
        foreign_instructions=len(foreign) // INSTRUCTION_BYTES,
        notes=tuple(dict.fromkeys(notes)),
    )


def convert_policy(policy: SyscallPolicy, arch: Arch, *, notify: bool) -> str:
    """Return a policy as OCI JSON, after proving that libseccomp makes of it what we make of the policy.

    Args:
        policy: the merged policy.
        arch: the architecture to write it for.
        notify: see `convert_oci_write.convert_to_oci`.

    Raises:
        PolicyError: the policy's meaning is wrong.
        CompileError: it cannot become a filter.
        InternalError: what was written means something else.
    """
    policy = without_emulation(policy)  # nobody else answers those calls
    compiled = compile_filter(policy, arch, notify=notify, launch=False)
    text = convert_to_oci(policy, arch, notify=notify)
    back = select(read_oci(text.encode(), f"{policy.name}.json"), arch, (), (0, 0), strict=True)
    foreign = compile_foreign(foreign_rules(back, arch), back.default, arch, f"policy `{policy.name}` as JSON")
    found = differences(_decider(foreign, f"policy `{policy.name}` as JSON"), _decider(compiled.bpf, f"policy `{policy.name}`"), arch)
    if found:
        raise InternalError(
            f"policy `{policy.name}` means something else as JSON: `{found[0].call}`: {describe_value(found[0].left)}, "
            f"the policy says {describe_value(found[0].right)}",
            hint="please report this with the policy; nothing was written",
        )
    return text


def _decider(bpf: bytes, what: str) -> ProgramDecider:
    """Return a program for a comparison.

    Raises:
        CompileError: the kernel would refuse it; libseccomp writes programs of any length.
    """
    try:
        return ProgramDecider(decode(bpf))
    except RejectedError as error:
        raise CompileError(f"compile {what}: the kernel would refuse the filter: {error}") from None


def _compile(text: str, name: str, arch: Arch) -> tuple[SyscallPolicy, Filter]:
    policy = merge_layers((parse_layer(text.encode(), f"{name}.toml", GROUPS),), GROUPS)
    return policy, compile_filter(policy, arch, notify=False, launch=False)


def _is_allowed(policy: SyscallPolicy, call: str) -> bool:
    entries = policy.rules.get(call)
    if entries is None:
        return policy.default.action is Action.ALLOW
    return entries[0].rule.condition is None and entries[0].rule.outcome.action is Action.ALLOW


def _heading(profile: OciProfile, arch: Arch, capabilities: frozenset[str], kernel: Kernel, exact: bool) -> list[str]:
    owned = ", ".join(sorted(word.removeprefix("CAP_") for word in capabilities)) or "none"
    compared = "whole 64-bit registers, as libseccomp compares them" if exact else "the bits that the kernel keeps of their C type"
    return [
        f"Converted from {profile.file.rsplit('/', 1)[-1]} for {arch}, Linux {kernel[0]}.{kernel[1]}, capabilities: {owned}.",
        f"Arguments are compared in {compared}.",
        "Comments behind `[[rule]]` are the places in the profile.",
    ]
