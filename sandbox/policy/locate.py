"""Finds shipped data (policies, profiles) and resolves policy names to files.

Looks beside the package first (a wheel), then at the checkout's root. A bare name never resolves from the working directory: a hostile
checkout must not be able to bring its own ``strict``. Any floor from `policy` up may import it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from sandbox.errors import InternalError, PolicyError

if TYPE_CHECKING:
    from pathlib import Path

Kind = Literal["policies", "profiles"]
_SUFFIX = ".toml"


def data_path(kind: Kind) -> str:
    """Return the directory of the shipped policies or profiles.

    Raises:
        InternalError: neither the package nor the checkout has it.
    """
    package = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    for candidate in (os.path.join(package, "_data", kind), os.path.join(os.path.dirname(package), kind)):
        if os.path.isdir(candidate):
            return candidate
    raise InternalError(f"find the shipped {kind}: no `_data/{kind}` in `{package}` and no `{kind}` beside it")


def data_dir(kind: Kind) -> Path:
    """Return `data_path` as a Path. Its import costs milliseconds, which the run path does without."""
    from pathlib import Path

    return Path(data_path(kind))


def user_path(kind: Kind) -> str | None:
    """Return ``$XDG_CONFIG_HOME/sandbox/<kind>`` (default ``~/.config``), or None when neither variable gives an absolute path.

    Source: XDG Base Directory Specification: relative paths in these variables are to be ignored.
    """
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):
        home = os.environ.get("HOME", "")
        if not os.path.isabs(home):
            return None
        base = os.path.join(home, ".config")
    return os.path.join(base, "sandbox", kind)


def is_path(text: str) -> bool:
    """Tell a path (has a ``/`` or ends in ``.toml``) from a bare name."""
    return "/" in text or text.endswith(_SUFFIX)


def names(kind: Kind) -> tuple[str, ...]:
    """Return the bare names that resolve now, sorted; `groups` is a table of syscall groups and no policy."""
    found: set[str] = set()
    for directory in (data_path(kind), user_path(kind)):
        try:
            entries = os.listdir(directory) if directory is not None else []
        except OSError:
            continue
        found.update(entry[: -len(_SUFFIX)] for entry in entries if entry.endswith(_SUFFIX))
    if kind == "policies":
        found.discard("groups")
    return tuple(sorted(found))


def resolve(text: str, kind: Kind, *, base: str | None = None, where: str | None = None) -> str:
    """Return the path of the file that a name or path means.

    Args:
        text: a bare name (shipped directory, then the user's), or a path.
        base: directory that a relative path starts from; None is the working directory.
        where: origin for the error message.

    Raises:
        PolicyError: unknown or ambiguous name. A path is not checked here: opening it tells.
    """
    noun = "policy" if kind == "policies" else "profile"
    if is_path(text):
        return os.path.join(base, text.removeprefix("./")) if base is not None else text
    shipped = os.path.join(data_path(kind), text + _SUFFIX)
    personal = user_path(kind)
    own = os.path.join(personal, text + _SUFFIX) if personal is not None else None
    known = text not in ("", "groups") and "\0" not in text
    is_shipped = known and os.path.isfile(shipped)
    is_own = known and own is not None and os.path.isfile(own)
    if is_shipped and is_own:
        # Whichever won, someone would read one file and run the other.
        raise PolicyError(
            f"{noun} `{text}` is shipped in `{shipped}` and also defined in `{own}`", origin=where, hint="rename your own file"
        )
    if is_shipped:
        return shipped
    if is_own and own is not None:
        return own
    from sandbox.policy.nearest import suggest

    hint = suggest(text, names(kind))
    if hint is None and os.path.exists(text + _SUFFIX):
        hint = f"names are not looked up in the working directory; for that file write `./{text}{_SUFFIX}`"
    searched = f"`{data_path(kind)}`" + (f" and `{personal}`" if personal is not None else "")
    raise PolicyError(f"no {noun} is called `{text}` in {searched}", origin=where, hint=hint)
