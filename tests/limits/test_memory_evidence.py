"""What counts as memory and what is proof of it: a program killed at its limit says so on every backend, one that only reads a large file does not.

The page cache of a file that is read is charged to who reads it, and given back under pressure: judges that take a cgroup's peak for a program's memory
have been blaming readers for years (isolate#185).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from escape.support import Run, run_payload

from sandbox.result import Verdict

MIB = 1 << 20
LIMIT = 64 * MIB
READ = 1 << 30
LIMITS = {"memory": "64M", "cpu": "none", "wall": "60s", "tmp": "200M"}
PYTHON = ("/usr/bin/python3", "-S", "-B", "-c")
READER = """
import os
fd, size, got = os.open("/srv/large", os.O_RDONLY), 0, 1
while got:
    got = len(os.read(fd, 1 << 18))
    size += got
print(f"got={size}")
"""
MAPPER = """
import mmap, os
area = mmap.mmap(os.open("/srv/large", os.O_RDONLY), 0, prot=mmap.PROT_READ)
print(f"got={sum(1 for at in range(0, len(area), 4096) if area[at] == 0) * 4096}")
"""
# In pieces, because without a cgroup one that is larger than twice the limit is refused; and held until sampling has seen it.
HUNGRY = """
import mmap, select, sys
areas = []
for piece in range(13):
    areas.append(mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    for at in range(0, 8 << 20, 4096):
        areas[-1][at] = 1
select.select([], [], [], float(sys.argv[1]))
print("done=1")
"""


def backend(run: Run) -> str:
    return next(entry.how for entry in run.result.enforced if entry.what == "memory").split()[0]


@pytest.fixture(scope="module")
def large() -> Iterator[Path]:
    """Return a file of 1 GiB that takes no room on the disk; its pages are in the page cache like those of any other once they have been read."""
    base = os.environ.get("SANDBOX_DISK") or "/var/tmp"
    with tempfile.TemporaryDirectory(dir=base) as directory:
        path = Path(directory) / "large"
        with path.open("wb") as file:
            file.truncate(READ)
        Path(directory).chmod(0o755)
        path.chmod(0o644)
        kind = next(
            line.split()[2] for line in reversed(Path("/proc/mounts").read_text().splitlines()) if str(path).startswith(line.split()[1])
        )
        if kind in ("tmpfs", "rootfs", "ramfs"):
            pytest.skip(f"`{base}` is on {kind}, whose files are no page cache that could be given back")
        yield path


@pytest.mark.parametrize("program", [READER, MAPPER], ids=["read", "mmap"])
def test_reading_a_large_file_is_not_the_memory_limit(program: str, large: Path) -> None:
    run = run_payload((*PYTHON, program), volumes=[f"{large}:/srv/large"], limits=LIMITS)
    assert run.result.ok and run["got"] == str(READ), (run.result.cause, run.err)
    peak = run.result.usage.memory_peak_bytes
    if backend(run).startswith("cgroup"):
        assert peak is not None and LIMIT // 2 < peak <= LIMIT, "the file's pages were charged, or nothing was shown"


@pytest.mark.parametrize("executor", ["native", "python"])
def test_a_program_killed_for_its_memory_says_so(executor: str) -> None:
    run = run_payload((*PYTHON, HUNGRY, "30"), limits=LIMITS, executor=executor)
    result, usage = run.result, run.result.usage
    assert (result.verdict, result.exit_code) == (Verdict.MEMORY_LIMIT, 137), result.cause
    assert "done" not in run.facts
    assert usage.memory_peak_bytes is not None and usage.memory_source is not None
    # Where memory is sampled the sum over all processes is the proof; the peak may be that of one process, between two looks.
    assert usage.memory_source in result.cause or (backend(run) == "sampled" and "sampled RSS" in result.cause), result.cause
    assert str(LIMIT) in result.cause, "against which limit"
    match backend(run):
        case "cgroup1" | "cgroup2":
            assert "oom" in result.cause
            assert usage.oom_kills or (backend(run) == "cgroup1" and usage.memory_peak_bytes == LIMIT), (
                "v1 tells by an event before it counts"
            )
            assert usage.memory_peak_bytes <= LIMIT
        case _:
            assert usage.memory_peak_bytes > LIMIT, "seen above its limit"
    run = run_payload((*PYTHON, HUNGRY, "0"), limits={**LIMITS, "memory": "256M"}, executor=executor)
    assert run.result.ok and run["done"] == "1", run.result.cause


def test_killed_by_others_is_not_the_memory_limit() -> None:
    run = run_payload(
        (*PYTHON, HUNGRY.replace('print("done=1")', "import os; os.kill(os.getpid(), 9)"), "0"), limits={**LIMITS, "memory": "256M"}
    )
    assert (run.result.verdict, run.result.usage.oom_kills or 0) == (Verdict.SIGNALED, 0), run.result.cause
