"""The environment of the program: what the profile lets through, what it sets, and a few variables made anew.

Environments are where tokens live, and leaking one is the most reported escape there is, so nothing comes in by default. Only `rootfs`
imports this module.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox.policy.profile import Profile


def compose_environment(profile: Profile, environ: Mapping[str, str], *, path: str, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of the program.

    Args:
        profile: its `env_pass` names or ``PREFIX*`` patterns let variables through, its `env_set` comes last and wins.
        environ: the caller's environment.
        path: PATH inside, unless `env_set` has one.
        extra: what the found interpreters need, such as VIRTUAL_ENV.
    """
    return passed_variables(profile.env_pass, environ) | fixed_variables(profile, path=path, extra=extra)


def passed_variables(patterns: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return what comes from the caller, and the language that it has without."""
    return {"LANG": "C.UTF-8"} | matching_variables(patterns, environ)


def matching_variables(patterns: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables whose names are listed, or match a listed ``PREFIX*``."""
    names = {pattern for pattern in patterns if not pattern.endswith("*")}
    prefixes = tuple(pattern[:-1] for pattern in patterns if len(pattern) > 1 and pattern.endswith("*"))
    # By name first: each value that is looked at is a question to whoever listens (`api.listener`).
    return {name: environ[name] for name in environ if name in names or (prefixes and name.startswith(prefixes))}


def fixed_variables(profile: Profile, *, path: str, extra: Mapping[str, str]) -> dict[str, str]:
    """Return what the caller's environment has no part in; it wins."""
    fixed = {
        "HOME": profile.home,
        "USER": profile.user,
        "LOGNAME": profile.user,
        "PATH": path,
        "TMPDIR": "/tmp",
        # Bytecode written to a shared directory would be run by the next one who imports it.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return fixed | dict(extra) | dict(profile.env_set)
