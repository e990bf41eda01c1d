"""The report as JUnit's XML, which every system for continuous integration shows: a test case for each submission, and one for the package itself."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from sandbox.audit.events import escape_untrusted
from sandbox.judge.model import Code, PackageResult, SubmissionResult
from sandbox.judge.report import FailedPackage, Judged
from sandbox.judge.report.table import cpu_seconds, describe_case, needs_details, score_text, wrong_cases

_CASES = 20
_KINDS = {"failure": "failures", "error": "errors", "skipped": "skipped"}


def render_junit(packages: Sequence[Judged]) -> str:
    """Return the report as an XML document, in ASCII: a test suite for each package.

    A label that does not hold is a failure, an error of the judge or the package an error, and what was not judged is skipped.
    """
    suites = ElementTree.Element("testsuites", name="sandbox judge")
    for each in packages:
        suites.append(_package(each) if isinstance(each, PackageResult) else _failed(each))
    for key in ("tests", *_KINDS.values()):
        suites.set(key, str(sum(int(suite.get(key, "0")) for suite in suites)))
    ElementTree.indent(suites)
    document: bytes = ElementTree.tostring(suites, encoding="us-ascii", xml_declaration=True)
    return document.decode("ascii") + "\n"


def _failed(failed: FailedPackage) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", name=_text(failed.path), time="0.000")
    package = ElementTree.SubElement(suite, "testcase", classname=_text(failed.path), name="package", time="0.000")
    error = ElementTree.SubElement(package, "error", message=_text(failed.message), type="package")
    hint = [f"hint: {_text(failed.hint)}"] if failed.hint else []
    error.text = "\n".join([*(f"  {_text(line)}" for line in failed.origin.split("\n") if line), *hint])
    return _counted(suite)


def _counted(suite: ElementTree.Element) -> ElementTree.Element:
    suite.set("tests", str(len(suite.findall("testcase"))))
    for name, key in _KINDS.items():
        suite.set(key, str(len(suite.findall(f"testcase/{name}"))))
    return suite


def _package(result: PackageResult) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", name=_text(result.problem), time=_seconds(result.wall_ns))
    package = ElementTree.SubElement(suite, "testcase", classname=_text(result.problem), name="package", time="0.000")
    if result.problems:
        failure = ElementTree.SubElement(package, "failure", message=_text(result.problems[0]), type="package")
        failure.text = "\n".join(_text(problem) for problem in result.problems)
    if result.warnings:
        ElementTree.SubElement(package, "system-out").text = "\n".join(_text(f"warning: {text}") for text in result.warnings)
    for each in result.submissions:
        _submission(suite, result, each)
    return _counted(suite)


def _submission(suite: ElementTree.Element, result: PackageResult, each: SubmissionResult) -> None:
    directory = each.name.rpartition("/")[0].replace("/", ".")
    classname = f"{result.problem}.{directory}" if directory else result.problem
    spent = sum(case.wall_ns for case in each.cases if not case.skipped)
    test = ElementTree.SubElement(suite, "testcase", classname=_text(classname), name=_text(each.name), time=_seconds(spent))
    if each.absent:
        ElementTree.SubElement(test, "skipped", message=_text(each.absent))
        return
    details = [_text(problem) for problem in each.label_problems]
    details += [line for case in wrong_cases(each)[:_CASES] for line in describe_case(case)]
    if each.built is not None and each.built.program is None:
        details += [_text(each.built.cause), *(f"  {_text(line)}" for line in each.built.output.split("\n")[:_CASES])]
    if each.code is Code.JE or (needs_details(each) and each.label_ok is not False):
        ElementTree.SubElement(test, "error", message=_text(f"{each.code}, at {each.decided_by or 'the build'}"), type="JE").text = _lines(
            details
        )
    elif each.label_ok is False:
        message = each.label_problems[0] if each.label_problems else "the label does not hold"
        ElementTree.SubElement(test, "failure", message=_text(message), type=str(each.code)).text = "\n".join(details)
    told = [f"verdict {each.code}", f"slowest {cpu_seconds(each.max_cpu_ns)}"]
    if each.score is not None:
        told.append(f"score {score_text(each.score)}")
    if each.decided_by:
        told.append(f"decided by {each.decided_by}")
    ElementTree.SubElement(test, "system-out").text = _lines([", ".join(told), *each.sensitive])


def _lines(texts: list[str]) -> str:
    return "\n".join(_text(text) for text in texts)


def _text(text: str) -> str:
    """Printable ASCII: XML has no way to write most control characters."""
    return escape_untrusted(text, 500)


def _seconds(ns: int) -> str:
    return f"{ns / 1e9:.3f}"


__all__ = ["render_junit"]
