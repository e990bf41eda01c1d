"""The register: every limit, and the ways to get past it that are tried. `test_evasions.py` tries them, `table.py` prints what came of them.

Where sampling has to find what a way holds, it holds it until it is found (`settle_ms`); the figure of the table is how far it came until then.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from limits.trial import Limit, Way

from sandbox.policy.profile import NetworkMode

ROOMY = {
    "tmp": "400M",
    "shm": "400M",
    "home": "400M",
    "file-size": "400M",
    "tmp-inodes": 60000,
    "memory": "1G",
    "output": "none",
    "cpu": "none",
    "processes": 128,
    "wall": "120s",
}
SMALL = {"tmp": "8M", "shm": "8M", "home": "8M"}
FEW = {"tmp-inodes": 100, "shm-inodes": 100}

LIMITS = {
    limit.name: limit
    for limit in (
        Limit(
            name="memory", unit="MiB", bound=32, ask=96, settle_ms=3000, exact=False, under={**ROOMY, "memory": "32M"}, lifted=ROOMY,
            verdicts=frozenset({"memory-limit"}),
        ),
        Limit(name="processes", unit="at once", bound=24, ask=100, under={**ROOMY, "processes": 24}, lifted={**ROOMY, "processes": 300}),
        Limit(
            name="cpu", unit="ms", bound=150, ask=360, exact=False, under={**ROOMY, "cpu": "150ms"}, lifted=ROOMY,
            verdicts=frozenset({"cpu-limit"}),
        ),
        Limit(
            name="wall", unit="ms", bound=200, ask=600, exact=False, under={**ROOMY, "wall": "200ms"}, lifted=ROOMY,
            verdicts=frozenset({"wall-limit"}),
        ),
        Limit(
            name="idle", unit="ms", bound=150, ask=600, exact=False, under={**ROOMY, "idle": "150ms"}, lifted=ROOMY, verdicts=frozenset({"idle-limit"}),
        ),
        Limit(name="cpus", unit="% of one", bound=10, ask=60, exact=False, under={**ROOMY, "cpus": 0.1}, lifted=ROOMY, controller="cpu"),
        Limit(name="cpuset", unit="processors", bound=1, ask=1, under={**ROOMY, "cpuset": "0"}, lifted=ROOMY, controller="cpuset"),
        Limit(name="output", unit="KiB", bound=256, ask=2048, under={**ROOMY, "output": "256K"}, lifted=ROOMY, verdicts=frozenset({"output-limit"})),
        Limit(name="disk", unit="MiB", bound=8, ask=24, under={**ROOMY, **SMALL}, lifted=ROOMY),
        Limit(name="inodes", unit="inodes", bound=100, ask=300, under={**ROOMY, **FEW}, lifted={**ROOMY, "open-files": 500}),
        Limit(name="file-size", unit="MiB", bound=4, ask=12, under={**ROOMY, "file-size": "4M"}, lifted=ROOMY, verdicts=frozenset({"output-limit"})),
        Limit(name="open-files", unit="files", bound=64, ask=200, under={**ROOMY, "open-files": 64}, lifted={**ROOMY, "open-files": 2000}),
        Limit(name="stack", unit="KiB", bound=1024, ask=4096, under={**ROOMY, "stack": "1M"}, lifted={**ROOMY, "stack": "32M"}),
    )
}  # fmt: skip

UNCHARGED = "the kernel charges record locks to nobody"
UNSEEN = "no process maps it, so sampling does not see it"
_BOUNDS = {
    "memfd": "as many as open files allow, each of at most `file-size`",
    "tmpfs": "the cap of the tmpfs",
    "pipes": "64 MiB for one user (`pipe-user-pages-soft`)",
    "sockets": "open files times processes times the kernel's bound for one socket",
    "objects": "open files, processes and the kernel's bounds for each",
    "sysv": "`strict` refuses System V objects; in `default` the kernel's bounds, which are far off",
    "locks": "CPU time, of which a second gets 60 MiB; the policy `judge` refuses locks",
}
"""What bounds memory that sampling does not see."""
_KINDS = {
    "memfd": ("memfd", "memfd-allocated", "memfd-in-flight", "memfd-window"),
    "tmpfs": ("tmp-file", "shm-file", "home-file", "deleted-files", "tmp-allocated", "small-files"),
    "pipes": ("pipes",),
    "sockets": ("stream-sockets", "packet-sockets", "sockets-in-flight", "tcp-buffers"),
    "objects": ("mappings", "epoll-watches"),
    "sysv": ("sysv-detached", "sysv-messages", "sysv-semaphores"),
    "locks": ("record-locks",),
}
_BOUNDED = {name: _BOUNDS[kind] for kind, names in _KINDS.items() for name in names}


def ways(limit: str, source: str, table: dict[str, str], prefix: str = "", **different: dict[str, Any]) -> tuple[Way, ...]:
    """Make ways from name → words; what differs for one is named like it, with `_` for `-`."""
    found = tuple(
        Way(limit=limit, name=name, source=source, word=prefix + name, words=words, **different.pop(name.replace("-", "_"), {}))
        for name, words in table.items()
    )
    assert not different, different
    return found


MEMORY = ways(
    "memory", "limits_memory.c",
    {
        "touch": "one process, page by page",
        "populate": "mmap with MAP_POPULATE",
        "populate-advice": "madvise(MADV_POPULATE_WRITE)",
        "shared-pages": "shared anonymous memory",
        "huge-pages": "transparent huge pages, 2 MiB with one touch",
        "mremap": "one mapping that grows and moves",
        "brk": "the heap, by brk",
        "processes": "eight children, each below the limit",
        "chain": "eight generations, each below the limit",
        "copy-on-write": "children that write to what they inherited",
        "stopped": "children that stop themselves by SIGSTOP",
        "daemons": "daemons in sessions of their own that ignore signals",
        "threads": "malloc in eight threads",
        "thread-stacks": "the stacks of eight threads",
        "page-tables": "page tables of sparsely touched memory",
        "page-tables-of-many": "page tables in eight children",
        "arguments": "argument pages of sixty programs",
        "sysv-attached": "System V shared memory, attached",
        "sysv-detached": "System V shared memory, detached",
        "memfd-window": "a memfd written through a mapping that moves on",
    },
    arguments={"ask": 60}, sysv_attached={"policy": "default"},
    sysv_detached={"policy": "default", "weak": UNSEEN, "bounded": _BOUNDED["sysv-detached"]},
    memfd_window={"weak": UNSEEN, "bounded": _BOUNDED["memfd-window"]},
)  # fmt: skip

_KERNEL = {
    "memfd": "a memfd, written",
    "memfd-allocated": "a memfd, by fallocate",
    "memfd-in-flight": "memfds that are open nowhere but in a message that nobody has received",
    "tmp-file": "a file in /tmp",
    "shm-file": "a file in /dev/shm",
    "home-file": "a file in the home",
    "deleted-files": "deleted files that stay open",
    "tmp-allocated": "fallocate in /tmp",
    "small-files": "many files of 64 KiB",
    "pipes": "pipe buffers of 1 MiB (F_SETPIPE_SZ)",
    "stream-sockets": "buffers of stream sockets",
    "packet-sockets": "buffers of packet sockets",
    "sockets-in-flight": "full sockets that are in flight themselves",
    "tcp-buffers": "buffers of TCP over loopback",
    "mappings": "memory maps: 44000 mappings in each of many processes",
    "record-locks": "record locks on files",
    "epoll-watches": "watches of epoll instances",
    "sysv-messages": "System V messages",
    "sysv-semaphores": "System V semaphores",
}
KERNEL = ways(
    "memory", "limits_kernel.c", _KERNEL,
    **{
        name.replace("-", "_"): {
            "weak": UNSEEN, "bounded": _BOUNDED[name],
            **({"policy": "default"} if name.startswith(("sysv", "tcp")) else {}),
            **({"changes": {"network": NetworkMode.LOOPBACK}} if name == "tcp-buffers" else {}),
            **({"ask": 60} if name == "pipes" else {}),
            **({"more": {"open-files": 1000}, "unheld": UNCHARGED} if name == "record-locks" else {}),
        }
        for name in _KERNEL
    },
)  # fmt: skip

PROCESSES = ways(
    "processes", "limits_processes.c",
    {
        "forks": "fork in a loop",
        "insistent": "fork again 500 times after it was refused",
        "zombies": "children that nobody waits for",
        "stopped": "children that stop themselves",
        "sessions": "each child in a session of its own",
        "daemons": "forked twice, with sessions of their own",
        "tree": "each child forks twice",
        "chain": "each child forks the next one",
        "orphans": "parents that end, so that init adopts the children",
        "unheeded": "SIGCHLD ignored",
        "adopter": "a subreaper that adopts orphans",
        "threads": "threads",
        "threads-of-many": "threads in eight children",
        "at-once": "eight threads that fork at the same moment",
        "vforks": "threads that are held by vfork",
        "unsignalled": "clone without a signal for the parent",
        "siblings": "clone with CLONE_PARENT",
        "same-memory": "clone with CLONE_VM",
        "nearly-threads": "clone with everything shared but the thread group",
        "bare-threads": "clone with CLONE_THREAD and no libc",
        "untraced": "clone with CLONE_UNTRACED and an odd signal",
        "clone3": "clone3, then clone",
        "raised": "RLIMIT_NPROC raised by setrlimit, prlimit and a child",
        "other-namespace": "unshare of user and pid namespaces first",
        "exec": "children that become programs",
        "posix-spawn": "posix_spawn",
        "timer": "fork in the handler of a timer of 1 ms",
        "churn": "short lives, many at once",
    },
)  # fmt: skip

CPU = ways(
    "cpu", "limits_cpu.c",
    {
        "one": "one process",
        "at-once": "six processes at once",
        "relay": "six processes, one after another",
        "unheeded": "children of a parent that ignores SIGCHLD",
        "unheeded-by-flag": "children of a parent with SA_NOCLDWAIT",
        "unheeded-by-adopter": "orphans, adopted by a subreaper that ignores SIGCHLD",
        "generations": "each forks the next one and then only waits",
        "orphans": "orphans, adopted by init",
        "daemons": "daemons that ignore signals",
        "threads": "six threads at once",
        "thread-relay": "threads, one after another",
        "without-leader": "a thread whose process's first thread has ended",
        "short-children": "36 children of 10 ms",
        "short-programs": "36 programs of 10 ms",
        "exec-relay": "one process that becomes a new program every 30 ms",
        "in-kernel": "system calls",
        "faults": "page faults",
        "deaf": "SIGXCPU ignored and all signals blocked",
        "raised": "RLIMIT_CPU raised",
        "humble": "nice 19 and SCHED_IDLE",
        "one-processor": "bound to one processor",
        "between-ticks": "works 3 ms and rests before a tick sees it",
        "ping-pong": "two processes that wake each other up",
        "taken-turns": "children that are stopped but for 15 ms each",
        "unsignalled": "clone without a signal for the parent",
        "siblings": "clone with CLONE_PARENT",
        "vforks": "children by vfork",
    },
)  # fmt: skip

WALL = ways(
    "wall", "limits_wall.c",
    {
        "sleeps": "sleeps",
        "deaf": "ignores and blocks all signals",
        "busy": "computes",
        "stopped": "stops itself by SIGSTOP",
        "stopped-children": "waits for a stopped child",
        "one-another": "two that stop and continue each other",
        "vfork": "a parent that vfork holds",
        "fifo": "opens a FIFO that nobody writes to",
        "lock": "waits for a file's lock",
        "futex": "waits for a futex",
        "empty-pipe": "reads an empty pipe",
        "full-pipe": "writes to a full pipe",
        "waits": "waits for a child",
        "epoll": "waits in epoll",
        "accept": "waits for a connection",
        "signals": "a sleep that timers interrupt all the time",
        "suspended": "sigsuspend",
        "exec-chain": "becomes a new program every 20 ms",
        "fork-relay": "children of 10 ms, one after another",
        "without-leader": "a thread whose process's first thread has ended",
        "clocks": "sets the clock, disarms timers",
        "daemon-waited-for": "waits for a daemon that ignores signals",
        "fights": "sends SIGKILL and SIGSTOP to pid 1 and everybody",
        "crowd": "twenty processes that compute and ignore signals",
        "boottime": "sleeps on another clock",
    },
    accept={"policy": "default"},
)  # fmt: skip

# Who computes is not idle; what else there is to do for a long time is the same.
IDLE = tuple(replace(way, limit="idle") for way in WALL if way.name not in ("busy", "crowd"))
CPUS = tuple(replace(way, limit="cpus", weak="", bounded="") for way in CPU if way.name not in ("raised", "deaf"))

CPUSET = ways(
    "cpuset", "limits_cpuset.c",
    {
        "self": "sched_setaffinity to each processor",
        "child": "a child does",
        "children": "eight children at once",
        "relay": "children, one after another",
        "daemon": "a daemon in a session of its own",
        "threads": "eight threads",
        "without-leader": "a thread whose process's first thread has ended",
        "by-child": "a child moves its parent",
        "by-parent": "a parent moves its child",
        "exec": "after exec",
        "program": "another program",
        "vfork": "a vforked child",
        "sibling": "clone with CLONE_PARENT",
        "same-memory": "clone with CLONE_VM",
        "orphans": "orphans, adopted by init",
        "wide-mask": "a mask of 65536 processors first",
        "batch": "SCHED_BATCH first",
        "idle": "SCHED_IDLE first",
        "real-time": "SCHED_FIFO first",
        "attributes": "sched_setattr first",
        "handler": "in a handler of a signal",
        "timer": "in the handler of a timer of CPU time",
        "stopped": "moved while it is stopped",
        "other-cgroup": "a cgroup namespace, and cgroup files written, first",
    },
)  # fmt: skip

OUTPUT = ways(
    "output", "limits_output.c",
    {
        "stdout": "standard output",
        "stderr": "standard error",
        "one-write": "writes of 1 MiB",
        "bytes": "writes of one byte",
        "lines": "writes of 80 bytes",
        "in-turn": "both streams in turn",
        "halves": "one half on each stream",
        "threads": "eight threads at once",
        "children": "eight children at once, on both streams",
        "relay": "children, one after another",
        "after-the-end": "what a large pipe still holds when the program ends, and a daemon goes on",
        "daemon-waited-for": "a daemon, on standard error",
        "large-pipe": "the pipe made as large as it goes",
        "vectors": "writev of 1024 pieces",
        "sendfile": "sendfile of a hole",
        "splice": "splice of a hole",
        "tee": "tee of the same 64 KiB",
        "mapped": "written from a mapped file",
        "reopened": "the pipe opened anew by /proc/self/fd/1",
        "reopened-stderr": "the pipe opened anew by /proc/self/fd/2",
        "dev-stdout": "/dev/stdout",
        "duplicates": "duplicates of both descriptors",
        "non-blocking": "a non-blocking pipe",
        "handed-over": "the descriptor handed to a child over a socket",
        "deaf": "SIGPIPE ignored and all signals blocked",
        "exec": "half of it before exec, half after",
        "packets": "a pipe of packets (O_DIRECT)",
    },
    splice={"policy": "default"}, tee={"policy": "default"}, bytes={"ask": 4096}, packets={"ask": 4096},
)  # fmt: skip

DISK = ways(
    "disk", "limits_files.c",
    {
        "one-file": "one file in /tmp",
        "in-shm": "one file in /dev/shm",
        "in-home": "one file in the home",
        "var-tmp": "/var/tmp, which is a link",
        "nameless": "a file without a name (O_TMPFILE)",
        "many-files": "files of 64 KiB",
        "deleted": "deleted files that stay open",
        "renamed-over": "files that another one has replaced and that stay open",
        "allocated": "fallocate",
        "allocated-beyond": "fallocate beyond the end of a file",
        "mapped": "a mapped file",
        "scattered": "single pages of a file that is mostly hole",
        "sendfile": "sendfile",
        "copy-file-range": "copy_file_range",
        "splice": "splice",
        "link-texts": "texts of symbolic links",
        "attributes": "extended attributes of 64 KiB",
        "children": "eight children at once",
        "shared-files": "children that share the table of descriptors",
        "again": "holes punched and filled again",
        "deep": "directories in directories",
        "linked": "files that get a name and lose it",
        "direct": "O_DIRECT",
    },
    splice={"policy": "default"}, attributes={"under": {"tmp-inodes": 2000}},
)  # fmt: skip

INODES = ways(
    "inodes", "limits_inodes.c",
    {
        "files": "empty files",
        "shm": "empty files in /dev/shm",
        "directories": "directories",
        "symlinks": "symbolic links",
        "fifos": "FIFOs",
        "nodes": "regular files, by mknod",
        "nameless": "files without a name (O_TMPFILE)",
        "deleted": "deleted files that stay open",
        "links": "hard links",
        "names": "names of 240 bytes",
        "sockets": "sockets",
        "attributes": "extended attributes, 1 KiB in all for each",
        "nested": "directories in directories",
        "cwd": "by /proc/self/cwd",
        "var-tmp": "by /var/tmp, which is a link",
        "deep": "one directory in the other",
        "children": "eight children at once",
        "replaced": "files that another one has replaced and that stay open",
        "named-later": "files that get their name later",
        "held": "deleted directories that stay open",
    },
    prefix="inode-", sockets={"policy": "default"}, cwd={"under": {"home-inodes": 100}},
)  # fmt: skip

FILE_SIZE = ways(
    "file-size", "limits_files.c",
    {
        "written": "write, with SIGXFSZ ignored",
        "signalled": "write",
        "allocated": "fallocate",
        "allocated-beyond": "fallocate beyond the end",
        "sendfile": "sendfile",
        "copy-file-range": "copy_file_range",
        "splice": "splice",
        "nameless": "a file without a name",
        "in-shm": "a file in /dev/shm",
        "in-home": "a file in the home",
        "memfd": "a memfd",
        "direct": "O_DIRECT",
        "truncated": "ftruncate to more",
        "truncated-path": "truncate to more",
        "truncated-memfd": "ftruncate of a memfd",
        "far": "one write far away",
        "appended": "O_APPEND, by a new process each time",
        "of-many": "eight children that write to one file",
        "raised": "RLIMIT_FSIZE raised",
        "mapped": "written through a mapping",
    },
    prefix="size-", splice={"policy": "default"},
)  # fmt: skip

OPEN_FILES = ways(
    "open-files", "limits_objects.c",
    {
        "open": "open",
        "dup": "dup",
        "dup2": "dup2 to high numbers",
        "fcntl": "F_DUPFD",
        "fcntl-high": "F_DUPFD from 500 on",
        "dup3": "dup3 to high numbers",
        "pipe": "pipes",
        "pair": "pairs of sockets",
        "event": "eventfd",
        "epoll": "epoll instances",
        "timer": "timerfd",
        "signal": "signalfd",
        "memfd": "memfd",
        "path": "O_PATH",
        "directory": "directories",
        "pidfd": "pidfd",
        "reopened": "/proc/self/fd/0 opened again",
        "nameless": "O_TMPFILE",
        "raised": "RLIMIT_NOFILE raised",
        "threads": "four threads at once",
        "shared-table": "a child that shares the table",
        "received": "received from children over a socket",
    },
    prefix="fd-",
)  # fmt: skip

STACK = ways(
    "stack", "limits_objects.c",
    {
        "recursion": "recursion",
        "frames": "one function's frame that grows",
        "jump": "one touch far below",
        "child": "recursion in a child",
        "raised": "RLIMIT_STACK raised",
        "raised-exec": "RLIMIT_STACK raised, then a new program",
        "grows-down": "a mapping of its own that grows down",
        "signals": "handlers on top of handlers",
        "arguments": "arguments of a program, a quarter of the stack",
        "environment": "the environment of a program, a quarter of the stack",
        "kernel": "read(2) into what lies below",
        "clone": "a process on a mapping of its own that grows down",
        "program": "recursion in another program",
        "again": "down and up again, further each time",
        "vfork": "recursion in a vforked child",
        "thread": "recursion in a thread of the default size",
        "survived": "the overflow caught on another stack",
        "forks": "each generation some frames deeper",
        "protected": "mprotect(PROT_GROWSDOWN)",
    },
    prefix="stack-",
)  # fmt: skip

WAYS = (*MEMORY, *KERNEL, *PROCESSES, *CPU, *WALL, *IDLE, *CPUS, *CPUSET, *OUTPUT, *DISK, *INODES, *FILE_SIZE, *OPEN_FILES, *STACK)
