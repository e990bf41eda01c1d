"""Runs on images: what the command line and the Python interface make of one, what is inside, and that a name means what it means now."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.api import layered as layering
from sandbox.errors import ExecuteError, PolicyError, SetupError, UnsupportedError
from sandbox.images.model import ImageConfig
from sandbox.launch.trial import Trial
from tests.kernel.stored import mount_table
from tests.kernel.stored_images import layer_paths, put_image

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify]
BUSYBOX = shutil.which("busybox")
if BUSYBOX is None:
    pytest.skip("no busybox, of which the images are made", allow_module_level=True)
TOOLS = ("sh", "ls", "cat", "id", "env", "pwd", "rm", "mkdir", "touch", "echo", "stat", "readlink", "grep", "hostname", "mount", "ln", "chmod", "cp")
LIMITS: dict[str, object] = {"memory": "none", "processes": "none", "cpu": "none"}


def make_layer(path: Path, version: str) -> Path:
    """Make a layer with a shell and a few files."""
    for name in ("bin", "etc", "root", "var", "srv"):
        (path / name).mkdir(parents=True)
    assert BUSYBOX is not None
    shutil.copy(BUSYBOX, path / "bin/busybox")
    for tool in TOOLS:
        (path / "bin" / tool).symlink_to("busybox")
    (path / "etc/version").write_text(f"{version}\n")
    (path / "etc/resolv.conf").symlink_to("/run/resolve/resolv.conf")
    (path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/srv:/bin/sh\n")
    (path / "etc/group").write_text("root:x:0:\nweb:x:33:\n")
    (path / "tmp").symlink_to("/elsewhere")
    return path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty store, and a cache of its own."""
    data = tmp_path / "data"
    monkeypatch.setenv("SANDBOX_DATA_DIR", str(data))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(layering, "_known", {})
    data.mkdir(mode=0o700)
    yield data / "images"


def open_to_others(path: Path) -> None:
    """Let root's payload, who is somebody else, come there: pytest's own directories are closed."""
    for each in (path, *path.parents):
        status = each.stat()
        if status.st_uid == os.geteuid() and status.st_mode & 0o005 != 0o005:
            each.chmod(stat.S_IMODE(status.st_mode) | 0o055)


def run(*argv: str, **options: Any) -> Any:
    """Run on the image `test`."""
    given: dict[str, Any] = {"image": "test", "profile": "default", "limits": LIMITS} | options
    return sandbox.run(list(argv), **given)


def test_what_is_inside(store: Path, tmp_path: Path) -> None:
    """The image, and over it what is ours; nothing of the host's system."""
    put_image(store, "test", [make_layer(tmp_path / "l", "1")], ImageConfig(workdir="/srv"))
    script = (
        "id; pwd; hostname; cat /etc/version /etc/hosts /etc/hostname; ls / /etc; ls /usr; cat /etc/resolv.conf; readlink /tmp; echo x >/tmp/x; "
        "ls /tmp; env"
    )
    result = run("sh", "-c", script)
    lines = result.stdout.decode().splitlines()
    assert lines[:3] == ["uid=0(root) gid=0(root) groups=0(root)" if os.geteuid() else lines[0], "/srv", "sandbox"]
    assert "127.0.0.1 localhost sandbox" in lines and "/elsewhere" not in lines
    assert lines.count("sandbox") == 2
    start = lines.index("/:") + 1
    assert lines[start : start + 11] == ["bin", "dev", "etc", "proc", "root", "srv", "sys", "tmp", "var", "", "/etc:"]
    assert lines[start + 11 : start + 17] == ["group", "hostname", "hosts", "passwd", "resolv.conf", "version"]
    assert "No such file or directory" in result.stderr.decode()  # no /usr of the host's
    assert "x" in lines and "HOME=/root" in lines
    root = next(entry for entry in result.enforced if entry.what == "root filesystem")
    assert root.how.startswith("image `test`, overlay of 1 layer, changes on a tmpfs") and not root.weaker


def test_user_environment_and_entry_point(store: Path, tmp_path: Path) -> None:
    entrypoint = ("sh", "-c", 'id -u; env; echo "$0 $@"')
    config = ImageConfig(user="web", environment=(("A", "image"), ("PATH", "/bin")), entrypoint=entrypoint, command=("one", "two"))
    put_image(store, "test", [make_layer(tmp_path / "l", "1")], config)
    lines = run(env={"B": "mine"}).stdout.decode().splitlines()
    assert lines[0] == "33" and {"A=image", "B=mine", "HOME=/srv", "PATH=/bin"} <= set(lines) and lines[-1] == "one two"
    assert run("three").stdout.decode().splitlines()[-1] == "three "
    assert run("echo", "plain", entrypoint=()).stdout == b"plain\n"
    assert run("that", entrypoint=["echo"]).stdout == b"that\n"
    with pytest.raises(TypeError, match="entrypoint must be a sequence of words"):
        run("x", entrypoint="sh")
    with pytest.raises(PolicyError, match="an entry point was given, and no image"):
        sandbox.run(["true"], entrypoint=["sh"])


