"""What is wrong with a problem package. Anybody may import this module."""

from __future__ import annotations

from sandbox.errors import SandboxError


class PackageError(SandboxError):
    """A problem package cannot be read, or is no package that can be judged; `origin` gives file:line where there is a line."""

    exit_code = 2
