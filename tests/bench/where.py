"""What bounds throughput: one tier runs for some seconds under ``perf record -a``, and the samples are added up by what was being done.

Samples of other processes are left out, those of the kernel's own threads are not: what is torn down later counts, too. Samples in the kernel are told apart
by the functions above them on the stack, the first that is in the table below, the rest by process. Needs root and `perf`; the sandboxes are those of an
ordinary user.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from beside.host import descendants, parents

_HERE = Path(__file__).resolve().parent
_FREQUENCY = 1999
_FORK = re.compile(r"PERF_RECORD_FORK\((\d+):\d+\):\((\d+):\d+\)")

PARTS: tuple[tuple[str, str], ...] = (
    ("network namespaces: made", r"copy_net_ns"),
    ("network namespaces: torn down", r"cleanup_net|net_free|unregister_netdevice"),
    ("mounts: namespaces copied", r"copy_mnt_ns|copy_tree|clone_mnt"),
    ("mounts: made", r"sys_mount|path_mount|do_new_mount|sys_move_mount|sys_fsmount|sys_fsopen|sys_fsconfig|sys_open_tree|sys_mount_setattr|sys_pivot_root"),
    ("mounts: let go", r"put_mnt_ns|umount_tree|sys_umount|cleanup_mnt|mntput|namespace_unlock|deactivate_(locked_)?super|kill_litter_super|kill_anon_super"),
    ("user, pid, ipc, uts namespaces", r"create_user_ns|free_user_ns|copy_pid_ns|pid_namespace|zap_pid_ns|destroy_pid|copy_ipcs|free_ipc|copy_utsname|free_uts"
     r"|create_new_namespaces|copy_namespaces|setup_userns_sysctls|retire_userns|proc_sys|user_namespace|map_write|free_nsproxy"),
    ("cgroups", r"cgroup_(attach|mkdir|rmdir|procs|migrate|post_fork|can_fork|exit|release)|css_"),
    ("filter: installed", r"do_seccomp|seccomp_attach|bpf_prog_(create|select|free|alloc)|bpf_int_jit|seccomp_prepare"),
    ("filter: run", r"seccomp_run_filters|__seccomp_filter|syscall_trace_enter"),
    ("Landlock", r"landlock"),
    ("exec of the program", r"sys_execve|bprm_execve|begin_new_exec|load_elf"),
    ("processes: made", r"kernel_clone|copy_process|sys_clone|sys_vfork"),
    ("processes: their memory given back", r"exit_mmap|exit_mm|mmput|free_pgtables|unmap_vmas"),
    ("processes: ended and waited for", r"do_exit|do_group_exit|release_task|sys_wait|delayed_put_task|put_task_struct|do_notify|kernel_wait"),
    ("page faults", r"exc_page_fault|do_user_addr_fault|handle_mm_fault"),
    ("messages and pipes", r"unix_|sock_|sys_sendmsg|sys_recvmsg|pipe_(read|write)|sys_poll|sys_epoll|sys_select|pidfd"),
    ("files of /proc and other files", r"sys_open|sys_read|sys_write|sys_close|sys_newfstat|sys_mknod|sys_mkdir|sys_statx|sys_getdents|__fput|proc_"),
    ("memory calls of programs", r"sys_mmap|sys_munmap|sys_mprotect|sys_brk|do_mmap"),
    ("RCU and other late work", r"rcu_|process_one_work|run_ksoftirqd|__do_softirq|kthread"),
)  # fmt: skip


def main(tier: str, seconds: float, at_once: int, user: str, part: str) -> int:
    """Measure and print; of one part, if given, also the processes and the functions."""
    perf = shutil.which("perf")
    if perf is None or os.geteuid() != 0:
        print("profile: needs `perf` (Debian: linux-perf) and root, for the kernel's side; `--user NAME` says whose the sandboxes are")
        return 2
    person = pwd.getpwnam(user)
    with tempfile.TemporaryDirectory() as place:
        data = os.path.join(place, "perf.data")
        command = [sys.executable, str(_HERE / "ours_api.py"), "/tmp", "--tier", tier]
        environment = {"PATH": "/usr/bin:/bin", "HOME": person.pw_dir, "LANG": "C.UTF-8"}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd="/",
            user=person.pw_uid, group=person.pw_gid, extra_groups=(),
        ) as server:  # fmt: skip
            assert server.stdin is not None and server.stdout is not None

            def ask(line: str) -> dict[str, object]:
                assert server.stdin is not None and server.stdout is not None
                server.stdin.write(line + "\n")
                server.stdin.flush()
                answer: dict[str, object] = json.loads(server.stdout.readline())
                return answer

            ask(f"keep\t1\t{at_once}\t/bin/true")
            family = {server.pid, *descendants(server.pid)}
            record = [perf, "record", "-q", "-a", "-g", "-e", "cpu-clock", "-F", str(_FREQUENCY), "-o", data]
            with subprocess.Popen(record, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as recorder:
                time.sleep(0.5)
                answer = ask(f"keep\t{seconds}\t{at_once}\t/bin/true")
                recorder.terminate()
            server.stdin.close()
        if "error" in answer:
            print(f"profile: {answer['error']}")
            return 2
        script = [perf, "script", "-i", data, "--show-task-events", "-F", "comm,pid,ip,sym"]
        with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace") as printed:
            assert printed.stdout is not None
            kernel = {pid for pid, parent in parents().items() if parent == 2}
            samples = [(comm, stack) for comm, pid, stack in _samples(printed.stdout, family) if pid in family or pid in kernel]
        found = Counter(where for comm, stack in samples if (where := _place(comm, stack)))
    count, wall = answer["n"], answer["wall_s"]
    assert isinstance(count, int) and isinstance(wall, float)
    print(f"{tier}, {at_once} at once: {count} runs of /bin/true in {wall:.1f} s, {count / wall:.0f} a second; started as {answer['launched']}\n")
    total = sum(found.values())
    print("| part | share of busy processor time | µs a run |\n|---|---:|---:|")
    for where, hits in found.most_common():
        print(f"| {where} | {100 * hits / total:.1f} % | {hits / _FREQUENCY / count * 1e6:.0f} |")
    print(f"| all | 100 % | {total / _FREQUENCY / count * 1e6:.0f} |")
    inside = Counter((comm, *_outline(stack)) for comm, stack in samples if part and _place(comm, stack) == part)
    for line, hits in inside.most_common(25):
        print(f"  {hits / _FREQUENCY / count * 1e6:5.0f}  {line[0]:16} {' < '.join(line[1:])}")
    return 0


def _samples(lines: Iterator[str], family: set[int]) -> Iterator[tuple[str, int, list[str]]]:
    """Yield the process's name and pid of each sample, and the functions on its stack, innermost first; `family` grows by its processes' children."""
    comm, pid, stack = "", 0, list[str]()
    for line in lines:
        if fork := _FORK.search(line):
            if int(fork[2]) in family:
                family.add(int(fork[1]))
        elif not line.strip():
            if stack:
                yield comm, pid, stack
            stack = []
        elif head := re.match(r"(\S.*?)\s+(\d+)\s*$", line):
            comm, pid = head[1], int(head[2])
        elif line[0] in " \t":
            stack.append(line.split(None, 1)[1].strip() if len(line.split(None, 1)) > 1 else "")
    if stack:
        yield comm, pid, stack


def _outline(stack: list[str]) -> list[str]:
    """Return the innermost function and the outermost ones that tell something."""
    dull = re.compile(r"entry_SYSCALL|do_syscall|x64_sys_call|ret_from_fork|^kthread|worker_thread|unknown|^$|__libc|asm_|_start")
    telling = [name for name in stack if not dull.search(name)]
    return [*telling[:1], *telling[-3:]] if len(telling) > 4 else telling


_COMPILED = tuple((part, re.compile(pattern)) for part, pattern in PARTS)


def _place(comm: str, stack: list[str]) -> str:
    """Return where a sample belongs, empty for an idle processor and for perf itself."""
    if comm in ("perf", "swapper"):
        return ""
    chain = " ".join(stack)
    for part, pattern in _COMPILED:
        if pattern.search(chain):
            return part
    if comm.startswith(("python", "Thread")):
        return "Python"
    if comm.startswith("sandbox"):
        return "our program in C"
    return "the program itself" if comm == "true" else "other"
