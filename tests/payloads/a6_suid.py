"""Makes a setuid program of itself and executes it; says as whom it ran, and whether any mount would let it."""

import os
import shutil
import subprocess

from attack import report

shutil.copy("/usr/bin/id", "/tmp/id")
os.chmod("/tmp/id", 0o6755)
report("euid", subprocess.run(["/tmp/id", "-u"], capture_output=True, text=True, check=True).stdout.strip())
with open("/proc/self/mounts") as file:
    options = [line.split()[3].split(",") for line in file]
report("flags", "nosuid" if all("nosuid" in words for words in options) else "some mount takes setuid programs")
