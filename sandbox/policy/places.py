"""Where a value of a profile stands, for messages. The converters of profile keys import it."""

from __future__ import annotations

from sandbox.errors import PolicyError
from sandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """The place of a value: dotted key, ``file:line`` (or the option), and the directory that relative paths start from.

    `locate` finds the ``file:line`` of a key below this one, where there is a file.
    """

    key: str
    origin: str
    base: str = ""
    locate: Callable[[str], str] | None = None

    def child(self, key: str) -> Where:
        """Return the place of ``key``, which is below this one."""
        return Where(key=key, origin=self.locate(key) if self.locate else self.origin, base=self.base, locate=self.locate)

    def fail(self, message: str, *, hint: str | None = None) -> NoReturn:
        """Raise `PolicyError` for this place."""
        raise PolicyError(message, origin=f"{self.origin}, {self.key}" if self.key not in ("", self.origin) else self.origin, hint=hint)
