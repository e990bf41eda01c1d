"""CPython's own regression tests, outside and inside a sandbox, compared test by test.

Run by hand or by the tests: ``python tests/suites/cpython.py [--profile default] [MODULE…]``. Needs Debian's
libpython3.11-testsuite. Prints every test whose result differs, with both results, and a line for each module.
Exit status 0 when every difference is one of `EXPLAINED`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

PYTHON = "/usr/bin/python3"
ROOT = Path(__file__).resolve().parent.parent.parent

MODULES = (
    "test_os test_posix test_socket test_subprocess test_threading test_tempfile test_signal test_select test_selectors test_poll test_epoll"
    " test_mmap test_pty test_pathlib test_shutil test_stat test_glob test_fcntl test_io test_file test_fileio test_zipfile test_tarfile"
    " test_ssl test_hashlib test_queue test_thread test_threading_local test_fork1 test_popen test_pipes test_wait3 test_wait4"
    " test_resource test_time test_random test_json test_pickle test_struct test_dict test_asyncgen test_contextlib test_httplib test_urllib"
).split()

# Left out on both sides: the test's own thread machinery falls over when socket() is refused, and takes the module's report with it.
IGNORED = {"test_socket": ("*UDPLITE*",)}  # policy `default` knows TCP, UDP and ICMP, no other protocols

# (pattern of module.Class.test, why it differs inside). Every entry says which wall is in the way.
EXPLAINED: tuple[tuple[str, str], ...] = (
    (
        r"test\.test_os\.ChownFileTests\.test_chown_without_permission",
        "single-id map: other uids do not exist, chown(2) says EINVAL before EPERM",
    ),
    (
        r"test\.test_subprocess\.POSIXProcessTestCase\.test_(user|group)|\?",
        "single-id map: setuid(2) to other ids says EINVAL; reported as subtests",
    ),
    (r"test\.test_subprocess\.ProcessTestCase(NoPoll)?\.test_no_leaking", "limits.open-files of the profile is below what the test wants"),
    (r"test\.test_mmap\.LargeMmapTests\..*", "limits.file-size of the profile: no sparse files above it"),
    (r"test\.test_io\.(C|Py)IOTest\.test_large_file_ops", "limits.file-size of the profile: no sparse files above it"),
    (r"test\.test_resource\.ResourceTest\.test_fsize_ismax", "limits.file-size of the profile is RLIMIT_FSIZE"),
    (r"test\.test_fcntl\.TestFcntl\.test_fcntl_64_bit", "fcntl(F_NOTIFY) is refused: it watches directories of the host"),
    (r"test\.test_pickle\..*\.test_unpickle_module_race", "the test's clean-up unlinks in /usr/lib: EROFS inside, ENOENT outside"),
)


def run_module(module: str, profile: str | None, directory: Path) -> dict[str, str]:
    """Return test id → passed, failed, error or skipped."""
    report = directory / f"{module}.{'in' if profile else 'out'}.xml"
    target = f"/results/{report.name}" if profile else str(report)
    command = [PYTHON, "-m", "test", "--timeout", "100", "--junit-xml", target]
    for pattern in IGNORED.get(module, ()):
        command += ["-i", pattern]
    command.append(module)
    if profile:
        options = [
            "-q",
            "-p",
            profile,
            "-l",
            "wall=200s",
            "-l",
            "tmp=512M",
            "-l",
            "home=512M",
            "-v",
            f"{directory}:/results:rw",
            "--cwd",
            "no",
        ]
        command = [sys.executable, "-m", "sandbox", "exec", *options, "--", *command]
    env = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT) if profile else ""}
    if not profile:
        del env["PYTHONPATH"]
    done = subprocess.run(
        command, cwd=directory, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300
    )
    (directory / f"{report.stem}.log").write_bytes(done.stdout)
    results: dict[str, str] = {}
    if not report.exists():
        return {module: f"no report, exit {done.returncode}"}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("name", "?")
        kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        results[name] = kinds[0] if kinds else "passed"
        if case.get("status") == "skipped" or "skipped" in kinds:
            results[name] = "skipped"
    return results


def explain(name: str) -> str | None:
    """Return why a test may differ inside, or None."""
    return next((why for pattern, why in EXPLAINED if re.fullmatch(pattern, name)), None)


def compare(modules: list[str], profile: str) -> int:
    """Run and compare; print, and return how many differences nobody explained."""
    unexplained = total = 0
    with tempfile.TemporaryDirectory(prefix="cpython-suite-") as name:
        directory = Path(name)
        for module in modules:
            outside = run_module(module, None, directory)
            inside = run_module(module, profile, directory)
            if set(inside) == {module}:
                print(f"{module}: {inside[module]} inside: UNEXPLAINED", flush=True)
                unexplained += 1
                continue
            differing = sorted(test for test in outside.keys() | inside.keys() if outside.get(test) != inside.get(test))
            total += len(outside)
            print(f"{module}: {len(outside)} tests, {len(differing)} differ", flush=True)
            for test in differing:
                why = explain(test)
                unexplained += why is None
                print(f"  {test}: outside {outside.get(test)}, inside {inside.get(test)}: {why or 'UNEXPLAINED'}", flush=True)
            keep = os.environ.get("CPYTHON_SUITE_LOGS")
            if keep:
                for log in directory.glob(f"{module}.*"):
                    (Path(keep) / log.name).write_bytes(log.read_bytes())
    print(f"{len(modules)} modules, {total} tests, {unexplained} unexplained differences")
    return unexplained


def main() -> int:
    """Parse the command line."""
    words = sys.argv[1:]
    profile = "default"
    if words[:1] == ["--profile"]:
        profile, words = words[1], words[2:]
    return 1 if compare(words or MODULES, profile) else 0


if __name__ == "__main__":
    raise SystemExit(main())
