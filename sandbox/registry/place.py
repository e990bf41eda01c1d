"""Where the entries of running sandboxes are: which directories may be one, and whether one is really ours.

The directory is the only wall between users: 0700, owned by who runs, never reached through a link. Everybody above `kernel` may import this module.
"""

from __future__ import annotations

import os
import stat

from sandbox.errors import SandboxError, describe_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "SANDBOX_RUNTIME_DIR"
_NAME = "sandbox"
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Place:
    """A directory that may hold entries; `shared` says that others may make names beside it (/tmp). No dataclass: every run imports this."""

    __slots__ = ("path", "shared")

    def __init__(self, path: str, *, shared: bool = False) -> None:
        self.path = path
        self.shared = shared


def list_places(environ: Mapping[str, str], uid: int) -> tuple[Place, ...]:
    """Return the directories in which entries of a user may be, the preferred one first; none needs to exist.

    SANDBOX_RUNTIME_DIR is the only one where it is set. Else a run registers in the first that can be used, and whoever looks for runs looks in
    all: a shell without XDG_RUNTIME_DIR (cron, `su`) must find what one with it has started (containers/crun#1238).

    Args:
        environ: the caller's environment.
        uid: whose runs.
    """
    only = environ.get(VARIABLE, "")
    return (Place(os.path.normpath(only), shared=True),) if os.path.isabs(only) else _usual_places(environ, uid)


def list_hidden(environ: Mapping[str, str], uid: int) -> tuple[str, ...]:
    """Return every directory that must not be seen inside a sandbox, as real paths: a run of another environment may register in any of them."""
    hidden = [place.path for place in (*list_places(environ, uid), *_usual_places(environ, uid))]
    return tuple(dict.fromkeys(f"{os.path.realpath(os.path.dirname(path)).rstrip('/')}/{os.path.basename(path)}" for path in hidden))


def _usual_places(environ: Mapping[str, str], uid: int) -> tuple[Place, ...]:
    found = []
    given = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(given):
        found.append(Place(os.path.join(os.path.normpath(given), _NAME)))
    found.append(Place(f"/run/user/{uid}/{_NAME}"))
    if uid == 0:
        found.append(Place(f"/run/{_NAME}"))
    found.append(Place(f"/tmp/{_NAME}-{uid}", shared=True))
    return tuple({place.path: place for place in reversed(found)}.values())[::-1]


def make_place(environ: Mapping[str, str], uid: int) -> int:
    """Open the first usable place, made where its parent exists; return a descriptor of it.

    Raises:
        SandboxError: there is none; the message has each reason.
    """
    reasons = []
    for place in list_places(environ, uid):
        try:
            try:
                return open_place(place, uid)
            except FileNotFoundError:
                try:
                    os.mkdir(place.path, 0o700)
                except FileExistsError:
                    pass  # another first run of this moment made it
                return open_place(place, uid)
        except FileNotFoundError:
            continue  # no such parent here
        except OSError as error:
            reasons.append(f"`{place.path}`: {describe_errno(error.errno or 0)}")
        except SandboxError as error:
            reasons.append(error.message)
    raise SandboxError("; ".join(reasons) or "no runtime directory exists")


def open_place(place: Place, uid: int) -> int:
    """Open a place and prove that nobody but `uid` can have made or changed what is in it.

    Raises:
        OSError: it cannot be opened; ELOOP or ENOTDIR where it is a link.
        SandboxError: it, or the directory that it lies in, is not this user's alone.
    """
    if not place.shared:
        parent = os.stat(os.path.dirname(place.path))
        if parent.st_uid != uid or parent.st_mode & 0o022:
            raise SandboxError(f"`{os.path.dirname(place.path)}`: others may write to it")
    fd = os.open(place.path, _OPEN)
    status = os.fstat(fd)
    if status.st_uid == uid and not status.st_mode & 0o077:
        return fd
    os.close(fd)
    if status.st_uid != uid:
        raise SandboxError(f"`{place.path}`: it belongs to uid {status.st_uid}")
    mode = stat.S_IMODE(status.st_mode)
    raise SandboxError(f"`{place.path}`: its mode is {mode:04o}, others could look in", hint=f"`chmod 700 {place.path}`")
