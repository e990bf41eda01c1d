"""The nearest name for an error's hint. difflib is imported only once something is already wrong. Pure; anybody may import it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable



def suggest(word: str, known: Iterable[str]) -> str | None:
    """Return ``did you mean `x`?`` for the nearest known word, or None when nothing is near.

    Args:
        word: what was written.
        known: what could have been written.
    """
    import difflib

    candidates = sorted(set(known))
    near = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    if not near:
        folded = {candidate.lower(): candidate for candidate in candidates}
        near = [folded[match] for match in difflib.get_close_matches(word.lower(), list(folded), n=1, cutoff=0.6)]
    return f"did you mean `{near[0]}`?" if near else None
