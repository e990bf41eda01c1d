"""Boot a guest under qemu, show what it says, return what its steps ended with.

The processor is emulated (TCG): it works in every container and virtual machine, needs no privilege and no /dev/kvm. The guest speaks over
a serial line; lines that begin with `MARK` are its stage script's own: ``begin NAME``, ``end NAME STATUS``, ``done``.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

MARK = "@vm "
ROW = "@row "
"""Begins what is for the log alone, to the end of its line: a measurement, see tests/limits/table.py."""
_CONTROLS = re.compile(r"\x1b(?:c|\[[?0-9;]*[A-Za-z])")
QEMU = "qemu-system-x86_64"
# qemu 7.2 emulates cmpxchg16b wrongly, which 6.12's allocator meets; rdrand of this model feeds the guest's generator at once.
CPU = "EPYC,-cx16"
KERNEL_WORDS = (
    "console=ttyS0 quiet loglevel=3 panic=-1 reboot=t mitigations=off nokaslr no_timer_check tsc=reliable random.trust_cpu=on "
    "audit=0 psi=1 systemd.unit=vm-stage.service systemd.show_status=0 systemd.log_level=warning"
)


@dataclass(slots=True, kw_only=True)
class Report:
    """What a guest came to: (step, exit status) in order, whether it ended by itself, how long it took."""

    steps: list[tuple[str, int]] = field(default_factory=list)
    begun: bool = False
    finished: bool = False
    seconds: float = 0.0
    reason: str = ""

    @property
    def passed(self) -> bool:
        """Whether the guest ran to its end and every step ended with 0; a guest without a step proves nothing."""
        return self.finished and bool(self.steps) and all(status == 0 for _, status in self.steps)


def boot(
    stage: str, kernel: Path, initrd: Path, *, log: Path, seconds: float, cpus: int = 2, memory: str = "2G", arguments: str = ""
) -> Report:
    """Boot a guest for a stage and follow it to its end.

    Args:
        stage: its name, which the guest's /init reads from the kernel's command line.
        kernel: the kernel's image.
        initrd: the initial ramfs.
        log: takes everything that the guest and qemu say.
        seconds: after these the machine is killed.
        cpus: how many the guest has.
        memory: how much the guest has, in qemu's words.
        arguments: more words for the stage, without spaces in them; `vm.only=PATTERN` chooses tests.
    """
    command = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "nice",
        QEMU,
        "-nodefaults",
        "-no-user-config",
        "-nographic",
        "-no-reboot",
        "-machine",
        "q35",
        "-cpu",
        CPU,
    ]
    command += ["-accel", "tcg,thread=multi,tb-size=512", "-smp", str(cpus), "-m", memory, "-serial", "stdio", "-monitor", "none"]
    command += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", f"{KERNEL_WORDS} vm.stage={stage} {arguments}"]
    report = Report()
    began = time.monotonic()
    with log.open("wb") as record:
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=record)
        assert machine.stdout is not None
        try:
            rest = b""
            with selectors.DefaultSelector() as selector:
                selector.register(machine.stdout, selectors.EVENT_READ)
                while True:
                    left = began + seconds - time.monotonic()
                    if left <= 0:
                        report.reason = f"killed after {seconds:.0f} s"
                        break
                    if not selector.select(left):
                        continue
                    chunk = os.read(machine.stdout.fileno(), 65536)
                    if not chunk:
                        break
                    record.write(chunk)
                    record.flush()
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        _take(stage, line.decode(errors="replace").rstrip("\r"), report, began)
        finally:
            if report.reason or sys.exc_info()[0] is not None:
                machine.kill()
            status = machine.wait()
            machine.stdout.close()
    report.seconds = time.monotonic() - began
    if not report.finished and not report.reason:
        report.reason = f"qemu ended with {status} before the guest was done"
    return report


def _take(stage: str, line: str, report: Report, began: float) -> None:
    line = _CONTROLS.sub("", line)
    if line.startswith(MARK):
        words = line[len(MARK) :].split()
        match words:
            case ["end", name, status] if status.isdecimal():
                report.steps.append((name, int(status)))
                line = f"{name}: {'passed' if status == '0' else f'FAILED ({status})'}"
            case ["begin", *_]:
                report.begun = True
                line = " ".join(words[1:])
            case ["done"]:
                report.finished = True
                line = "done"
    line = line.partition(ROW)[0]
    if line and report.begun:
        print(f"[{stage} {time.monotonic() - began:5.1f} s] {line}", flush=True)