def test_what_is_written_ends_with_the_run(store: Path, tmp_path: Path) -> None:
    digest = put_image(store, "test", [make_layer(tmp_path / "l", "1")])
    (layer,) = layer_paths(store, digest)
    before = {str(path): path.lstat().st_mtime_ns for path in layer.rglob("*")}
    assert run("sh", "-c", "echo 2 >/new && cat /new && mkdir /srv/d && rm /srv/d -r").stdout == b"2\n"
    assert run("ls", "/new").exit_code == 1
    assert {str(path): path.lstat().st_mtime_ns for path in layer.rglob("*")} == before


def test_files_and_collect(store: Path, tmp_path: Path) -> None:
    put_image(store, "test", [make_layer(tmp_path / "l", "1")], ImageConfig(workdir="/work"))
    result = run("sh", "-c", "cat in/a >out.txt; echo more >>in/a; ls -l", files={"in/a": "given\n"}, collect=["*.txt", "in/*"])
    assert result.files == {"out.txt": b"given\n", "in/a": b"given\nmore\n"}, (result.stderr, result.notes)


def starts_outside(store: Path, tmp_path: Path, number: int, way: str) -> bool:
    """Whether a program that starts in `/proc/self/fd/N`, because its image says so, is where no path of its root leads."""
    put_image(store, "test", [make_layer(tmp_path / f"{way}{number}", "1")], ImageConfig(workdir=f"/proc/self/fd/{number}"))
    try:
        return bool(run("pwd").exit_code != 0)
    except SetupError:
        return False


def test_no_working_directory_leads_out(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2024-21626: a magic link of /proc is a directory of the host of which a descriptor is still open."""
    assert not [number for number in range(3, 16) if starts_outside(store, tmp_path, number, "kept")]

    def follow(low: Any, step: Any) -> None:
        low.call("chdir", step.path, label=f"`{step.path}`")

    monkeypatch.setattr("sandbox.plan.lower_confine._set_workdir", follow)
    assert [number for number in range(3, 16) if starts_outside(store, tmp_path, number, "followed")], "the attack itself does not work"


def test_a_volume_over_the_image(store: Path, tmp_path: Path) -> None:
    """It goes where the image's link leads, and what it covers is as it was."""
    layer = make_layer(tmp_path / "l", "1")
    (layer / "lib").mkdir()
    (layer / "lib/own").write_text("own\n")
    (layer / "alias").symlink_to("lib")
    put_image(store, "test", [layer])
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "f").write_text("shared\n")
    open_to_others(shared)
    result = run("sh", "-c", "cat /alias/vol/f /lib/own; readlink /alias; touch /lib/vol/x", volumes=[f"{shared}:/alias/vol"])
    assert result.stdout == b"shared\nown\nlib\n" and b"Read-only" in result.stderr


@pytest.mark.parametrize(("command", "code"), [("nothing", 127), ("/etc/version", 126), ("/etc", 126), ("python3", 127)])
def test_commands_are_the_images(store: Path, tmp_path: Path, command: str, code: int) -> None:
    put_image(store, "test", [make_layer(tmp_path / "l", "1")])
    with pytest.raises(ExecuteError) as caught:
        run(command)
    assert caught.value.exit_code == code


def test_a_name_means_what_it_means_now(store: Path, tmp_path: Path, sandbox_cli: Any) -> None:
    """By the command line, which stores launches, and by one `Sandbox`, which keeps them."""
    put_image(store, "test", [make_layer(tmp_path / "one", "1")])
    with sandbox.Sandbox("default", image="test", limits=LIMITS) as box:
        for version in ("1", "2", "3"):
            if version != "1":
                put_image(store, "test", [make_layer(tmp_path / version, version)])
            for _ in range(2):
                assert box.run(["cat", "/etc/version"]).stdout == f"{version}\n".encode()
                done = sandbox_cli("exec", "-q", "--image", "test", "--", "cat", "/etc/version", timeout=240)
                assert done.stdout == f"{version}\n".encode(), done.stderr
        # Never of a template: each has its own place for what it writes. In a scope of systemd's, and as root, nothing is served.
        assert box.run(["id", "-u"]).launched in ("anew", "spawned")


