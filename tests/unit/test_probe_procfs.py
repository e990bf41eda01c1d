"""Mount tables of foreign hosts: may a fresh /proc be mounted, does pivot_root work, has somebody chrooted us."""

from __future__ import annotations

import pytest

from sandbox.kernel import procfs

HOST = b"""\
22 27 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
23 27 0:22 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
24 27 0:6 / /dev rw,nosuid,relatime shared:2 - devtmpfs udev rw,size=12334492k,nr_inodes=3083623,mode=755
27 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard
35 22 0:29 / /proc/sys/fs/binfmt_misc rw,relatime shared:16 - autofs systemd-1 rw,fd=29,pgrp=1,timeout=0,minproto=5,maxproto=5,direct
91 35 0:40 / /proc/sys/fs/binfmt_misc rw,nosuid,nodev,noexec,relatime shared:48 - binfmt_misc binfmt_misc rw
"""
DOCKER = b"""\
700 610 0:61 / / rw,relatime master:301 - overlay overlay rw,lowerdir=/l1:/l2,upperdir=/u,workdir=/w
701 700 0:64 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
702 700 0:65 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
612 701 0:64 /bus /proc/bus ro,nosuid,nodev,noexec,relatime - proc proc rw
613 701 0:64 /fs /proc/fs ro,nosuid,nodev,noexec,relatime - proc proc rw
615 701 0:64 /sys /proc/sys ro,nosuid,nodev,noexec,relatime - proc proc rw
616 701 0:64 /sysrq-trigger /proc/sysrq-trigger ro,nosuid,nodev,noexec,relatime - proc proc rw
617 701 0:70 / /proc/acpi ro,relatime - tmpfs tmpfs ro
618 701 0:65 /null /proc/kcore rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
"""
PODMAN = b"""\
900 850 0:51 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
901 900 0:55 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
930 901 0:56 /null /proc/kcore rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755,uid=1000
931 901 0:60 / /proc/scsi ro,relatime - tmpfs tmpfs ro,size=0k,uid=1000
"""
KUBERNETES_UNMASKED = b"""\
1200 1100 0:300 / / rw,relatime - overlay overlay rw
1201 1200 0:303 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
"""
INITRAMFS = b"""\
1 1 0:2 / / rw - rootfs rootfs rw,size=12334492k,nr_inodes=3083623
17 1 0:21 / /proc rw,relatime - proc proc rw
18 1 0:22 / /sys rw,relatime - sysfs sysfs rw
"""
READ_ONLY = HOST.replace(b"/proc rw,nosuid", b"/proc ro,nosuid")
READ_ONLY_BELOW = HOST.replace(b"proc proc rw", b"proc proc ro")
NOATIME = HOST.replace(b"noexec,relatime shared:12", b"noexec,noatime shared:12")
NODIRATIME = HOST.replace(b"noexec,relatime shared:12", b"noexec,nodiratime,relatime shared:12")
SECOND_WHOLE = DOCKER + b"990 700 0:99 / /var/other\\040proc rw,relatime - proc proc rw\n"
OVERMOUNTED = KUBERNETES_UNMASKED + b"1300 1201 0:304 / /proc rw - tmpfs tmpfs rw\n"
PART_ONLY = b"50 1 8:1 / / rw - ext4 /dev/sda rw\n51 50 0:5 /self /proc rw,relatime - proc proc rw\n"
NO_PROC = b"50 1 8:1 / / rw - ext4 /dev/sda rw\n"


