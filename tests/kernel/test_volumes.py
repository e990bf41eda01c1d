"""Named volumes in real runs: kept between them, filled as Docker documents, mounted over things that stay as they are, locked until a run is gone."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.api.execute import Hooks, execute
from sandbox.api.prepare import Command, prepare
from sandbox.api.streams import Streams
from sandbox.errors import PolicyError, SandboxError
from sandbox.plan import build
from sandbox.policy.profile import Volume
from sandbox.policy.profile_load import load_profile, override_profile
from sandbox.record import replace
from sandbox.result import Result
from sandbox.rootfs.volumes import parse_tmpfs, parse_volume
from sandbox.volumes.place import ROOT_OWNER
from tests.kernel.stored import Place, make_place

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]

LICENSES = "/usr/share/common-licenses"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SANDBOX_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data/volumes"


def shell(script: str, *volumes: str | Volume, **options: Any) -> Result:
    return sandbox.run(["sh", "-c", script], volumes=volumes, **options)


def output(script: str, *volumes: str | Volume, **options: Any) -> str:
    result = shell(script, *volumes, **options)
    assert result.ok, (result.exit_code, result.stderr)
    return (result.stdout or b"").decode()


@pytest.mark.parametrize("executor", ["native", "python"])
def test_what_a_run_writes_the_next_one_has(executor: str, store: Path) -> None:
    """Each is another host user where root calls; the files are the program's all the same."""
    assert output("mkdir /v/d; echo one > /v/d/x; chmod 600 /v/d/x; stat -c %U:%G /v /v/d/x", "v:/v", executor=executor) == "user:user\n" * 2
    assert output("cat /v/d/x; echo two >> /v/d/x; chmod 400 /v/d/x; stat -c %U /v/d/x", "v:/v", executor=executor) == "one\nuser\n"
    assert output("cat /v/d/x; rm -r /v/d; ls -A /v", "v:/v", executor=executor) == "one\ntwo\n"
    assert (store / "v/data").stat().st_uid == (os.geteuid() or ROOT_OWNER)


