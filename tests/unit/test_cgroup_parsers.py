"""Parsers of the cgroup room against real and hostile text."""

from __future__ import annotations

import pytest

from sandbox.cgroup import none
from sandbox.cgroup.files import check_run_id, parse_io_service, parse_io_stat, parse_keyed, parse_number, parse_pids, parse_pressure
from sandbox.cgroup.mounts import Membership, Mount, match_hierarchies, parse_memberships, parse_mountinfo, unescape, visible_path
from sandbox.cgroup.none import parse_stat, sum_kib
from sandbox.errors import InternalError

HYBRID = r"""31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:1 master:2 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
"""
MEMBERSHIPS = "9:name=systemd:/\n4:memory:/a:b/c\n2:cpu,cpuacct:/\n0::/user.slice/x\n"


def test_hybrid_host() -> None:
    found = {h.point: h for h in match_hierarchies(parse_mountinfo(HYBRID), parse_memberships(MEMBERSHIPS))}
    assert found["/sys/fs/cgroup/memory"].own == "/sys/fs/cgroup/memory/a:b/c"
    assert found["/sys/fs/cgroup/cpu,cpuacct"].controllers == {"cpu", "cpuacct"}
    assert found["/sys/fs/cgroup/unified"].version == 2
    assert found["/sys/fs/cgroup/unified"].own == "/sys/fs/cgroup/unified/user.slice/x"
    assert "/sys/fs/cgroup" not in found


@pytest.mark.parametrize(
    ("field", "expected"),
    [(r"/a\040b", "/a b"), (r"/a\134040b", r"/a\040b"), (r"/t\011n\012", "/t\tn\n"), (r"/lone\ ", "/lone\\ "), (r"/x\999", r"/x\999")],
)
def test_octal_escapes(field: str, expected: str) -> None:
    assert unescape(field) == expected


@pytest.mark.parametrize(
    "line",
    [
        "",
        "-",
        "- - - -",
        "1 2 3:4 / /x rw - cgroup2",
        "1 2 3:4 / /x rw shared:1 cgroup2 cgroup2 rw",
        "1 2 3:4 / - rw",
        "\0" * 50,
        "1 2 3:4 / /x rw - cgroup3 x rw,memory",
    ],
)
def test_malformed_mountinfo_lines_are_skipped(line: str) -> None:
    assert parse_mountinfo(line + "\n") == ()


def test_a_mount_point_called_dash_is_not_the_separator() -> None:
    (mount,) = parse_mountinfo("1 2 3:4 / - rw,relatime - cgroup cgroup rw,pids\n")
    assert mount.point == "-"


def test_a_later_mount_hides_the_earlier_one() -> None:
    text = "1 2 3:4 / /c rw - cgroup2 c rw\n5 1 3:9 / /c rw - tmpfs t rw\n"
    assert parse_mountinfo(text) == ()


@pytest.mark.parametrize("line", ["", "x", "1:memory", "a:memory:/x", "1:memory:relative", ":::", "1::\0"])
def test_malformed_memberships_are_skipped(line: str) -> None:
    assert parse_memberships(line) == ()


def test_named_hierarchy_is_no_controller_of_another() -> None:
    memberships = parse_memberships("1:name=memory:/x\n")
    mounts = parse_mountinfo("1 2 3:4 / /m rw - cgroup cgroup rw,memory\n")
    assert match_hierarchies(mounts, memberships) == ()


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("/", "/", "/m"),
        ("/", "/a/b", "/m/a/b"),
        ("/docker/1", "/docker/1/x", "/m/x"),
        ("/docker/1", "/docker/12", None),
        ("/docker/1", "/", None),
        ("/..", "/", None),
        ("/", "/../../x", None),
    ],
)
def test_visible_path(root: str, path: str, expected: str | None) -> None:
    assert visible_path(Mount(version=2, root=root, point="/m", options=frozenset()), path) == expected


def test_the_mount_that_shows_our_cgroup_is_preferred() -> None:
    mounts = parse_mountinfo("1 2 3:4 /other /a rw - cgroup2 c rw\n1 2 3:4 / /b rw - cgroup2 c rw\n")
    (found,) = match_hierarchies(mounts, (Membership(controllers=frozenset(), path="/x"),))
    assert (found.point, found.own) == ("/b", "/b/x")


@pytest.mark.parametrize("run_id", ["", ".", "..", ".x", "a/b", "../x", "a\0b", "a\n", "x" * 65, "ä", "a b"])
def test_run_ids_cannot_leave_the_directory(run_id: str) -> None:
    with pytest.raises(InternalError):
        check_run_id(run_id)


def test_small_parsers() -> None:
    assert parse_keyed("a 1\nb x\nc\nd 2 3\n\ne -1\noom_kill 7") == {"a": 1, "oom_kill": 7}
    assert parse_pids("1\n0\n22\n\nx\n") == (1, 0, 22)
    assert [parse_number(text) for text in ("12\n", "max\n", "", "-1", None)] == [12, None, None, None, None]


@pytest.mark.parametrize("comm", [b"sh", b"a) R 1 1 1", b") S 9 (", b"a b\nc", b"", b"\xff\xfe"])
def test_stat_is_not_forged_by_the_name(comm: bytes) -> None:
    fields = b"S 7 1 1 0 -1 0 0 0 0 0 10 20 30 40 20 0 3 0 100"
    stat = parse_stat(b"5 (" + comm + b") " + fields)
    assert stat is not None
    assert (stat.parent, stat.threads, stat.waited_ticks) == (7, 3, 70)


@pytest.mark.parametrize("content", [b"", b"5 (x", b"5 (x) S 1", b"5 (x) " + b"y " * 30, b")" * 100])
def test_malformed_stat(content: bytes) -> None:
    assert parse_stat(content) is None


def test_sum_kib() -> None:
    status = b"Name:\tRssAnon: 9 kB\nRssAnon:\t   5 kB\nRssShmem:\t      2 kB\nVmPTE: x kB\nThreads:\t4\n\xff: 3 kB\n"
    assert sum_kib(status, none._STATUS) == 7


def test_pressure_is_the_some_total() -> None:
    text = "some avg10=0.00 avg60=1.50 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=99\n"
    assert parse_pressure(text) == 1_234_000
    assert parse_pressure(None) is None
    assert parse_pressure("full avg10=0.00 total=99\n") is None
    assert parse_pressure("some avg10=0.00 total=x\n") is None


def test_io_of_all_devices_is_added_up() -> None:
    text = "254:0 rbytes=100 wbytes=20 rios=3 wios=1 dbytes=7 dios=1\n8:16 rbytes=1 wbytes=2 rios=1 wios=1 dbytes=0 dios=0\n7:0 \n"
    assert parse_io_stat(text) == (101, 22)
    assert parse_io_stat("") == (0, 0)
    old = "254:0 Read 100\n254:0 Write 20\n254:0 Sync 7\n254:0 Total 120\n8:0 Read 1\nTotal 121\n"
    assert parse_io_service(old) == (101, 20)
