"""Launches on disk: used where nothing has changed, never where anything has. What is stored, and what a stored run imports."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.kernel.stored import NOTE, Place, make_place, write

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

Change = Callable[[Place], None]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


POLICY = """name = "{name}"
description = "for a test"
extends = ["{below}"]
[[rule]]
syscalls = ["sysinfo"]
action = "errno {errno}"
"""
SYSINFO = "import ctypes; l = ctypes.CDLL(None, use_errno=True); l.sysinfo(ctypes.create_string_buffer(999)); print(ctypes.get_errno())"
PROFILE = """description = "for a test"
extends = "{below}"
policy = "{policy}"
[limits]
open-files = {files}
"""


@pytest.fixture
def own(place: Place) -> Place:
    """A place with a profile and a policy of its own, each on top of another one of its own."""
    write(place.top / "lower.toml", POLICY.format(name="lower", below="default", errno="EPERM"))
    write(place.top / "upper.toml", 'name = "upper"\ndescription = "for a test"\nextends = ["./lower.toml"]\n')
    write(place.top / "base.toml", PROFILE.format(below="default", policy=place.top / "upper.toml", files=100))
    write(place.top / "top.toml", f'description = "for a test"\nextends = "{place.top}/base.toml"\n')
    place.options = ["--profile", str(place.top / "top.toml")]
    return place


def test_the_second_run_uses_the_first_one_s_launch(place: Place) -> None:
    place.miss("echo", "one")
    assert place.hit("echo", "two") == b"two\n"
    assert place.hit("echo", "three", "four") == b"three four\n"


def test_each_run_has_its_own_words_and_variables(place: Place) -> None:
    place.environ |= {"TERM": "first", "LC_ALL": "C"}
    place.miss("env")
    place.environ |= {"TERM": "second"}
    variables = dict(line.split("=", 1) for line in place.hit("env").decode().splitlines())
    assert (variables["TERM"], variables["LC_ALL"], variables["LANG"]) == ("second", "C", "C.UTF-8")
    assert place.hit("env", "printf", "%s|", "", "a b", "\udcff") == b"|a b|\xff|"


def test_what_a_stored_run_does_is_what_a_prepared_one_does(place: Place) -> None:
    """The whole view of a payload: mounts, limits, capabilities, environment, descriptors."""
    look = "cat /proc/self/mountinfo /proc/self/limits /proc/self/status; env; ls -l /proc/self/fd; ls -la / /etc /dev; cat /etc/passwd; ulimit -a; id; pwd"
    drop = re.compile(rb"^(?:\d+ \d+ \d+:\d+ |.*ctxt_switches|Cpus_allowed|Vm|Rss|Hugetlb|Threads|.* -> (?:pipe|/proc)|NSpid).*\n", re.MULTILINE)

    def seen(output: bytes) -> list[bytes]:
        mounts = [b" ".join(line.split()[3:]) for line in output.splitlines() if re.match(rb"\d+ \d+ \d+:\d+ ", line)]
        return mounts + drop.sub(b"", output).splitlines()

    first = place.miss("sh", "-c", look).stdout
    stored = place.hit("sh", "-c", look)
    anew = place.run("sh", "-c", look, options=["--no-cache"]).stdout
    times = re.compile(rb"[A-Z][a-z]{2} +\d+ \d\d:\d\d|0x[0-9a-f]+|[ug]id=\d+|^dr-xr-xr-x +\d+(?= .* proc$)")
    assert len(stored) > 5000 and [times.sub(b"", line) for line in seen(stored)] == [times.sub(b"", line) for line in seen(anew)]
    assert len(seen(first)) == len(seen(anew))


def test_denials_are_judged_and_told_by_the_stored_policy(own: Place) -> None:
    words = ("python3", "-c", SYSINFO)
    first = own.miss(*words)
    second = own.again(*words)
    assert first.stdout == second.stdout == b"1\n" and b"denied sysinfo (" in second.stderr
    assert NOTE.sub(b"", first.stderr) == NOTE.sub(b"", second.stderr)


def test_a_failure_is_explained_as_without_a_cache(place: Place) -> None:
    script = place.work / "tool"
    write(script, "#!/bin/sh\necho fine\n", 0o755)
    place.miss("./tool")
    assert place.hit("./tool") == b"fine\n"
    prepared = place.run("./tool", options=["-l", "processes=1", "--no-cache"])
    place.run("./tool", options=["-l", "processes=1"])
    stored = place.run("./tool", options=["-l", "processes=1"])
    assert (prepared.returncode, NOTE.sub(b"", prepared.stderr)) == (stored.returncode, NOTE.sub(b"", stored.stderr))


def _profile(place: Place) -> None:
    write(place.top / "top.toml", (place.top / "top.toml").read_text() + "[limits]\nopen-files = 77\n")


def _lower_profile(place: Place) -> None:
    write(place.top / "base.toml", (place.top / "base.toml").read_text().replace("= 100", "= 099".replace("0", "7", 1)))


def _same_size_same_times(place: Place) -> None:
    path = place.top / "base.toml"
    before = path.stat()
    write(path, path.read_text().replace("= 100", "= 778"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(("change", "expected"), [
    (_profile, b"77\n"), (_lower_profile, b"799\n"), (_same_size_same_times, b"778\n"),
], ids=["profile", "the profile below it", "same size and times"])  # fmt: skip
def test_an_edited_profile(own: Place, change: Change, expected: bytes) -> None:
    words = ("sh", "-c", "ulimit -n")
    assert own.miss(*words).stdout == b"100\n" == own.hit(*words)
    change(own)
    assert own.miss(*words).stdout == expected == own.hit(*words)


@pytest.mark.parametrize("name", ["lower", "upper"])
def test_an_edited_policy(own: Place, name: str) -> None:
    words = ("python3", "-c", SYSINFO)
    assert own.miss(*words).stdout == b"1\n"
    below = "./lower.toml" if name == "upper" else "default"
    write(own.top / f"{name}.toml", POLICY.format(name=name, below=below, errno="ENOSYS"))
    assert own.miss(*words).stdout == b"38\n"
    assert own.again(*words).stdout == b"38\n"


def _tool(text: str) -> Change:
    return lambda place: write(place.tools / "tool", text, 0o755)


def _earlier(place: Place) -> None:
    """A program of that name appears earlier in PATH."""
    first = place.top / "first"
    place.environ["PATH"] = f"{first}:{place.environ['PATH']}"


def _appears(place: Place) -> None:
    write(place.top / "early" / "tool", "#!/bin/sh\necho early\n", 0o755)


def _link(place: Place) -> None:
    (place.tools / "tool").unlink()
    os.symlink(place.top / "other" / "tool", place.tools / "tool")


def _not_executable(place: Place) -> None:
    (place.tools / "tool").chmod(0o644)


def _gone(place: Place) -> None:
    (place.tools / "tool").unlink()


@pytest.mark.parametrize(("change", "code", "output"), [
    (_tool("#!/bin/bash\necho $0\n"), 0, b"tool"), (_tool("#!/nowhere/sh\n"), 127, b""), (_appears, 0, b"early"), (_link, 0, b"other"),
    (_not_executable, 126, b""), (_gone, 127, b""),
], ids=["interpreter", "no interpreter", "earlier in PATH", "a link instead", "not executable", "gone"])  # fmt: skip
def test_another_program(place: Place, change: Change, code: int, output: bytes) -> None:
    for name in ("early", "other"):
        (place.top / name).mkdir()
    write(place.top / "other" / "tool", "#!/bin/sh\necho other\n", 0o755)
    place.environ["PATH"] = f"{place.top}/early:{place.environ['PATH']}"
    write(place.tools / "tool", "#!/bin/sh\necho first\n", 0o755)
    assert place.miss("tool").stdout == b"first\n" == place.hit("tool")
    change(place)
    done = place.miss("tool")
    assert done.returncode == code and output in done.stdout, done


def test_another_path_or_home(place: Place) -> None:
    place.miss("true")
    place.hit("true")
    place.environ["PATH"] = "/usr/bin:/bin"
    place.miss("true")
    place.hit("true")
    place.environ["HOME"] = str(place.work)  # a home directory is not shared
    assert b"working directory" in place.miss("true").stderr


def test_a_new_variable_has_an_entry_of_its_own(place: Place) -> None:
    place.miss("env")
    place.environ["VIRTUAL_ENV"] = str(place.tools)
    place.miss("env")
    del place.environ["VIRTUAL_ENV"]
    assert b"VIRTUAL_ENV" not in place.hit("env")


def test_a_socket_in_the_working_directory_is_hidden_at_once(place: Place) -> None:
    words = ("sh", "-c", "for each in *; do test -S $each && echo $each; done; true")
    (place.work / "deep").mkdir()
    assert place.miss(*words).stdout == b""
    place.hit(*words)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(place.work / "s"))
        assert place.miss(*words).stdout == b"", "the socket can be reached"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(place.work / "deep" / "s"))
        assert place.miss("sh", "-c", "test ! -S deep/s").returncode == 0


def test_another_directory_of_the_same_name(place: Place) -> None:
    place.options = ["-v", f"{place.top}/data:/data"]
    (place.top / "data").mkdir(mode=0o755)
    write(place.top / "data" / "file", "first\n")
    assert place.miss("cat", "/data/file").stdout == b"first\n" == place.hit("cat", "/data/file")
    os.rename(place.top / "data", place.top / "away")
    (place.top / "data").mkdir(mode=0o755)
    write(place.top / "data" / "file", "second\n")
    assert place.miss("cat", "/data/file").stdout == b"second\n" == place.hit("cat", "/data/file")
    shutil.rmtree(place.top / "data")
    os.symlink(place.top / "away", place.top / "data")
    assert place.miss("cat", "/data/file").stdout == b"first\n"


def test_a_file_s_content_is_not_stored(place: Place) -> None:
    """A shared file is shared as it is: another content is no other launch."""
    write(place.work / "file", "first\n")
    assert place.miss("cat", "file").stdout == b"first\n"
    write(place.work / "file", "second\n")
    assert place.hit("cat", "file") == b"second\n"


def test_another_working_directory_or_option(place: Place) -> None:
    (place.top / "elsewhere").mkdir(mode=0o755)
    assert place.miss("pwd").stdout.decode() == f"{place.work}\n" == place.hit("pwd").decode()
    place.cwd = place.top / "elsewhere"
    assert place.miss("pwd").stdout.decode() == f"{place.cwd}\n" == place.hit("pwd").decode()
    words = ("sh", "-c", "ulimit -n")
    place.miss(*words)
    place.options = ["-l", "open-files=55"]
    assert place.miss(*words).stdout == b"55\n" == place.hit(*words)


def test_a_lower_limit_and_priority_of_the_caller(place: Place) -> None:
    words = ("sh", "-c", "ulimit -Hn; nice")
    place.miss(*words)
    limit, priority = place.hit(*words).split()
    place.files = 200
    assert int(limit) > 200 and place.miss(*words).stdout.split() == [b"200", priority] == place.hit(*words).split()
    place.nice = 5
    done = place.miss(*words)
    own = 0 if os.geteuid() == 0 else min(19, os.getpriority(os.PRIO_PROCESS, 0) + 5)
    assert done.stdout.split() == [b"200", str(own).encode()]


def test_no_secret_is_stored(place: Place) -> None:
    secret = "hunter2-correct-horse"
    place.environ |= {"TOKEN": secret + "-t", "LC_ALL": "C"}
    place.options = ["-e", "TOKEN"]
    assert place.miss("sh", "-c", f"echo $TOKEN {secret}-a").stdout.decode() == f"{secret}-t {secret}-a\n"
    place.hit("sh", "-c", "true")
    assert secret.encode() not in place.entry().read_bytes()
    before = place.state()
    assert place.run("sh", "-c", "echo $KEY", options=["-e", f"KEY={secret}"]).stdout.decode() == secret + "\n"
    assert place.state() == before and secret.encode() not in b"".join(path.read_bytes() for path in place.launches.iterdir())


def test_it_can_be_turned_off(place: Place) -> None:
    place.run("true", options=["--no-cache"])
    place.environ["SANDBOX_CACHE"] = "off"
    place.run("true")
    place.run("true")
    assert not place.launches.exists() and not place.modules.exists()
    del place.environ["SANDBOX_CACHE"]
    place.miss("true")
    assert place.hit("true") == b""
    place.options = ["--no-cache"]
    state = place.state()
    assert place.run("true").returncode == 0 and place.state() == state


def test_a_dry_run_neither_reads_nor_writes(place: Place) -> None:
    done = place.run("true", options=["--dry-run"])
    assert (done.returncode == 0 and b"execve" in done.stdout.lower()) or b"true" in done.stdout
    assert not place.launches.exists()


def test_the_number_of_entries_is_bounded(place: Place) -> None:
    place.miss("true")
    for index in range(200):
        path = place.launches / f"{index:032x}"
        path.write_bytes(b"old")
        os.utime(path, (index, index))
    place.miss("echo")
    left = {path.name for path in place.launches.iterdir()}
    assert len(left) <= 128 and f"{0:032x}" not in left and f"{199:032x}" in left
    place.hit("echo")


def test_every_question_to_the_file_system_is_noted(place: Place, tmp_path: Path) -> None:
    """What the kernel was asked, by strace, is what was noted; but for our own code and the cache of filters."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    program = tmp_path / "listen.py"
    program.write_text(f"""
import os, sys
sys.path[:0] = [{str(ROOT)!r}]
from sandbox.api import recall, storing
from sandbox.cli import exec as verb
def prepare():
    for memory in (recall._policies, recall._profiles, recall._filters):
        memory.clear()
    return verb._prepare({{"volume": [{str(place.tools)!r} + ":/tools"]}}, ["python3", "x"], os.getcwd())
storing.listen(prepare)
storing.listen(prepare)
os.write(2, b"BEGIN")
prepared, noted = storing.listen(prepare)
os.write(2, b"END")
assert noted is not None
paths = set()
for kind, answers in noted.listener.notes.items():
    for key in answers:
        paths |= {{part for part in (key if isinstance(key, tuple) else (key,)) if isinstance(part, str)}}
print("\\n".join(sorted(paths)))
""")
    log = tmp_path / "log"
    done = subprocess.run(
        [strace, "-o", str(log), "-s", "4096", "-e", "trace=%file,write", sys.executable, "-I", str(program)],
        cwd=place.work, env=place.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    noted = set(done.stdout.splitlines())
    asked = set()
    inside = log.read_text().partition('"BEGIN"')[2].partition('"END"')[0]
    for line in inside.splitlines():
        found = re.match(r'\w+\((?:AT_FDCWD, )?"([^"]*)"', line)
        if found and not line.startswith("write"):
            asked.add(found[1])
    code = (str(ROOT / "sandbox"), sys.prefix, sys.base_prefix + "/lib/python", str(place.cache))
    if os.geteuid() == 0:
        code += ("/sys/fs/cgroup", "/proc/self/cgroup")  # looked at anew by each run that has one
    missing = {path for path in asked - noted if not path.startswith(code) and path != ""}
    # The user database is asked as a whole, how many processors there are by a function; the two links of a time zone's name belong to the C library.
    assert missing <= {"/etc/nsswitch.conf", "/etc/passwd", "/etc/localtime", "/proc/self/status", "/sys/devices/system/cpu/online"}, missing
    assert len(asked & noted) > 100


ALLOWED = """
sandbox sandbox.abi sandbox.abi.arch sandbox.api sandbox.api.execute sandbox.api.finish sandbox.api.questions sandbox.api.registered sandbox.api.start
sandbox.api.spawned sandbox.api.streams
sandbox.api.request sandbox.api.stored sandbox.api.usage sandbox.audit sandbox.audit.decode sandbox.audit.events sandbox.audit.sinks sandbox.audit.summary
sandbox.audit.tally sandbox.cgroup sandbox.cgroup.none sandbox.cgroup.unheeded sandbox.cli sandbox.cli.exec sandbox.cli.main sandbox.cli.modules
sandbox.cli.options sandbox.cli.signals
sandbox.cli.start sandbox.enums sandbox.errors sandbox.kernel sandbox.kernel.calls sandbox.kernel.seccomp_notify sandbox.launch sandbox.launch.privileges
sandbox.launch.spawn sandbox.plan sandbox.plan.codec sandbox.plan.fds sandbox.plan.vectors sandbox.record sandbox.registry sandbox.registry.control
sandbox.launch.shield sandbox.registry.entry sandbox.registry.place sandbox.result sandbox.rootfs sandbox.rootfs.environment sandbox.store sandbox.supervise
sandbox.supervise.deadlines sandbox.supervise.handover sandbox.supervise.loop sandbox.supervise.monitor sandbox.supervise.notify
sandbox.supervise.clock sandbox.supervise.pump sandbox.supervise.records sandbox.supervise.reins sandbox.supervise.sampling sandbox.supervise.streams
sandbox.supervise.watched sandbox.verdict sandbox.api.machine sandbox.supervise.machine_view
""".split()
# Of the standard library: what an interpreter has anyway, `os`, and compiled modules; nothing that imports a dozen others.
LIBRARY = """
__future__ _abc _blake2 _codecs _collections_abc _ctypes _frozen_importlib _frozen_importlib_external _functools _imp _io _prctl _signal _socket _stat _struct
_thread _warnings _weakref abc builtins codecs encodings encodings.aliases encodings.utf_8 errno fcntl gc genericpath io marshal os os.path posix posixpath pwd
select stat struct sys time zipimport
""".split()
WITH_A_CGROUP = """
re re._casefix re._compiler re._constants re._parser _sre enum types functools collections collections.abc operator keyword reprlib copyreg itertools _operator
_collections encodings.ascii sandbox.cgroup.find sandbox.cgroup.v1 sandbox.cgroup.v2 sandbox.cgroup.files
sandbox.cgroup.model sandbox.cgroup.mounts sandbox.cgroup.run sandbox.cgroup.devices sandbox.policy sandbox.policy.profile sandbox.launch.idmap
""".split()


def test_the_path_of_a_stored_run_imports_nothing_more(place: Place) -> None:
    """Import time is launch time: whoever adds a module here says why it cannot wait until it is needed."""
    packages = next(path for path in sys.path if path.endswith("-packages"))
    program = f"""
import sys
sys.path[:0] = [{str(place.package)!r}]
sys.path.append({packages!r})
import os, gc
from sandbox.cli.modules import load_modules
load_modules(os.environ)
from sandbox.cli.start import start
from sandbox.cli.main import main
assert main(["exec", "-q", "--", "true"]) == 0
sys.stderr.write("\\n".join(sorted(sys.modules)))
"""
    hits = 0
    for _ in range(20):
        before = place.state()
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", program], cwd=place.work, env=place.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        hits += place.state() == before
        if hits == 2:
            break
    assert hits == 2
    found = {name for name in done.stderr.splitlines() if name != "__main__"}
    extra = found - set(ALLOWED) - set(LIBRARY)
    assert {name for name in extra if os.geteuid() or name not in WITH_A_CGROUP} == set()
