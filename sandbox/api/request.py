"""Small public helpers that front ends share: a profile from options, where the audit log is by default, hardening."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sandbox.policy.profile import Profile


def build_profile(
    name: str, *, limits: Mapping[str, object], volumes: Sequence[str], tmpfs: Sequence[str] = (), base: str, env: Mapping[str, str],
    env_pass: Iterable[str] = (), policy: str | None = None, cwd: str | None = None, network: str | None = None, image: str | None = None,
    overlay: str | None = None, machine_view: str | None = None, origin: str,
) -> Profile:  # fmt: skip
    """Load a profile and apply what was asked for on top.

    Args:
        name: bare name or path.
        limits: keys as in ``[limits]``.
        volumes: `SRC[:DST][:ro|rw]` or `NAME:DST[:OPTION,...]` texts, relative to `base`.
        tmpfs: `DST[:OPTION,...]` texts.
        base: the caller's working directory.
        env: variables to set.
        env_pass: names of the caller's variables to let in.
        policy: another policy.
        cwd: ``ro``, ``rw`` or ``no``.
        network: ``none`` or ``loopback``.
        image: an image of the store to be the root.
        overlay: ``required`` or ``best-effort``.
        machine_view: ``off``, ``static`` or ``live``.
        origin: who asks, for messages.

    Raises:
        PolicyError: anything is wrong.
    """
    from sandbox.api.recall import recall_profile
    from sandbox.policy.profile_load import override_profile
    from sandbox.rootfs.volumes import parse_tmpfs, parse_volume

    parsed = [*(parse_volume(text, base) for text in volumes), *(parse_tmpfs(text) for text in tmpfs)]
    return override_profile(
        recall_profile(name),
        limits=limits,
        volumes=parsed,
        env=env,
        env_pass=env_pass,
        policy=policy,
        cwd=cwd,
        network=network,
        image=image,
        overlay=overlay,
        machine_view=machine_view,
        origin=origin,
    )


def default_audit_path() -> str | None:
    """Return where the command line logs denials unless told otherwise, its directory made; None when that cannot be.

    ``$XDG_STATE_HOME/sandbox/audit.jsonl``, by default below ``~/.local/state``.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        home = os.environ.get("HOME", "")
        if not os.path.isabs(home):
            return None
        state = os.path.join(home, ".local", "state")
    directory = os.path.join(state, "sandbox")
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    except OSError:
        return None
    return os.path.join(directory, "audit.jsonl")


def harden() -> tuple[str, ...]:
    """Make the calling process undumpable; for programs that are ours, not for a user's own process."""
    from sandbox.launch.privileges import harden_supervisor

    return harden_supervisor()
