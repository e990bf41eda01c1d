"""The environment of the program: what the profile lets through, what it sets, and a few variables made anew.

Environments are where tokens live, and leaking one is the most reported escape there is, so nothing comes in by default. Only `rootfs`
imports this module.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.policy.profile import Profile




def compose_environment(profile: Profile, environ: Mapping[str, str], *, path: str, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of the program.

    Args:
        profile: its `env_pass` names or ``PREFIX*`` patterns let variables through, its `env_set` comes last and wins.
        environ: the caller's environment.
        path: PATH inside, unless `env_set` has one.
        extra: what the found interpreters need, such as VIRTUAL_ENV.
    """
    names = {pattern for pattern in profile.env_pass if not pattern.endswith("*")}
    prefixes = tuple(pattern[:-1] for pattern in profile.env_pass if len(pattern) > 1 and pattern.endswith("*"))
    composed = {"LANG": "C.UTF-8"}
    for name, value in environ.items():
        if name in names or (prefixes and name.startswith(prefixes)):
            composed[name] = value
    composed.update(
        HOME=profile.home,
        USER=profile.user,
        LOGNAME=profile.user,
        PATH=path,
        TMPDIR="/tmp",
        # Bytecode written to a shared directory would be run by the next one who imports it.
        PYTHONDONTWRITEBYTECODE="1",
    )
    composed.update(extra)
    composed.update(profile.env_set)
    return composed