@pytest.mark.root
def test_without_the_map_another_run_of_roots_cannot_write(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the one above: the payload is another uid, and so it would find files of somebody else."""
    output("echo mine > /v/x", "v:/v")
    monkeypatch.setattr(build, "_mapped", lambda request, root: root.trees)
    result = shell("stat -c %u /v/x; echo more >> /v/x", "v:/v")
    assert not result.ok and result.stdout == b"65534\n" and b"Permission denied" in (result.stderr or b"")
    monkeypatch.undo()
    monkeypatch.setenv("SANDBOX_DATA_DIR", str(store.parent))
    assert output("stat -c %u /v/x; echo more >> /v/x", "v:/v") == "1000\n"


def test_read_only_and_writable(store: Path) -> None:
    output("echo x > /v/x", "v:/v")
    result = shell("cat /v/x; echo y > /v/y; rm -f /v/x; chmod 777 /v", "v:/v:ro")
    assert result.stdout == b"x\n" and (result.stderr or b"").count(b"Read-only file system") == 3
    assert os.listdir(store / "v/data") == ["x"]


def test_nothing_is_made_by_a_plan_or_by_a_command_that_is_not_there(store: Path, sandbox_cli: Any) -> None:
    done = sandbox_cli("exec", "-p", "strict", "--dry-run", "-v", "v:/v", "--", "true", env={"SANDBOX_DATA_DIR": str(store.parent)})
    assert done.returncode == 0 and f"take `{store}/v/data` writable".encode() in done.stdout
    with pytest.raises(SandboxError, match="no-such-command"):
        sandbox.run(["no-such-command"], volumes=["v:/v"])
    assert not store.exists()


# ---- what Docker documents


def image(top: Path) -> tuple[Path, ...]:
    """Make two layers: files, modes, links, a whiteout and an opaque directory."""
    low, high = top / "low", top / "high"
    for path, text in (("d/a", "a"), ("d/gone", "g"), ("d/sub/old", "o"), ("d/opaque/old", "o"), ("file", "f"), ("d/script", "#!/bin/sh\necho run\n")):
        (low / path).parent.mkdir(parents=True, exist_ok=True)
        (low / path).write_text(text)
    for path in ("empty", "other"):
        (low / path).mkdir()
    for path in ("d/new", "d/opaque/new", "d/sub/new"):
        (high / path).parent.mkdir(parents=True, exist_ok=True)
        (high / path).write_text("n")
    (low / "d/script").chmod(0o755)
    (low / "d/sub").chmod(0o750)
    (low / "empty").chmod(0o1777)
    (low / "d").chmod(0o775)
    os.link(low / "d/a", low / "d/hard")
    (low / "d/soft").symlink_to("a")
    (low / "link").symlink_to("/d")
    os.mknod(high / "d/gone", stat.S_IFCHR | 0o600, 0)
    os.setxattr(high / "d/opaque", "user.overlay.opaque", b"y")
    (high / "d").chmod(0o775)
    (high / "d/sub").chmod(0o750)
    return high, low


def run_on(layers: Sequence[Path], script: str, *volumes: str, inside: str = "") -> Result:
    """Run with volumes that are filled from these layers."""
    profile = override_profile(load_profile("strict"), volumes=[parse_volume(text, "/") for text in volumes], origin="test")
    prepared = prepare(Command(argv=("sh", "-c", script), profile=profile, environ=dict(os.environ)))
    uses = tuple(
        replace(use, sources=tuple(map(str, layers)), inside=inside or use.target, public=False) for use in prepared.root.volumes
    )  # fmt: skip
    return execute(replace(prepared, root=replace(prepared.root, volumes=uses)), Streams(), Hooks()).result


FULL = "a hard new opaque script soft sub"
LIST = "cd {}; ls -A | tr '\\n' ' '"


# Name, what is done before, volumes, script, expected output or error. The rows are those of the table in sandbox-volume(1).
CASES: tuple[tuple[str, str, tuple[str, ...], str, str], ...] = (
    ("empty volume, directory with files", "", ("v:/d",), LIST.format("/d"), FULL),
    ("modes, links, the top's mode", "", ("v:/d",), "cd /d; stat -c %a . script sub; stat -c %h a; readlink soft; ./script", "775\n755\n750\n2\na\nrun"),
    ("whiteouts and opaque directories", "", ("v:/d",), "cd /d; ls gone 2>/dev/null; ls opaque sub", "opaque:\nnew\n\nsub:\nnew\nold"),
    ("empty volume, empty directory", "", ("v:/empty",), LIST.format("/empty") + "; stat -c %a .", "1777"),
    ("empty volume, nothing there", "", ("v:/absent/deep",), LIST.format("/absent/deep") + "; stat -c %a .", "755"),
    ("empty volume, link to a directory", "", ("v:/link",), LIST.format("/link"), FULL),
    ("a file there", "", ("v:/file",), "true", "is a file, or leads to one"),
    ("volume with files", "echo mine > /v/mine", ("v:/d",), LIST.format("/d"), "mine"),
    ("volume with only a directory", "mkdir /v/mine", ("v:/d",), LIST.format("/d"), "mine"),
    ("nocopy", "", ("v:/d:nocopy",), LIST.format("/d"), ""),
    ("read-only", "", ("v:/d:ro",), LIST.format("/d") + "; touch x 2>/dev/null || echo refused", FULL + " refused"),
    ("empty subpath", "mkdir -p /v/s/t", ("v:/d:subpath=s/t",), LIST.format("/d"), FULL),
    ("subpath that is not there", "", ("v:/d:subpath=s",), "true", "has no directory `s`"),
    ("one volume inside of another", "", ("v:/d", "w:/d/sub"), "cd /d; ls -A . sub | tr '\\n' ' '; echo >sub/w", ".: " + FULL + "  sub: new old"),
    ("one volume at two places", "", ("v:/d", "v:/other"), "echo x > /d/x; ls -A /other | tr '\\n' ' '", FULL + " x"),
    ("two volumes at one place", "", ("v:/d", "w:/d"), "true", "two volumes have the target `/d`"),
)


@pytest.mark.parametrize(("before", "volumes", "script", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_docker_s_cases(before: str, volumes: tuple[str, ...], script: str, expected: str, store: Path, tmp_path: Path) -> None:
    layers = image(tmp_path)
    if before:
        output(before, "v:/v")
    try:
        result = run_on(layers, script, *volumes)
    except PolicyError as error:
        assert expected in error.message
        return
    assert result.ok, result.stderr
    assert (result.stdout or b"").decode().strip() == expected
    if "w:/d/sub" in volumes:
        assert sorted(os.listdir(store / "w/data")) == ["new", "old", "w"]  # the inner volume has its own copy, and what was written
        assert sorted(os.listdir(store / "v/data/sub")) == ["new", "old"]  # what it hides is as it was


def test_a_second_run_keeps_what_was_written_and_what_was_removed(store: Path, tmp_path: Path) -> None:
    layers = image(tmp_path)
    assert run_on(layers, "cd /d; rm a new; echo changed > hard", "v:/d").ok
    result = run_on(layers, "cd /d; ls | tr '\\n' ' '; cat hard", "v:/d")
    assert result.stdout == b"hard opaque script soft sub changed\n"
    # Emptied, it is filled again: Docker looks at what is in it, not at how often it was used.
    assert run_on(layers, "cd /d; rm -r *", "v:/d").ok
    assert run_on(layers, "cat /d/a", "v:/d").stdout == b"a"


def test_without_an_image_the_system_s_directory_fills_it(store: Path) -> None:
    before = sorted((path.name, path.lstat().st_mtime_ns, path.lstat().st_size) for path in Path(LICENSES).iterdir())
    assert output(f"cd {LICENSES}; rm -f *; echo mine > BSD; ls", f"v:{LICENSES}") == "BSD\n"
    assert output(f"cat {LICENSES}/BSD", f"v:{LICENSES}:ro") == "mine\n"
    # It hides and never changes what lies under it.
    assert sorted((path.name, path.lstat().st_mtime_ns, path.lstat().st_size) for path in Path(LICENSES).iterdir()) == before
    assert "GPL-3" in output(f"ls {LICENSES}")


def test_a_writable_path_does_change_what_lies_under_it(store: Path, tmp_path: Path) -> None:
    """The control of hiding: the same commands on a host path."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "GPL").write_text("x")
    (shared / "GPL").chmod(0o666)
    output(f"cd {LICENSES}; rm -f *; echo mine > BSD", f"{shared}:{LICENSES}:rw")
    assert os.listdir(shared) == ["BSD"]


def test_a_file_of_the_system_is_no_place_for_a_volume(store: Path) -> None:
    for target in (f"{LICENSES}/BSD", "/etc/passwd", "/bin"):
        with pytest.raises(PolicyError, match=r"mount on `.*`: it is a (file|symbolic link) inside"):
            shell("true", f"v:{target}")


def test_what_is_left_out_is_said(store: Path, tmp_path: Path) -> None:
    (tmp_path / "low/d").mkdir(parents=True)
    os.mkfifo(tmp_path / "low/d/fifo")
    result = run_on([tmp_path / "low"], "ls -A /d", "v:/d")
    assert result.stdout == b"" and "volume `v`: 1 entry left out, a device, socket or FIFO: `/fifo`" in result.notes


# ---- ways to start a run


def test_every_run_of_a_sandbox_opens_its_volumes(store: Path) -> None:
    with sandbox.Sandbox(volumes=["v:/v"], pool=1, python=True) as box:
        for number in range(3):
            result = box.run(["sh", "-c", f"echo {number} >> /v/log; cat /v/log"])
            assert result.ok and result.launched == "spawned" and (result.stdout or b"").count(b"\n") == number + 1
        result = box.run(["python3", "-c", "print(open('/v/log').read(), end='')"])
        assert result.ok and result.stdout == b"0\n1\n2\n"
        assert sandbox.volumes.find("v").uses == ()
        sandbox.volumes.remove("v")  # between two runs nobody has it
        assert box.run(["ls", "-A", "/v"]).stdout == b""
        with box.popen(["sh", "-c", "echo here; read line"], stdin=sandbox.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline() == b"here\n"
            assert [use.writable for use in sandbox.volumes.find("v").uses] == [True]
            process.kill()
            process.wait()
    with sandbox.Sandbox() as box:  # the control: without a volume it is served
        assert box.run(["true"]).launched != "spawned"


def test_a_stored_launch_opens_its_volumes_anew(tmp_path: Path) -> None:
    place: Place = make_place(tmp_path)
    place.options = ["--profile", "strict", "-v", f"v:{LICENSES}"]
    place.miss("sh", "-c", f"rm {LICENSES}/GPL-3")
    assert b"\nGPL-3" not in place.hit("sh", "-c", f"ls {LICENSES}")
    data = place.home / ".local/share/sandbox/volumes/v"
    data.rename(tmp_path / "away")  # another volume of that name is another volume
    assert b"\nGPL-3" in place.hit("sh", "-c", f"ls {LICENSES}")
    place.options = ["--profile", "strict", "-v", "v:/v:lock"]
    place.miss("true")
    assert place.hit("sh", "-c", "ls /v/GPL-3") == b"/v/GPL-3\n"
    place.options = ["--profile", "strict", "-v", "w:/v"]
    place.miss("true")
    (place.work / "w").mkdir()  # it would be a question which is meant; but the volume is there
    assert place.again("true").returncode == 0


# ---- locks


class Holder:
    """A command line that has a volume locked until it is ended, and its janitor."""

    def __init__(self, sandbox_cli: Any, store: Path, option: str) -> None:
        self.process: subprocess.Popen[bytes] = sandbox_cli.popen(
            "exec", "-p", "strict", "-l", "wall=600", "--name", "holder", "-v", option, "--", "sh", "-c", "echo started; exec sleep 600",
            env={"SANDBOX_DATA_DIR": str(store.parent)},
        )  # fmt: skip
        assert self.process.stdout is not None and self.process.stdout.readline() == b"started\n"
        (self.janitor,) = [int(word) for word in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]

    def await_janitor(self) -> None:
        try:
            fd = os.pidfd_open(self.janitor)
        except ProcessLookupError:
            return
        try:
            assert select.select([fd], [], [], 90)[0]
        finally:
            os.close(fd)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=90)


@pytest.mark.orphans
@pytest.mark.parametrize("walled", [True, False], ids=["whole", "janitor without the lock"])
def test_a_sigkill_of_the_caller_frees_the_lock_when_the_run_is_gone_and_not_earlier(
    walled: bool, store: Path, sandbox_cli: Any, tmp_path: Path
) -> None:
    holder = Holder(sandbox_cli, store, "v:/v:lock")
    try:
        with pytest.raises(sandbox.volumes.VolumeInUse, match=r"taken by run `.*` \(`holder`\), which has it locked and writes to it"):
            shell("true", "v:/v")
        assert shell("true", "v:/v:ro").ok
        if not walled:
            # What a janitor would be that does not hold it: the caller's own description is the only one.
            (entry,) = (store / "v/runs").iterdir()
            copy = entry.read_bytes()
            entry.unlink()
            entry.write_bytes(copy)
        os.kill(holder.janitor, signal.SIGSTOP)
        holder.process.kill()
        holder.process.wait(90)
        children = Path(f"/proc/{holder.janitor}/task/{holder.janitor}/children").read_text().split()
        assert children  # the run lives: nobody has ended it yet
        if walled:
            with pytest.raises(sandbox.volumes.VolumeInUse):
                shell("true", "v:/v")
        else:
            assert shell("true", "v:/v").ok  # two writers
    finally:
        os.kill(holder.janitor, signal.SIGCONT)
        holder.await_janitor()
        holder.end()
    assert shell("true", "v:/v").ok and sandbox.volumes.find("v").uses == ()


@pytest.mark.orphans
def test_a_lock_can_be_waited_for_and_ends_with_the_run(store: Path, sandbox_cli: Any) -> None:
    holder = Holder(sandbox_cli, store, "v:/v:lock")
    environ = {"SANDBOX_DATA_DIR": str(store.parent)}
    try:
        done = sandbox_cli("exec", "-p", "strict", "-v", "v:/v:lock,wait=20ms", "--", "true", env=environ)
        assert done.returncode == 125 and b"lock volume `v`: taken after 0.02 s by run " in done.stderr
        assert done.stderr.endswith(b" ends it\n") and b"option `-v v:/v:lock,wait=20ms`" in done.stderr
        done = sandbox_cli("volume", "rm", "v", env=environ)
        assert done.returncode == 125 and b"error: remove volume `v`: run `" in done.stderr
        waiting = sandbox_cli.popen("exec", "-p", "strict", "-v", "v:/v:lock,wait=600s", "--", "echo", "got it", env=environ)
        holder.end()
        assert waiting.communicate(timeout=90)[0] == b"got it\n"
    finally:
        holder.end()
    assert sandbox_cli("volume", "rm", "v", env=environ).returncode == 0


def test_a_run_that_waits_for_a_lock_can_be_cancelled(store: Path) -> None:
    """Within a library nobody's signal handler would interrupt the waiting."""

    async def cancel(box: sandbox.Sandbox) -> None:
        waiting = asyncio.ensure_future(box.run_async(["true"], volumes=["v:/v:lock,wait=1h"]))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(waiting, 90)

    with sandbox.Sandbox(resident=False) as box, box.popen(["sh", "-c", "echo here; read line"], stdin=sandbox.PIPE, volumes=["v:/v:lock"]) as first:
        assert first.stdout is not None and first.stdout.readline() == b"here\n"
        asyncio.run(cancel(box))
        assert [use.locked for use in sandbox.volumes.find("v").uses] == [True]
        first.kill()
        first.wait(30)


def test_the_program_has_nothing_of_the_volume_but_its_files(store: Path) -> None:
    found = output("ls -l /proc/self/fd | grep -c volumes; ls -A /v/..; cat /proc/self/mountinfo | grep ' /v '", "v:/v:lock")
    count, *names, mount = found.split("\n")[:-1]
    assert count == "0" and "v" in names and "runs" not in names and "lock" not in names
    options = mount.split()[5]
    assert {"rw", "nosuid", "nodev"} <= set(options.split(","))


# ---- tmpfs


def test_a_tmpfs_is_limited_and_ends_with_the_run(store: Path) -> None:
    script = "head -c 3M /dev/zero > /t/f; stat -c '%s' /t/f; stat -c '%a' /t; : > /t/f; cp /bin/true /t; /t/true; echo $?"
    result = shell(script, parse_tmpfs("/t:size=1M,mode=0750"))
    assert result.stdout == b"1048576\n750\n126\n"
    assert output("cp /bin/true /t; /t/true; echo $?", parse_tmpfs("/t:size=1M,exec")) == "0\n"
    assert output("ls -A /t", parse_tmpfs("/t")) == ""
