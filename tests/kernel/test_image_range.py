"""Images with their own ids: what their root may do with seven capabilities in a namespace of its own, and what it may not."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sandbox
from sandbox.api import images
from sandbox.api import layered as layering
from sandbox.cgroup.find import find_backend
from sandbox.images.model import ImageConfig
from sandbox.plan import build as building
from sandbox.policy.profile_load import load_profile, override_profile
from tests.kernel.image_layouts import Layout, directory, entry, symlink, tar_of
from tests.kernel.stored_images import put_image

pytestmark = [pytest.mark.userns, pytest.mark.seccomp, pytest.mark.notify, pytest.mark.newuidmap]
BUSYBOX = shutil.which("busybox")
if os.geteuid() == 0:
    pytest.skip("root's programs get a single id of their own", allow_module_level=True)
if BUSYBOX is None:
    pytest.skip("no busybox, of which the images are made", allow_module_level=True)
TOOLS = (
    "sh", "ls", "cat", "id", "chown", "chmod", "touch", "su", "mkdir", "rm", "stat", "grep", "mount", "chroot", "hostname", "echo", "unshare", "mknod",
    "kill", "sleep", "adduser", "setpriv", "cp", "umount",
)  # fmt: skip
LIMITS: dict[str, object] = {"memory": "none", "processes": "none", "cpu": "none"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store with the image `test`, unpacked with its own ids: its root's files are the caller's."""
    monkeypatch.setenv("SANDBOX_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(layering, "_known", {})
    layer = tmp_path / "layer"
    for name in ("bin", "etc", "root", "var", "srv"):
        (layer / name).mkdir(parents=True)
    assert BUSYBOX is not None
    shutil.copy(BUSYBOX, layer / "bin/busybox")
    for tool in TOOLS:
        (layer / "bin" / tool).symlink_to("busybox")
    (layer / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/srv:/bin/sh\n")
    (layer / "etc/group").write_text("root:x:0:\nweb:x:33:\nmail:x:8:\n")
    (layer / "etc/secret").write_text("roots\n")
    (layer / "etc/secret").chmod(0o600)
    put_image(tmp_path / "data/images", "test", [layer])
    yield tmp_path / "data/images"


def use(store: Path, config: ImageConfig | None = None) -> None:
    """Give the image its second form, and perhaps a config."""
    layer = next((store / "layers").iterdir()) / "tree"
    if config is not None:
        put_image(store, "test", [layer], config)
    layer.parent.rename(f"{layer.parent}.range")


def run(script: str, **options: Any) -> list[str]:
    """Run a shell script on the image; return its lines, errors among them."""
    profile = override_profile(load_profile("default"), ids="range", limits=options.pop("limits", LIMITS), origin="test")
    result = sandbox.run(["sh", "-c", f"exec 2>&1; {script}"], image="test", profile=profile, **options)
    return [str(line) for line in result.stdout.decode().splitlines()]


def test_files_have_the_owners_that_the_program_gives_them(store: Path) -> None:
    use(store)
    lines = run("id; touch /f /d; chown web:mail /f; stat -c '%u %g' /f; chown 65534:65534 /d; stat -c '%u' /d; chown 70000 /f; stat -c %u /etc/passwd")
    assert lines[0] == "uid=0(root) gid=0(root)"
    assert lines[1:3] == ["33 8", "65534"] and "Invalid argument" in lines[3] and lines[4] == "0"


def test_other_users_hold_nothing(store: Path) -> None:
    """Whom root becomes loses the seven, and root's own files are not theirs."""
    use(store)
    theirs = "id; grep Cap /proc/self/status; cat /etc/secret; touch /f; echo hi >/tmp/x && stat -c %U /tmp/x"
    script = f"su -s /bin/sh web -c '{theirs}'; cat /tmp/x /etc/secret"
    lines = run(script)
    assert lines[0] == "uid=33(web) gid=33(web) groups=33(web)"
    assert [line.split()[1].strip("0") for line in lines[1:6] if not line.startswith("CapBnd")] == [""] * 4
    assert "Permission denied" in lines[6] and "Permission denied" in lines[7] and lines[8:] == ["web", "hi", "roots"]


def test_root_has_seven_capabilities_and_no_more(store: Path) -> None:
    """Chown, dac_override, fowner, fsetid, kill, setgid, setuid: after an execve, too, and none that concerns a mount, a network or a host."""
    use(store)
    lines = run("grep Cap /proc/self/status; sh -c 'grep CapEff /proc/self/status'")
    values = [int(line.split()[1], 16) for line in lines]
    assert values == [0, 0xFB, 0xFB, 0xFB, 0, 0xFB]
    attacks = ("mount -t tmpfs x /srv", "umount /proc", "hostname other", "chroot /srv /bin/true", "unshare -U true", "mknod /null c 1 3", "mknod /b b 254 0")
    for attack in attacks:
        said = run(f"{attack} && echo IT WORKED")
        assert said and "IT WORKED" not in said, (attack, said)


def test_a_program_that_is_not_root_holds_nothing(store: Path) -> None:
    use(store, ImageConfig(user="web:mail"))
    lines = run("id; grep Cap /proc/self/status; cat /etc/secret; touch /f; stat -c '%u' / /etc /tmp; chown web /etc/passwd; kill -0 1")
    assert lines[0] == "uid=33(web) gid=8(mail)"
    assert {int(line.split()[1], 16) for line in lines[1:6]} == {0}
    assert "Permission denied" in lines[6] and "Permission denied" in lines[7] and lines[8:11] == ["0", "0", "0"]


def test_set_id_files_are_inert(store: Path) -> None:
    """Of another id of the range such a file would be a way to it. Rule: nosuid."""
    layer = next((store / "layers").iterdir()) / "tree"
    source = layer.parent / "who.c"
    source.write_text("#include <stdio.h>\n#include <unistd.h>\nint main(void) { return printf(\"%d\\n\", geteuid()) < 0; }\n")
    subprocess.run(["cc", "-static", "-o", str(layer / "bin/who"), str(source)], check=True)
    use(store)
    script = "cp /bin/who /srv/who; chown 8 /srv/who; chmod 4755 /srv/who; stat -c '%a %u' /srv/who; su -s /bin/sh web -c /srv/who"
    assert run(script) == ["4755 8", "33"]


def test_a_file_of_somebody_elses_stays_closed(store: Path, tmp_path: Path) -> None:
    """dac_override says nothing of a file whose owner is not mapped: a volume shows no more than it shows the caller."""
    use(store)
    mine = tmp_path / "mine"
    mine.write_text("mine\n")
    mine.chmod(0)
    assert stat.S_IMODE(os.stat("/etc/shadow").st_mode) & 0o004 == 0
    lines = run("cat /mine; cat /shadow; chmod 777 /shadow", volumes=[f"{mine}:/mine", "/etc/shadow:/shadow"])
    assert lines[0] == "mine" and "Permission denied" in lines[1] and len(lines) == 3 and "can't" in lines[2].replace("shadow: ", "can't ")


def test_both_executors_and_a_sandbox_do_it(store: Path) -> None:
    use(store)
    for executor in ("native", "python"):
        assert run("id -u; chown 33 /etc && stat -c %u /etc", executor=executor) == ["0", "33"]
    profile = override_profile(load_profile("default"), ids="range", limits=LIMITS, origin="test")
    with sandbox.Sandbox(profile, image="test") as box:
        for _ in range(2):
            result = box.run(["sh", "-c", "chown 33 /etc && stat -c %u /etc"])
            assert result.stdout == b"33\n", result.stderr
            assert result.launched in ("anew", "spawned")


def test_the_limit_of_processes_is_that_of_all_ids_together(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RLIMIT_NPROC counts for each id, and root may become 65536 of them."""
    use(store)
    sleepers = "for n in 1 2 3 4; do sleep 60 >/dev/null 2>&1 & echo started; done"
    script = f"for i in 1 2 3 4 5 6 7 8; do echo u$i:x:$i:$i::/:/bin/sh >>/etc/passwd; su u$i -c '{sleepers}'; done"

    def count(limit: int) -> int:
        return run(script, limits=LIMITS | {"processes": limit}).count("started")

    assert 4 < count(12) < 12
    if find_backend() is None:  # else pids.max counts them all
        monkeypatch.setattr(building, "_limits_of_all_ids", lambda request: [])
        assert count(13) == 32  # another limit, so that nothing that was prepared is used again


def test_a_volume_in_a_users_home_leaves_it_the_users(store: Path, tmp_path: Path) -> None:
    """The directory that is seen is the skeleton's: were it root's, its owner could not enter a closed one."""
    assert BUSYBOX is not None
    layer = [directory("bin"), entry("bin/busybox", Path(BUSYBOX).read_bytes(), mode=0o755), *(symlink(f"bin/{tool}", "busybox") for tool in TOOLS)]
    layer += [directory("etc"), entry("etc/passwd", b"web:x:33:33:web:/srv:/bin/sh\n"), directory("srv", mode=0o700, uid=33, gid=33)]
    layout = Layout(tmp_path / "layout")
    layout.image([tar_of(layer)], config={"User": "web"})
    (tmp_path / "share").mkdir()
    images.import_image(layout.path, name="test", ids="range")
    try:
        lines = run("stat -c %u:%g:%a /srv; touch /srv/x && echo made; ls /srv", volumes=[f"{tmp_path}/share:/srv/data"])
    finally:
        images.remove("test")  # nobody else can remove its files
    assert lines == ["33:33:700", "made", "data", "x"]


def test_the_command_line_stores_a_launch_with_a_range(store: Path, tmp_path: Path, sandbox_cli: Any) -> None:
    """What it is made of is heard, the ranges among it; the second run is from disk."""
    use(store)
    profile = tmp_path / "range.toml"
    profile.write_text('extends = "default"\n[namespaces]\nids = "range"\n')
    for _ in range(2):
        done = sandbox_cli("exec", "-q", "--profile", str(profile), "--image", "test", "--", "id", "-u")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"0\n", b"")