def test_an_image_in_use_is_locked(store: Path, tmp_path: Path) -> None:
    import fcntl

    digest = put_image(store, "test", [make_layer(tmp_path / "l", "1")])
    with sandbox.Sandbox("default", image="test", limits=LIMITS) as box:
        fd = os.open(store / "uses" / digest[7:], os.O_RDONLY)
        try:
            with box.popen(["cat"], stdin=sandbox.PIPE) as process:
                process.stdin.write(b"x")
                process.stdin.flush()
                assert process.stdout.read(1) == b"x"
                with pytest.raises(BlockingIOError):
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                process.stdin.close()
                process.wait()
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(fd)


def test_an_image_that_is_gone(store: Path, tmp_path: Path) -> None:
    put_image(store, "test", [make_layer(tmp_path / "l", "1")])
    with pytest.raises(PolicyError, match="there is no image `tests`") as caught:
        run("true", image="tests")
    assert "did you mean" in (caught.value.hint or "")


# ---- where overlayfs is refused ------------------------------------------------------------------------------------------


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a kernel without overlayfs."""
    monkeypatch.setattr(layering, "try_overlay", lambda overlay, *, executor: Trial(call="mount overlay x", errno=19))


def test_without_overlayfs_it_is_one_read_only_tree(store: Path, tmp_path: Path, refusing: None) -> None:
    base = make_layer(tmp_path / "base", "1")
    top = tmp_path / "top"
    (top / "etc").mkdir(parents=True)
    (top / "etc/version").write_text("2\n")
    os.mknod(top / "srv", stat.S_IFCHR)
    put_image(store, "test", [top, base])
    script = (
        "cat /etc/version /etc/hosts; cat /etc/resolv.conf; ls -d /srv; touch /new /etc/new; for d in /tmp /run /var/tmp; do touch $d/f && echo $d; done; "
        "id -u"
    )
    for _ in range(2):
        result = run("sh", "-c", script)
        assert result.stdout.decode().splitlines() == ["2", "127.0.0.1 localhost sandbox", "::1 localhost sandbox ip6-localhost ip6-loopback",
                                                       "/tmp", "/run", "/var/tmp", "0"]  # fmt: skip
        assert result.stderr.decode().count("Read-only file system") == 2
        root = next(entry for entry in result.enforced if entry.what == "root filesystem")
        assert root.weaker.startswith("overlayfs is refused (mount overlay x: No such device (ENODEV)): the image is read-only")
        assert any("--require-overlay" in note for note in result.notes)
    assert [name for name in os.listdir(store / "flat") if name != ".lock"] == [os.readlink(next((store / "names").iterdir()))]


def test_without_overlayfs_strictness_refuses(store: Path, tmp_path: Path, refusing: None) -> None:
    from sandbox.policy.profile_load import load_profile, override_profile

    put_image(store, "test", [make_layer(tmp_path / "l", "1")])
    profile = override_profile(load_profile("default"), overlay="required", origin="test")
    with pytest.raises(UnsupportedError) as caught:
        run("id", profile=profile)
    assert "image `test`" in str(caught.value) and "modprobe overlay" in (caught.value.hint or "")


def test_a_copy_that_was_broken_off_is_made_anew(store: Path, tmp_path: Path, refusing: None) -> None:
    put_image(store, "test", [make_layer(tmp_path / "l", "1")])
    for name in (".0123.dead", "f" * 64):
        (store / "flat" / name / "sub").mkdir(parents=True)
        (store / "flat" / name / "sub").chmod(0o500)
    assert run("cat", "/etc/version").stdout == b"1\n"
    assert sorted(os.listdir(store / "flat")) == sorted([".lock", os.readlink(next((store / "names").iterdir()))])


def test_trials_are_remembered_only_when_they_went_well(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_image(store, "test", [make_layer(tmp_path / "l", "1")])
    tried: list[int] = []
    answers = [Trial(call="mount overlay x", errno=1), Trial()]

    def try_overlay(overlay: object, *, executor: str) -> Trial:
        tried.append(1)
        return answers[min(len(tried), 2) - 1]

    monkeypatch.setattr(layering, "try_overlay", try_overlay)
    assert next(entry for entry in run("id").enforced if entry.what == "root filesystem").weaker
    for _ in range(3):
        monkeypatch.setattr(layering, "_known", {})
        assert not next(entry for entry in run("id").enforced if entry.what == "root filesystem").weaker
    assert len(tried) == 2


# ---- the command line ----------------------------------------------------------------------------------------------------


def test_command_line(store: Path, tmp_path: Path, sandbox_cli: Any) -> None:
    put_image(store, "test", [make_layer(tmp_path / "l", "1")], ImageConfig(command=("sh", "-c", "echo the images own")))

    def cli(*words: str) -> tuple[int, str, str]:
        done = sandbox_cli("exec", *words)
        out, err = done.stdout.decode(), done.stderr.decode()
        return done.returncode, out, err

    assert cli("-q", "--image", "test")[:2] == (0, "the images own\n")
    assert cli("-qi", "test", "cat", "/etc/version")[:2] == (0, "1\n")
    assert cli("-q", "--image", "test", "--entrypoint", "echo", "--", "a", "b")[:2] == (0, "a b\n")
    assert cli("-q", "--image", "test", "--", "nothing")[0] == 127
    assert cli("-q", "--image", "other", "--", "sh")[0] == 125
    profile = tmp_path / "mine.toml"
    profile.write_text('description = "x"\nextends = "default"\n[mounts]\nimage = "test"\noverlay = "required"\n')
    assert cli("-q", "--profile", str(profile))[:2] == (0, "the images own\n")
    code, out, _ = cli("--dry-run=json", "--image", "test", "--", "sh")
    steps = [step["step"] for step in json.loads(out)["init"]]
    assert code == 0 and steps.index("BeginSkeleton") < steps.index("MountOverlay")
    assert cli("--profile", "default")[0] == 125


def test_a_stored_launch_asks_about_the_image(store: Path, tmp_path: Path, sandbox_cli: Any) -> None:
    """The second run of a command line is from disk; another image of that name, a changed variable, a removed layer are seen."""
    config = ImageConfig(environment=(("A", "image"),), entrypoint=("sh", "-c", 'cat /etc/version; echo "$A $LC_X $0 $1"'))
    digest = put_image(store, "test", [make_layer(tmp_path / "one", "1")], config)
    launches = tmp_path / "cache/sandbox/launches"

    def cli(*words: str, **variables: str) -> str:
        done = sandbox_cli("exec", "-q", "--image", "test", "-e", "LC_X", *words, env={"LC_X": "x", **variables})
        assert done.returncode == 0, done.stderr
        return str(done.stdout.decode())

    def stored() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in launches.iterdir()} if launches.exists() else {}

    deadline = time.monotonic() + 240
    while not stored():  # code, or a directory, that was changed a moment ago is asked for anew: nothing is stored then
        assert cli("a", "b") == "1\nimage x a b\n" and time.monotonic() < deadline
    quiet, used = 0, False
    while quiet < 4 and not used:  # whoever mounts something on this host meanwhile changes an answer, rightly
        mounts, (name, made) = mount_table(), next(iter(stored().items()))
        assert cli("a", "c") == "1\nimage x a c\n" and cli("a", "b", LC_X="other") == "1\nimage other a b\n"
        used = stored()[name] == made
        quiet += mount_table() == mounts
    assert used, "the launch was prepared anew, again and again"
    put_image(store, "test", [make_layer(tmp_path / "two", "2")], config)
    assert cli("a", "b") == "2\nimage x a b\n"
    put_image(store, "test", layer_paths(store, digest), config)
    assert cli("a", "b") == "1\nimage x a b\n"
    for layer in layer_paths(store, digest):
        shutil.rmtree(layer)
    assert sandbox_cli("exec", "-q", "--image", "test", "-e", "LC_X", "a", env={"LC_X": "x"}).returncode == 125


@pytest.mark.parametrize("view", ["static", "live"])
def test_a_machine_view_on_an_image_is_read_only_where_the_root_is_not(view: str, store: Path, tmp_path: Path) -> None:
    """The image has a /sys of its own, a link to elsewhere; the view's is ours, and the payload, whose root can be written, changes nothing of it."""
    layer = make_layer(tmp_path / "l", "1")
    (layer / "sys").symlink_to("/srv")
    open_to_others(tmp_path)
    put_image(store, "test", [layer])
    script = (
        "echo written >/new && cat /new /sys/fs/cgroup/memory.max; grep MemTotal /proc/meminfo; ls /srv; "
        "for f in /sys/fs/cgroup/memory.max /proc/meminfo /sys/new /sys/devices/system/cpu/online /sys/machine/meminfo; do"
        " (echo 1 >$f) 2>/dev/null && echo changed $f; rm -f $f 2>/dev/null && ! [ -e $f ] && [ $f != /sys/new ] && echo gone $f; done; true"
    )
    result = run("sh", "-c", script, machine_view=view, limits={**LIMITS, "memory": "200M"})
    assert result.ok, result.stderr
    lines = result.stdout.decode().splitlines()
    assert lines[:2] == ["written", str(200 << 20)] and lines[2].split() == ["MemTotal:", str(200 << 10), "kB"] and lines[3:] == []
