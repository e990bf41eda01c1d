"""The limits that say how much of processors and disks a run gets: what is understood, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.errors import PolicyError
from sandbox.policy.profile import IoClass, IoLimit, IoPriority, Limits
from sandbox.policy.profile_load import load_profile, override_profile

DISK = IoLimit(device="/dev/sda", read_bytes=10 << 20, write_operations=100)


def limits(**changes: object) -> Limits:
    return override_profile(load_profile("strict"), limits=changes, origin="test").limits


@pytest.mark.parametrize(
    ("key", "value", "attribute", "expected"),
    [
        ("cpus", 1.5, "cpu_quota_ppm", 1_500_000),
        ("cpus", 2, "cpu_quota_ppm", 2_000_000),
        ("cpus", "0.01", "cpu_quota_ppm", 10_000),
        ("cpus", "none", "cpu_quota_ppm", None),
        ("cpu-weight", 10_000, "cpu_weight", 10_000),
        ("cpuset", "0-2, 5", "cpuset", (0, 1, 2, 5)),
        ("cpuset", [3, 1], "cpuset", (1, 3)),
        ("cpuset", 0, "cpuset", (0,)),
        ("cpuset", "none", "cpuset", ()),
        ("nice", 19, "nice", 19),
        ("io-priority", "idle", "io_priority", IoPriority(kind=IoClass.IDLE, level=7)),
        ("io-priority", "best-effort:0", "io_priority", IoPriority(kind=IoClass.BEST_EFFORT, level=0)),
        ("io-priority", "best-effort", "io_priority", IoPriority(kind=IoClass.BEST_EFFORT, level=4)),
        ("io-priority", None, "io_priority", None),
        ("idle", "500ms", "idle_ns", 500_000_000),
        ("io", {"device": "/dev/sda", "read": "10M", "write-iops": 100}, "io", (DISK,)),
        ("io", "/dev/sda,read=10M,write-iops=100", "io", (DISK,)),
        ("io", [{"device": "8:0", "write": 4096}], "io", (IoLimit(device="8:0", write_bytes=4096),)),
        (
            "io",
            "8:0,write=1M;/srv,read-iops=5",
            "io",
            (IoLimit(device="8:0", write_bytes=1 << 20), IoLimit(device="/srv", read_operations=5)),
        ),
        ("io", "none", "io", ()),
    ],
)
def test_understood(key: str, value: object, attribute: str, expected: object) -> None:
    assert getattr(limits(**{key: value}), attribute) == expected


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("cpus", 0, r"`limits.cpus` must be 0.01 to 8192, not 0"),
        ("cpus", "1.5.2", "must be a number of processors"),
        ("cpus", -1, "must be a number of processors"),
        ("cpus", True, "must be a number of processors"),
        ("cpus", 1e300, "must be a number of processors"),
        ("cpus", float("nan"), "must be a number of processors"),
        ("cpu-weight", 0, "must be 1 to 10000, not 0"),
        ("cpuset", "", "`` ?, which is no processor"),
        ("cpuset", "3-1", "runs backwards"),
        ("cpuset", "0-99999", "0 to 8191"),
        ("cpuset", [-1], "0 to 8191"),
        ("cpuset", [], "must name processors"),
        ("cpuset", True, "must name processors"),
        ("nice", -1, "must be 0 to 19, not -1"),
        ("nice", "none", "must be a whole number"),
        ("io-priority", "best-effort:8", "`best-effort` with a level"),
        ("io-priority", "realtime", "must be `idle`"),
        ("io-priority", "idle:3", "must be `idle`"),
        ("io", "/dev/sda", "limits nothing of `/dev/sda`"),
        ("io", {"read": "10M"}, "needs a `device`"),
        ("io", {"device": "/dev/sda", "raed": "10M"}, r"unknown key `limits.io.raed`[\s\S]*did you mean `read`"),
        ("io", {"device": "/dev/sda", "read": 100}, "at least 4096 bytes"),
        ("io", {"device": "/dev/sda", "read-iops": "5"}, "operations a second"),
        ("io", {"device": "/dev/sda", "read-iops": 1 << 32}, "operations a second"),
        ("io", "/dev/sda,read=1M,read=2M", "there twice"),
        ("io", "8:0,read=1M;8:0,write=1M", "the device `8:0` twice"),
        ("io", [], "must be a table"),
        ("io", 5, "must be a table"),
    ],
)
def test_refused(key: str, value: object, words: str) -> None:
    with pytest.raises(PolicyError, match=words if "``" not in words else "which is no processor"):
        limits(**{key: value})


def test_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(
        'description = "x"\nextends = "strict"\n[limits]\ncpus = 0.5\ncpuset = "0"\nnice = 5\nio-priority = "idle"\nidle = "3s"\n'
        'io = { device = "/dev/sda", read = "10M", write-iops = 100 }\n'
    )
    found = load_profile(str(path)).limits
    assert (found.cpu_quota_ppm, found.cpuset, found.nice, found.idle_ns, found.io) == (500_000, (0,), 5, 3_000_000_000, (DISK,))
    path.write_text(path.read_text().replace("read = ", "rate = "))
    with pytest.raises(PolicyError) as caught:
        load_profile(str(path))
    assert f"{path}:9" in str(caught.value) and "limits.io.rate" in str(caught.value)
