"""``submissions.yaml``: what is demanded of the submissions that a glob matches, over all cases or some. Source: Problem package format, ``2025-09``."""

from __future__ import annotations

from sandbox.judge.package.confine import shown
from sandbox.judge.package.words import Glob, looks_doubtful
from sandbox.judge.package.yaml_source import Node, present, read_yaml
from sandbox.judge.problem import Expectation
from sandbox.record import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.judge.package.confine import Tree
    from sandbox.judge.package.problem_yaml import Settings

FILE = "submissions/submissions.yaml"
_WORDS = frozenset(("AC", "WA", "TLE", "RTE"))
_DEFAULTS: dict[str, tuple[tuple[str, ...], tuple[str, ...] | None]] = {
    "accepted": (("AC",), None),
    "rejected": (("AC", "WA", "TLE", "RTE"), ("RTE", "TLE", "WA")),
    "wrong_answer": (("AC", "WA"), ("WA",)),
    "time_limit_exceeded": (("AC", "TLE"), ("TLE",)),
    "run_time_error": (("AC", "RTE"), ("RTE",)),
    "brute_force": (("AC", "RTE", "TLE"), ("RTE", "TLE")),
}
_DEMANDS = ("permitted", "required", "score", "message", "use_for_time_limit")
_ABOUT = ("language", "entrypoint", "authors", "model_solution")
_PREFIXES = ("sample", "secret", "*", "{")
_MAXIMUM_ENTRIES = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """One key of ``submissions.yaml``, or one of the default directories (`line` 0)."""

    glob: Glob
    line: int = 0
    language: str = ""
    entrypoint: str = ""
    expectations: tuple[Expectation, ...] = ()


def read_submissions_yaml(tree: Tree, settings: Settings) -> list[Entrance]:
    """Return the entries that hold: the default directories, those that the file states otherwise, and the file's own.

    Raises:
        PackageError: the file is wrong.
    """
    entries: dict[str, Node] = {}
    if not tree.missing(FILE):
        root, _ = read_yaml(tree, FILE)
        entries = {name.removesuffix("/"): node for name, node in root.mapping().items()}
        if len(entries) > _MAXIMUM_ENTRIES:
            raise root.error(f"`submissions.yaml` has more than {_MAXIMUM_ENTRIES} entries")
    found = []
    for name, (permitted, required) in _DEFAULTS.items():
        default = _with_limit_use(Expectation(source=name, permitted=frozenset(permitted), required=frozenset(required) if required else None), None)
        if name in entries:
            found.append(_entrance(name, entries.pop(name), default, settings, tree))
        else:
            found.append(Entrance(glob=Glob(name), expectations=(default,)))
    return found + [_entrance(name, node, None, settings, tree) for name, node in entries.items()]


def _entrance(name: str, node: Node, default: Expectation | None, settings: Settings, tree: Tree) -> Entrance:
    keys = node.mapping()
    language, entrypoint = present(keys, "language"), present(keys, "entrypoint")
    source = f"submissions.yaml:{node.line}"
    expectations = []
    own = _expectation({key: each for key, each in keys.items() if key in _DEMANDS}, node, source, "", default, settings)
    if own is not None:
        expectations.append(own)
    for key, each in keys.items():
        if key in _DEMANDS or key in _ABOUT:
            continue
        if not key.startswith(_PREFIXES):
            raise each.error(
                f"unknown key `{shown(key)}` of `{shown(name)}`", hint="keys for some cases begin with `sample`, `secret` or `*`"
            )
        part = each.mapping()
        for unknown in part:
            if unknown not in _DEMANDS:
                raise part[unknown].error(f"unknown key `{shown(unknown)}` of `{shown(name)}`, `{shown(key)}`")
        _glob(key, each, tree)
        found = _expectation(part, each, f"submissions.yaml:{each.line}", key, None, settings)
        if found is not None:
            expectations.append(found)
    return Entrance(
        glob=_glob(name, node, tree),
        line=node.line,
        language=language.text() if language else "",
        entrypoint=entrypoint.text() if entrypoint else "",
        expectations=tuple(expectations),
    )


def _expectation(
    keys: dict[str, Node], node: Node, source: str, cases: str, default: Expectation | None, settings: Settings
) -> Expectation | None:
    """Return what the keys demand; keys that are not there are the default directory's. None where nothing is."""
    if not keys:
        return default
    permitted = _verdicts(keys, "permitted", default.permitted if default else None)
    # Without a word of its own, at least one case must have one of the permitted verdicts, which says nothing more than that there are cases.
    required = _verdicts(keys, "required", default.required if default else None)
    if permitted is not None and required is not None and not permitted & required:
        raise node.error(f"`{shown(node.key)}` requires what it does not permit")
    message = present(keys, "message")
    score = _score(present(keys, "score"), settings)
    found = Expectation(source=source, cases=cases, permitted=permitted, required=required, score=score, message=message.text() if message else "")
    return _with_limit_use(found, present(keys, "use_for_time_limit"))


def _with_limit_use(found: Expectation, node: Node | None) -> Expectation:
    """Return the expectation with how it bounds the time limit: as stated, else below where TLE is not permitted and above where TLE alone is required."""
    required = found.required if found.required is not None else found.permitted
    if node is not None and node.value not in ("lower", "upper"):
        if not node.boolean():
            return found
        node = None
    if node is None:
        if found.permitted is not None and "TLE" not in found.permitted:
            return replace(found, use_for_time_limit="lower")
        return replace(found, use_for_time_limit="upper") if required == frozenset(("TLE",)) else found
    if node.value == "lower":
        permitted = (found.permitted or _WORDS) - {"TLE"}
        if not permitted:
            raise node.error("`use_for_time_limit: lower` contradicts `permitted`")
        return replace(found, permitted=permitted, use_for_time_limit="lower", limit_stated=True)
    if "TLE" not in (found.permitted or _WORDS):
        raise node.error("`use_for_time_limit: upper` contradicts `permitted`")
    return replace(found, required=frozenset(("TLE",)), use_for_time_limit="upper", limit_stated=True)


def _verdicts(keys: dict[str, Node], key: str, default: frozenset[str] | None) -> frozenset[str] | None:
    node = present(keys, key)
    if node is None:
        return default
    words = frozenset(node.words())
    if not words or words - _WORDS:
        raise node.error(f"`{node.key}` must be a list of `AC`, `WA`, `TLE` and `RTE`")
    return words


def _score(node: Node | None, settings: Settings) -> tuple[float, float] | None:
    if node is None:
        return None
    if not settings.scoring:
        raise node.error(f"`{node.key}` is for problems of type `scoring`")
    items = node.value if isinstance(node.value, list) else [node]
    numbers = [each.number("a score", least=0) for each in items]
    if len(numbers) > 2 or not numbers or numbers[0] > numbers[-1]:
        raise node.error(f"`{node.key}` must be a number, or a list of two, the lower one first")
    return numbers[0], numbers[-1]


def _glob(pattern: str, node: Node, tree: Tree) -> Glob:
    doubtful = looks_doubtful(pattern)
    if doubtful:
        tree.warn(f"`{shown(pattern)}`: `{doubtful}` stands for itself in globs", FILE, node.line)
    try:
        return Glob(pattern)
    except ValueError as error:
        raise node.error(f"glob `{shown(pattern)}` {error}") from None
