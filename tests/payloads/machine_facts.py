"""Reads facts of the host in every place that a machine view is to have covered; one line for each."""

import ctypes
import os
import re
import struct
import time

from attack import libc, report

SYSINFO = {"x86_64": 99, "aarch64": 179}[os.uname().machine]


def read(path):
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def number(path, pattern):
    found = re.search(pattern, read(path), re.MULTILINE)
    return found[1] if found else ""


report("boot-id", read("/proc/sys/kernel/random/boot_id").strip())
report("command-line", read("/proc/cmdline").strip())
report("nodename", os.uname().nodename)
report("hostname", read("/proc/sys/kernel/hostname").strip())
report("etc-hostname", read("/etc/hostname").strip())
report("meminfo", number("/proc/meminfo", r"^MemTotal: +(\d+)"))
report("zoneinfo", number("/proc/zoneinfo", r"present +(\d+)"))
report("buddyinfo", read("/proc/buddyinfo")[:40].strip())
report("cpuinfo", read("/proc/cpuinfo").count("processor\t"))
report("mhz", number("/proc/cpuinfo", r"^cpu MHz\s*: ([0-9.]+)"))
report("stat-cpus", len(re.findall(r"^cpu\d", read("/proc/stat"), re.MULTILINE)))
report("stat-context", number("/proc/stat", r"^ctxt (\d+)"))
report("btime", number("/proc/stat", r"^btime (\d+)"))
report("softirqs", read("/proc/softirqs")[:40].strip())
report("schedstat", read("/proc/schedstat")[:40].strip())
report("uptime", read("/proc/uptime").split(" ")[0])
report("idle", (read("/proc/uptime").split() or [""])[-1])
report("boottime", time.clock_gettime(time.CLOCK_BOOTTIME))
report("start", read("/proc/self/stat").rpartition(")")[2].split()[19])
report("loadavg-pids", (read("/proc/loadavg").split() or [""])[-1])
report("vmstat", number("/proc/vmstat", r"^pgfault (\d+)"))
report("diskstats", " ".join(read("/proc/diskstats").split()[:3]))
report("partitions", "".join(read("/proc/partitions").split("\n")[2:]).strip())
report("swaps", "".join(read("/proc/swaps").split("\n")[1:]).strip())
report("builder", number("/proc/version", r"\((\S+@\S+)\)"))
report("pressure", number("/proc/pressure/cpu", r"total=(\d+)"))
report("iomem", read("/proc/iomem")[:40].strip())
report("pci", read("/proc/bus/pci/devices")[:40].strip())
report("online", read("/sys/devices/system/cpu/online").strip())
report("affinity", len(os.sched_getaffinity(0)))
report("dmi", os.path.exists("/sys/class/dmi"))
buffer = ctypes.create_string_buffer(128)
libc.syscall(SYSINFO, buffer)
values = struct.unpack("=q3Q6QHH4x2QI4x", buffer.raw[:112])
report("sysinfo-uptime", values[0])
report("sysinfo-total", values[4])
report("sysinfo-procs", values[10])
