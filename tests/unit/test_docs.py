"""The documents against the code: every option, key and field is described, and every link leads somewhere."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

import sandbox
import sandbox.api.images
import sandbox.images
from sandbox.cli import image, policy
from sandbox.cli.doctor import USAGE as DOCTOR_USAGE
from sandbox.cli.exec import OPTIONS
from sandbox.cli.judge import OPTIONS as JUDGE_OPTIONS
from sandbox.cli.judge_environment import OPTIONS as ENVIRONMENT_OPTIONS
from sandbox.cli.judge_languages import OPTIONS as LANGUAGES_OPTIONS
from sandbox.cli.main import VERBS
from sandbox.cli.options import Option
from sandbox.policy import load
from sandbox.policy.locate import names
from sandbox.policy.model import Action
from sandbox.policy.profile_fields import FIELDS, TOP_KEYS
from sandbox.result import Result, Usage, Verdict
from sandbox.seccomp.lint import IDS

ROOT = Path(__file__).resolve().parent.parent.parent
MAN = ROOT / "docs" / "man"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("profiles/*.md"), *ROOT.glob("policies/*.md")])
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_PAGE = re.compile(r"\b(sandbox(?:-[a-z]+)?)\(([15])\)")


def _section(text: str, title: str) -> str:
    """Return what stands below a heading, up to the next one of its level."""
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return str(found)


def _entries(text: str) -> set[str]:
    """Return the words in backticks of the terms that a ``:   `` line explains, and of the first column of tables."""
    terms = re.findall(r"^(`.*)\n:   ", text, re.MULTILINE) + re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    return {word for term in terms for word in re.findall(r"`([^`]+)`", term)}


def _options(page: str) -> set[str]:
    words = {word.split(" ")[0] for word in _entries(_section((MAN / page).read_text(), "OPTIONS"))}
    return {word for word in words if re.fullmatch("--?[a-z-]+", word)}


def test_every_option_of_exec_has_an_entry_and_every_entry_an_option() -> None:
    existing = {f"--{option.name}" for option in OPTIONS} | {f"-{option.short}" for option in OPTIONS if option.short}
    assert _options("sandbox-exec.1.md") == existing


@pytest.mark.parametrize(
    ("page", "options"), [("judge", JUDGE_OPTIONS), ("judge-environment", ENVIRONMENT_OPTIONS), ("judge-languages", LANGUAGES_OPTIONS)]
)
def test_every_option_of_judge_has_an_entry_and_every_entry_an_option(page: str, options: tuple[Option, ...]) -> None:
    existing = {f"--{option.name}" for option in options} | {f"-{option.short}" for option in options if option.short}
    assert _options(f"sandbox-{page}.1.md") == existing


def test_every_option_of_doctor_has_an_entry() -> None:
    assert set(re.findall(r"^  (--?[a-z-]+)", DOCTOR_USAGE, re.MULTILINE)) <= _options("sandbox-doctor.1.md")


def test_every_policy_command_option_and_warning_has_an_entry() -> None:
    text = (MAN / "sandbox-policy.1.md").read_text()
    existing = set()
    for command in policy.commands():
        assert f"\n### {command} " in text, command
        for option in policy.load_command(command).OPTIONS:
            existing |= {f"--{option.name}"} | ({f"-{option.short}"} if option.short else set())
    assert _options("sandbox-policy.1.md") == existing
    assert _entries(_section(text, "WARNINGS")) == set(IDS)


def test_every_image_command_and_option_has_an_entry() -> None:
    text = (MAN / "sandbox-image.1.md").read_text()
    existing = set()
    for command in image.commands():
        assert f"\n### {command}\n" in text, command
        for option in image.load_command(command).OPTIONS:
            existing |= {f"--{option.name}"} | ({f"-{option.short}"} if option.short else set())
    assert _options("sandbox-image.1.md") == existing


def test_every_function_of_images_is_in_the_reference() -> None:
    text = _section((ROOT / "docs" / "reference" / "python.md").read_text(), "sandbox.images")
    for name in sandbox.images.__all__:
        assert re.search(rf"\b{name}\b", text), name
        assert getattr(sandbox.images, name) is getattr(sandbox.api.images, name)


def test_every_verb_has_a_page() -> None:
    described = _entries((MAN / "sandbox.1.md").read_text())
    for verb in VERBS:
        assert verb in described
        assert (MAN / f"sandbox-{verb}.1.md").is_file()


def test_every_profile_key_has_an_entry_and_every_entry_a_key() -> None:
    described = {word for word in _entries((MAN / "sandbox-profile.5.md").read_text()) if not word.startswith('"')}
    existing = set(FIELDS) | {key for key in TOP_KEYS if key == "extends"}
    assert described == existing


def test_the_profiles_readme_names_every_key() -> None:
    table = (ROOT / "profiles" / "README.md").read_text().partition("## Keys")[2]
    for key in FIELDS:
        last = key.rpartition(".")[2]
        word = "-inodes" if last.endswith("-inodes") else last
        assert re.search(rf"`[a-z.]*{re.escape(word)}`", table), key


def test_every_policy_key_and_action_has_an_entry() -> None:
    text = (MAN / "sandbox-policy.5.md").read_text()
    keys = _entries(_section(text, "KEYS")) - {"[[rule]]"}
    assert keys == {*load.TOP_KEYS, *load.RULE_KEYS} - {"rule"}
    assert _entries(_section(text, "ACTIONS")) == {str(action) for action in Action}
    shipped = _entries(_section(text, "SHIPPED POLICIES"))
    assert {name for name in names("policies") if (ROOT / "policies" / f"{name}.toml").exists()} == shipped


def _result() -> Result:
    return Result(
        verdict=Verdict.OK, cause="exit 0", exit_code=0, signal=None, usage=Usage(wall_ns=1, cpu_user_ns=1, cpu_sys_ns=1, cpu_source=""),
        run_id="", profile="", profile_digest="", policy="", policy_digest="",
    )  # fmt: skip


def test_every_key_of_a_result_and_every_verdict_has_an_entry() -> None:
    text = (MAN / "sandbox-result.5.md").read_text()
    assert _entries(_section(text, "DESCRIPTION")) == set(_result().to_dict())
    assert _entries(_section(text, "VERDICTS")) == {str(verdict) for verdict in Verdict}


def test_every_parameter_of_run_and_field_of_results_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference" / "python.md").read_text()
    signature = inspect.signature(sandbox.run)
    assert _entries(_section(text, "sandbox.run")) == set(signature.parameters)
    for name, parameter in signature.parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            assert f"{name}={parameter.default!r}".replace("'", '"') in text, name
    attributes = _entries(_section(text, "Result"))
    assert {field.name for field in dataclasses.fields(Result)} | {"ok", "limits_hit", "to_dict()"} == attributes
    assert all(f"`{field.name}`" in text for field in dataclasses.fields(Usage))
    exceptions = {name for name in sandbox.__all__ if isinstance(value := getattr(sandbox, name), type) and issubclass(value, Exception)}
    assert _entries(_section(text, "Exceptions")) == exceptions - {"SandboxError"}


def test_every_field_of_a_denial_has_an_entry() -> None:
    import json

    from sandbox.audit.events import Denial, LogFull, Suppressed, render_json_line

    text = (MAN / "sandbox-audit.5.md").read_text()
    common = {"event", "time", "run"}
    denial = Denial(
        time_ns=0, run="r", syscall="s", number=1, arch="a", args=(0,) * 6, decoded=(), pid=1, comm=b"c", errno="EPERM", rule_file="f",
        rule_line=1, reason="",
    )  # fmt: skip
    suppressed = Suppressed(time_ns=0, run="r", counts=(("s", 1),))
    assert set(json.loads(render_json_line(denial))) - common == _entries(_section(text, "denial"))
    assert set(json.loads(render_json_line(suppressed))) - common == _entries(_section(text, "suppressed"))
    full = set(json.loads(render_json_line(LogFull(time_ns=0, run="r", limit_bytes=1)))) - common
    assert all(f"`{key}`" in _section(text, "log-full") for key in full)
    assert all(f"`{key}`" in _section(text, "DESCRIPTION") for key in common)


def _targets(path: Path) -> list[str]:
    return [
        target for target in _LINK.findall(_FENCED.sub("", path.read_text())) if "://" not in target and not target.startswith("mailto:")
    ]


def _anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", _FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for target in _targets(path):
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        if not place.exists() or (anchor and anchor not in _anchors(place)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("path", sorted(MAN.glob("*.md")), ids=lambda path: path.name)
def test_manual_pages_name_pages_that_exist(path: Path) -> None:
    text = path.read_text()
    assert text.startswith(f"# {path.name.removesuffix('.md').replace('.', '(')})\n")
    missing = {f"{name}.{section}" for name, section in _PAGE.findall(text) if not (MAN / f"{name}.{section}.md").exists()}
    assert not missing


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        path = todo.pop()
        if path in reached:
            continue
        reached.add(path)
        for target in _targets(path):
            place = (path.parent / target.partition("#")[0]).resolve()
            if place.is_dir():
                todo += sorted(place.glob("*.md"))
            elif place.suffix == ".md" and place.exists():
                todo.append(place)
    assert [
        str(path.relative_to(ROOT)) for path in DOCUMENTS if path not in reached and path.parts[-2] not in ("profiles", "policies")
    ] == []
