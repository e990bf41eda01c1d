"""A3: a process with a secret in its arguments, environment, memory and temporary directory, that waits until its input ends."""

import os
import sys

from attack import report

secret = sys.argv[1]
with open("/tmp/secret", "w", encoding="ascii") as file:
    file.write(secret)
with open("/dev/shm/secret", "w", encoding="ascii") as file:
    file.write(secret)
report("ready", os.readlink("/proc/self/ns/pid"))
sys.stdin.read()
