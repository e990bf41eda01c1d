"""``problem.yaml`` of every format: what judging needs of it.

Keys about people, sources and licences may hold anything; a key that no format knows is an error, with its line. Source: Problem package format,
``legacy``, ``legacy-icpc`` and ``2025-09``, problem metadata.
"""

from __future__ import annotations

import re

from sandbox.judge.errors import PackageError
from sandbox.judge.package.confine import shown
from sandbox.judge.package.words import split_flags
from sandbox.judge.package.yaml_source import Node, check_keys, present, read_yaml
from sandbox.judge.problem import Format, ProblemLimits
from sandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox.judge.package.confine import Tree

_LOOKED_AT = 1000
FILE = "problem.yaml"
VERSIONS = {
    "legacy": Format.LEGACY,
    "legacy-icpc": Format.LEGACY_ICPC,
    "2025-09": Format.V2025_09,
    "2025-09-draft": Format.V2025_09,
    "2023-07": Format.V2025_09,
    "2023-07-draft": Format.V2025_09,
    "draft": Format.V2025_09,
}
_COMMON = ("problem_format_version", "type", "name", "uuid", "source", "license", "rights_owner", "limits", "keywords")
_LEGACY = (*_COMMON, "author", "source_url", "validation", "validator_flags", "grading")
_NEW = (*_COMMON, "version", "credits", "embargo_until", "languages", "allow_file_writing", "constants")
_ABOUT = ("author", "source_url", "version", "credits", "embargo_until")
_TYPES = ("pass-fail", "scoring", "multi-pass", "interactive", "submit-answer")
_SIZES = {
    "memory": ("memory_bytes", 20),
    "output": ("output_bytes", 20),
    "code": ("code_bytes", 10),
    "compilation_memory": ("compilation_memory_bytes", 20),
    "validation_memory": ("validation_memory_bytes", 20),
    "validation_output": ("validation_output_bytes", 20),
}
_TIMES = {"compilation_time": "compilation_time_ns", "validation_time": "validation_time_ns"}
_EXTENSIONS = ("generator_time", "visualizer_time")  # of BAPCtools
_CONSTANT = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_SECOND = 1_000_000_000
_MAXIMUM_SECONDS = 86_400
_NEEDS_NUMBER = "a number above 0"
_MAXIMUM_OUTPUT = 1024
"""MiB. Outputs are kept in the judge's memory, two of each kind and more at a time."""
_MAXIMUM_SIZE = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What ``problem.yaml`` says. `legacy_grading` holds keys that moved to ``testdata.yaml``."""

    format: Format = Format.LEGACY
    title: str = ""
    scoring: bool = False
    interactive: bool = False
    multi_pass: bool = False
    submit_answer: bool = False
    custom_output: bool = False
    custom_score: bool = False
    validator_flags: tuple[str, ...] = ()
    maximise: bool = True
    languages: tuple[str, ...] = ()
    allow_file_writing: bool = True
    limits: ProblemLimits = field(default_factory=ProblemLimits)
    constants: Mapping[str, str] = field(default_factory=dict)
    legacy_grading: Mapping[str, Node] = field(default_factory=dict)


def _hint_below(tree: Tree) -> str | None:
    """Return which packages a directory holds that is none."""
    try:
        below = [each.name for each in tree.list("")[:_LOOKED_AT] if each.directory and not tree.missing(f"{each.name}/{FILE}")]
    except PackageError:
        return None
    return f"it holds packages: `{tree.place(shown(below[0]))}`" + (f" and {len(below) - 1} more" if below[1:] else "") if below else None


def read_settings(tree: Tree) -> tuple[Settings, bytes]:
    """Return what ``problem.yaml`` says, and its bytes.

    Raises:
        PackageError: there is none, it cannot be read, or says what no format allows.
    """
    if tree.missing(FILE):
        raise PackageError(f"`{tree.shown}` is no problem package: it has no `{FILE}`", hint=_hint_below(tree))
    root, data = read_yaml(tree, FILE)
    if not isinstance(root.value, dict) and not root.is_null:
        raise root.error(f"`{FILE}` must be a map")
    keys = root.mapping()
    version = present(keys, "problem_format_version")
    name = version.text() if version else "legacy"
    if name not in VERSIONS:
        assert version is not None
        raise version.error(f"unknown format `{shown(name)}`", hint=f"known are {', '.join(f'`{each}`' for each in VERSIONS)}")
    read = _read_new if VERSIONS[name] is Format.V2025_09 else _read_legacy
    return read(keys, name, tree), data


def _read_legacy(keys: dict[str, Node], version: str, tree: Tree) -> Settings:
    _check_top(keys, _LEGACY, _NEW, tree)
    limits = _map(keys, "limits")
    kind = present(keys, "type")
    if kind is not None and kind.text() not in _TYPES[:2]:
        raise kind.error(f"`type` must be `pass-fail` or `scoring`, not `{shown(kind.text())}`")
    scoring = kind is not None and kind.text() == "scoring"
    if kind is not None and version == "legacy-icpc":
        tree.warn("`type` is not of the format `legacy-icpc`; read as `legacy` has it", FILE, kind.line)
    custom, parameters = _validation(keys, scoring)
    grading = _map(keys, "grading")
    check_keys(grading, ("objective", "show_test_data_groups", "accept_score", "reject_score", "range", "on_reject"), "grading.")
    objective = present(grading, "objective")
    if objective is not None and objective.text() not in ("max", "min"):
        raise objective.wrong("`max` or `min`")
    moved = {key: node for key, node in grading.items() if key in ("accept_score", "reject_score", "range", "on_reject") and not node.is_null}
    for key, node in moved.items():
        tree.warn(f"`grading.{key}` is older than the format; it belongs into `testdata.yaml`", FILE, node.line)
    if grading and not scoring:
        tree.warn("`grading` is for problems of type `scoring`", FILE, keys["grading"].line)
    flags = present(keys, "validator_flags")
    found = _limits(limits, tree, multi_pass="multi-pass" in parameters, legacy=True)
    return Settings(
        format=VERSIONS[version],
        title=_title(keys),
        scoring=scoring,
        interactive="interactive" in parameters,
        multi_pass="multi-pass" in parameters,
        custom_output=custom,
        custom_score="score" in parameters,
        validator_flags=split_flags(flags, tree, FILE) if flags else (),
        maximise=objective is None or objective.text() == "max",
        limits=found,
        legacy_grading=moved,
    )


def _validation(keys: dict[str, Node], scoring: bool) -> tuple[bool, frozenset[str]]:
    node = present(keys, "validation")
    words = node.text().split() if node else ["default"]
    if not words or words[0] not in ("default", "custom"):
        assert node is not None
        raise node.error(f"`validation` must begin with `default` or `custom`, not `{shown(node.text())}`")
    parameters = frozenset(words[1:])
    allowed = {"score", "interactive", "multi-pass"} if words[0] == "custom" else set()
    for each in sorted(parameters - allowed):
        assert node is not None
        raise node.error(f"`validation: {words[0]}` knows no `{shown(each)}`")
    if "score" in parameters and not scoring:
        assert node is not None
        raise node.error("`validation: custom score` is for problems of type `scoring`")
    return words[0] == "custom", parameters


def _read_new(keys: dict[str, Node], version: str, tree: Tree) -> Settings:
    for old, now in (("validation", "type"), ("validator_flags", "output_validator_args` in `test_group.yaml"), ("grading", "test_group.yaml")):
        if old in keys:
            raise keys[old].error(f"`{old}` is a key of the legacy format", hint=f"here it is `{now}`")
    _check_top(keys, _NEW, _LEGACY, tree)
    if version != "2025-09":
        tree.warn(f"format `{version}` is read as `2025-09`", FILE, keys["problem_format_version"].line)
    if "uuid" not in keys or "name" not in keys:
        tree.warn(f"`{'name' if 'name' not in keys else 'uuid'}` is missing", FILE)
    types = _types(keys, tree)
    multi_pass = "multi-pass" in types
    writing = present(keys, "allow_file_writing")
    languages = present(keys, "languages")
    codes = languages.words() if languages else ()
    return Settings(
        format=Format.V2025_09,
        title=_title(keys),
        scoring="scoring" in types,
        custom_score="scoring" in types,
        interactive="interactive" in types,
        multi_pass=multi_pass,
        submit_answer="submit-answer" in types,
        languages=() if "all" in codes else codes,
        allow_file_writing=writing.boolean() if writing else False,
        limits=_limits(_map(keys, "limits"), tree, multi_pass=multi_pass, legacy=False),
        constants=_constants(_map(keys, "constants"), tree),
    )


def _check_top(keys: dict[str, Node], known: tuple[str, ...], others: tuple[str, ...], tree: Tree) -> None:
    """Refuse unknown keys; those about people and sources that another format has are only doubtful, for nothing is read of them."""
    for key in _ABOUT:
        if key in keys and key not in known and key in others:
            tree.warn(f"`{key}` is a key of another format", FILE, keys[key].line)
    check_keys({key: node for key, node in keys.items() if key not in _ABOUT}, known)


def _types(keys: dict[str, Node], tree: Tree) -> frozenset[str]:
    node = present(keys, "type")
    if node is None:
        return frozenset(("pass-fail",))
    words = node.words()
    if isinstance(node.value, str) and len(node.value.split()) > 1:
        tree.warn("several types must be a list", FILE, node.line)
        words = tuple(node.value.split())
    for each in words:
        if each not in _TYPES:
            raise node.error(f"`type` knows no `{shown(each)}`", hint=f"known are {', '.join(f'`{each}`' for each in _TYPES)}")
    types = frozenset(words)
    for one, other in (("pass-fail", "scoring"), ("submit-answer", "multi-pass"), ("submit-answer", "interactive")):
        if {one, other} <= types:
            raise node.error(f"`type` cannot be both `{one}` and `{other}`")
    if len(types) != len(words):
        raise node.error("`type` names a type twice")
    return types


def _limits(limits: dict[str, Node], tree: Tree, *, multi_pass: bool, legacy: bool) -> ProblemLimits:
    old, new = ("time_multiplier", "time_safety_margin"), ("time_multipliers", "time_resolution")
    check_keys(limits, (*old, *new, "time_limit", "validation_passes", *_SIZES, *_TIMES, *_EXTENSIONS), "limits.")
    for key in (*(new if legacy else old), *(("time_limit",) if legacy else ()), *_EXTENSIONS):
        if key in limits:
            what = "read by BAPCtools only" if key in _EXTENSIONS else f"of the {'format 2025-09' if legacy else 'legacy format'}; it counts all the same"
            tree.warn(f"`limits.{key}` is {what}", FILE, limits[key].line)
    found: dict[str, int | float | None] = {} if legacy else {"ac_to_limit": 2.0, "limit_to_tle": 1.5}
    multipliers = _map(limits, "time_multipliers")
    check_keys(multipliers, ("ac_to_time_limit", "time_limit_to_tle"), "limits.time_multipliers.")
    for name, nodes in (
        ("ac_to_limit", (present(limits, "time_multiplier"), present(multipliers, "ac_to_time_limit"))),
        ("limit_to_tle", (present(limits, "time_safety_margin"), present(multipliers, "time_limit_to_tle"))),
    ):
        for each in nodes:
            if each is not None:
                found[name] = each.number("a number of at least 1", least=1, most=10_000)
    for key, (name, shift) in _SIZES.items():
        if (node := present(limits, key)) is not None:
            # The formats want whole numbers; the reference tools took others for years.
            most, wanted = (_MAXIMUM_OUTPUT, f"{_NEEDS_NUMBER}, {_MAXIMUM_OUTPUT} at most") if key.endswith("output") else (_MAXIMUM_SIZE, _NEEDS_NUMBER)
            number = node.number(wanted, least=0, above=True, most=most)
            found[name] = int(number * (1 << shift))
            if found[name] == 0:
                raise node.wrong(_NEEDS_NUMBER)
    for key, name in _TIMES.items():
        if (node := present(limits, key)) is not None:
            found[name] = _seconds(node)
    if (node := present(limits, "time_resolution")) is not None:
        found["resolution_ns"] = _seconds(node)
    if (node := present(limits, "time_limit")) is not None:
        found["time_ns"] = time = _seconds(node)
        step = int(found.get("resolution_ns") or _SECOND)
        if time % step and not legacy:
            raise node.error(f"`limits.time_limit` must be a multiple of `limits.time_resolution`, which is {step / _SECOND:g}")
    passes = present(limits, "validation_passes")
    if passes is not None and not multi_pass:
        tree.warn("`limits.validation_passes` is for problems of type `multi-pass`", FILE, passes.line)
    if multi_pass:
        found["validation_passes"] = passes.integer("a whole number of at least 2", least=2, most=10_000) if passes else 2
    return ProblemLimits(**found)  # type: ignore[arg-type]


def _seconds(node: Node) -> int:
    """Return nanoseconds, exact to the microsecond, which is as exact as anybody writes them."""
    return max(1, round(node.number(_NEEDS_NUMBER + " of seconds", least=0, above=True, most=_MAXIMUM_SECONDS) * 1_000_000)) * 1000


def _constants(constants: dict[str, Node], tree: Tree) -> dict[str, str]:
    """Return what takes the place of ``{{name}}`` and ``{{name.variant}}``, by what stands between the braces."""
    found: dict[str, str] = {}
    for name, node in constants.items():
        if not _CONSTANT.fullmatch(name):
            raise node.error(f"`constants` has a name that is none: `{shown(name)}`")
        variants = node.mapping() if isinstance(node.value, dict) else {"value": node}
        if "value" not in variants:
            raise node.error(f"`constants.{name}` has no `value`")
        for variant, value in variants.items():
            if not _CONSTANT.fullmatch(variant):
                raise value.error(f"`constants.{name}` has a variant whose name is none: `{shown(variant)}`")
            found[f"{name}.{variant}"] = value.text()
        found[name] = found[f"{name}.value"]
    return found


def _map(keys: dict[str, Node], key: str) -> dict[str, Node]:
    node = present(keys, key)
    return node.mapping() if node else {}


def _title(keys: dict[str, Node]) -> str:
    node = present(keys, "name")
    if node is None:
        return ""
    if isinstance(node.value, dict):
        names = {language: each.text() for language, each in node.value.items()}
        return names.get("en") or next(iter(names.values()), "")
    return node.text()
