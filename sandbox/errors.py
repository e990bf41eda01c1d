"""Every exception this package raises on purpose, and how each is worded.

The house rule: *the sandbox failed* raises one of these; *the payload failed* is a `Result`.
Anybody may import this module; it imports nothing of ours.
"""

from __future__ import annotations

import errno as _errno
import os


def describe_errno(number: int) -> str:
    """Return ``Permission denied (EACCES)`` for an errno number.

    Args:
        number: a positive errno value.
    """
    return f"{os.strerror(number)} ({_errno.errorcode.get(number, str(number))})"


class SandboxError(Exception):
    """The sandbox could not do what was asked; nothing ran, or nothing that ran is left.

    Args:
        message: the operation with its operands in backticks, then the reason; lower case, no period.
        origin: where it came from (step, profile key, file:line); printed indented below the message.
        hint: the next action, only when the cause is known.
    """

    exit_code = 125
    """What the command line ends with: 125 ours, 126 the command is not executable, 127 it was not found."""

    def __init__(self, message: str, *, origin: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.origin = origin
        self.hint = hint

    def __str__(self) -> str:
        text = self.message
        if self.origin:
            text += "\n  " + self.origin.replace("\n", "\n  ")
        if self.hint:
            text += "\n\nhint: " + self.hint
        return text


class PolicyError(SandboxError):
    """A profile or policy text is wrong; `origin` gives file:line and the key path."""


class CompileError(SandboxError):
    """A policy is well-formed but cannot become a filter for this architecture."""


class UnsupportedError(SandboxError):
    """The host cannot enforce something that was asked for, and the profile does not opt out.

    Args:
        feature: the kernel or host feature that is missing.
        needed_by: the profile key or option that asked for it.
    """

    def __init__(
        self, feature: str, needed_by: str, *, reason: str | None = None, origin: str | None = None, hint: str | None = None
    ) -> None:
        message = f"`{needed_by}` needs {feature}, which this host does not offer"
        if reason:
            message += f": {reason}"
        super().__init__(message, origin=origin, hint=hint)
        self.feature = feature
        self.needed_by = needed_by


class SetupError(SandboxError):
    """A system call of the set-up failed.

    Args:
        call: the call and its operands, e.g. ``mount `/srv/in` on `/box/in```.
        errno: the positive errno value.
        step: which step of the plan it was, in words.
    """

    def __init__(self, call: str, errno: int, *, step: str | None = None, hint: str | None = None) -> None:
        super().__init__(f"{call}: {describe_errno(errno)}", origin=step, hint=hint)
        self.call = call
        self.errno = errno
        self.step = step


class ExecuteError(SetupError):
    """The sandbox stood ready, but the command could not be executed in it."""

    def __init__(self, path: str, errno: int, *, step: str | None = None, hint: str | None = None) -> None:
        super().__init__(f"execute `{path}`", errno, step=step, hint=hint)
        self.exit_code = 127 if errno in (_errno.ENOENT, _errno.ENOTDIR) else 126


class ProtocolError(SandboxError):
    """An executor sent something that the protocol does not know, or stopped in the middle."""


class InternalError(SandboxError):
    """A bug of ours; the message asks for a report."""
