"""Watches the host while a sandbox runs: a program of its own, so that it takes no time from the supervisor and trusts nothing that this one says.

    watch.py PID

looks at what PID starts while it is watched. `b` on standard input begins a watch, `e` ends it and answers with one line of JSON:

tasks
    The most threads of payloads at one moment: those that one look found and the next one, too, for a look takes time, in which some go and others
    come. A payload's processes are three generations down: janitor, init, payload.
memory
    By how many bytes the host's memory in use grew at most, and `source`, which counted it: an ordinary user's memory cgroup, if PID is in one
    (exact, kernel objects included), else MemAvailable of /proc/meminfo, to which everything else on the machine adds.
left
    Processes that were seen and live still.
"""

import json
import os
import select
import sys
import time

PAUSE_S = 0.004


def read(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return os.read(fd, 65536).decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def accounting(pid: int) -> str:
    """Return the file that counts the memory of PID's cgroup, "" when it is in the root."""
    if os.geteuid() == 0:  # root's runs are somewhere else
        return ""
    for line in read(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(",") and path != "/":
            return f"/sys/fs/cgroup/memory{path}/memory.usage_in_bytes"
        # Of a delegated subtree the supervisor has a child for itself; its runs are beside it.
        parent = os.path.dirname(path) if path.endswith("/sandbox-supervisor") else path
        if not controllers and os.path.exists(f"/sys/fs/cgroup{parent}/memory.current"):
            return f"/sys/fs/cgroup{parent}/memory.current"
    return ""


def in_use(counter: str) -> int:
    if counter:
        return int(read(counter) or 0)
    fields = dict(line.split(":") for line in read("/proc/meminfo").splitlines())
    return -1024 * int(fields["MemAvailable"].split()[0])


def started(pid: int) -> str:
    """Return when a process was started, "" for one that is gone or a zombie."""
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return "" if len(fields) < 20 or fields[0] in "ZX" else fields[19]


def children(pid: int) -> tuple[list[int], list[str]]:
    """Return the children of a process, and its threads."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return [], []
    return [int(child) for task in tasks for child in read(f"/proc/{pid}/task/{task}/children").split()], tasks


def main() -> None:
    watched, myself = int(sys.argv[1]), os.getpid()
    watching = False
    seen: dict[int, str] = {}
    counter, before, most, tasks = "", 0, 0, 0
    others: set[int] = set()
    last: set[str] = set()
    pause = PAUSE_S
    while True:
        if select.select([0], [], [], pause if watching else None)[0]:
            word = os.read(0, 1)
            if not word:
                return
            if word == b"b":
                watching, seen, most, tasks, last = True, {}, 0, 0, set()
                counter = accounting(watched)
                others = {myself, *children(watched)[0]}
                before = in_use(counter)
                print(flush=True)
            else:
                watching = False
                left = [pid for pid, when in seen.items() if when and started(pid) == when]
                source = "cgroup" if counter else "MemAvailable"
                print(json.dumps({"tasks": tasks, "memory": most, "source": source, "left": left}), flush=True)
            continue
        began = time.monotonic()
        most = max(most, in_use(counter) - before)
        level, threads = [child for child in children(watched)[0] if child not in others], set[str]()
        for generation in range(1, 200):
            below = []
            for pid in level:
                offspring, own = children(pid)
                below += offspring
                threads.update(own if generation > 2 else ())
                if pid not in seen:
                    seen[pid] = started(pid)
            level = below
            if not level:
                break
        tasks = max(tasks, len(threads & last))
        last = threads
        pause = max(PAUSE_S, 4 * (time.monotonic() - began))


if __name__ == "__main__":
    main()