@pytest.mark.parametrize(
    ("table", "mountable", "read_only", "atime", "covers"),
    [
        pytest.param(HOST, True, False, "relatime", (), id="binfmt_misc hides nothing"),
        pytest.param(
            DOCKER,
            False,
            False,
            "relatime",
            ("/proc/bus", "/proc/fs", "/proc/sys", "/proc/sysrq-trigger", "/proc/acpi", "/proc/kcore"),
            id="docker",
        ),
        pytest.param(PODMAN, False, False, "relatime", ("/proc/kcore", "/proc/scsi"), id="podman"),
        pytest.param(KUBERNETES_UNMASKED, True, False, "relatime", (), id="kubernetes with procMount Unmasked"),
        pytest.param(INITRAMFS, True, False, "relatime", (), id="initramfs"),
        pytest.param(READ_ONLY, True, True, "relatime", (), id="read-only mount"),
        pytest.param(READ_ONLY_BELOW, True, True, "relatime", (), id="read-only superblock"),
        pytest.param(NOATIME, True, False, "noatime", (), id="noatime"),
        pytest.param(NODIRATIME, True, False, "nodiratime,relatime", (), id="nodiratime"),
        pytest.param(SECOND_WHOLE, True, False, "relatime", (), id="one whole procfs anywhere is enough"),
        pytest.param(OVERMOUNTED, False, False, "relatime", ("/proc",), id="covered at its root"),
        pytest.param(PART_ONLY, False, False, "relatime", (), id="only a part is mounted"),
        pytest.param(NO_PROC, False, False, "relatime", (), id="no procfs"),
        pytest.param(b"", False, False, "relatime", (), id="no table"),
    ],
)
def test_judge_proc(table: bytes, mountable: bool, read_only: bool, atime: str, covers: tuple[str, ...]) -> None:
    for data in (table, procfs.select_lines(table)):
        verdict = procfs.judge_proc(procfs.parse_mountinfo(data))
        assert (verdict.mountable, verdict.read_only, verdict.atime, verdict.covers) == (mountable, read_only, atime, covers)
        assert bool(verdict.reason) is (not mountable or read_only)


@pytest.mark.parametrize(
    ("table", "pivotable"),
    [(HOST, True), (DOCKER, True), (INITRAMFS, False), (INITRAMFS + b"40 1 0:50 / /mnt rw - tmpfs tmpfs rw\n", False)],
)
def test_root_pivotable(table: bytes, pivotable: bool) -> None:
    assert procfs.is_root_pivotable(procfs.parse_mountinfo(procfs.select_lines(table))) is pivotable


@pytest.mark.parametrize(
    ("own", "init", "chrooted"),
    [
        pytest.param(HOST, HOST, False, id="host"),
        pytest.param(HOST, b"", False, id="pid 1 unreadable"),
        pytest.param(DOCKER, HOST, False, id="container seen with the host's pid 1"),
        pytest.param(b"22 27 0:21 / /proc rw,relatime - proc proc rw\n", HOST, True, id="into a directory"),
        pytest.param(
            b"61 27 8:2 / / rw - ext4 /dev/sdb rw\n62 61 0:21 / /proc rw - proc proc rw\n",
            HOST + b"61 27 8:2 / /srv/tree rw - ext4 /dev/sdb rw\n",
            True,
            id="into a mount point",
        ),
        pytest.param(b"", b"", False, id="nothing known"),
    ],
)
def test_is_chrooted(own: bytes, init: bytes, chrooted: bool) -> None:
    assert procfs.is_chrooted(procfs.parse_mountinfo(own), procfs.parse_mountinfo(init)) is chrooted


def test_parse_mountinfo_unescapes_and_skips_what_it_cannot_read() -> None:
    data = b"7 1 0:9 /a\\134b /mnt/x\\040y\\012z rw,relatime shared:1 master:2 - ext4 /dev/vda rw\n"
    data += b"nonsense\n8 x 0:9 / / rw - a b c\n9 1 0:9 / / rw\n"
    (mount,) = procfs.parse_mountinfo(data)
    assert (mount.mount_id, mount.parent_id, mount.root, mount.mount_point) == (7, 1, "/a\\b", "/mnt/x y\nz")
    assert (mount.fs_type, mount.options, mount.super_options) == ("ext4", {"rw", "relatime"}, {"rw"})


def test_parse_mountinfo_survives_bytes_that_are_no_text() -> None:
    (mount,) = procfs.parse_mountinfo(b"7 1 0:9 / /mnt/\xff\\09 rw - tmpfs none rw\n")
    assert mount.mount_point == "/mnt/\udcff\\09"


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("sbx:100000:65536\n", ((100000, 65536),)),
        ("other:1:2\n1001:200000:10\nsbx:100000:65536", ((200000, 10), (100000, 65536))),
        ("sbx:100000:0\nsbx:x:5\nsbx:-1:5\nsbx:1\n# sbx:1:2\n", ()),
        ("", ()),
    ],
)
def test_parse_subids(text: str, ranges: tuple[tuple[int, int], ...]) -> None:
    assert procfs.parse_subids(text, ("sbx", "1001")) == ranges


def test_parse_status() -> None:
    status = procfs.parse_status("Name:\tsh: x\nSeccomp:\t2\nNoNewPrivs:\t1\nbroken\n")
    assert status == {"Name": "sh: x", "Seccomp": "2", "NoNewPrivs": "1"}
