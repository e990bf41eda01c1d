# idea: use up inodes: empty files, directories, links, FIFOs
# problem: one
# expect: WA
import os

for place in ("/tmp", "/dev/shm", "."):
    for make in (lambda path: os.close(os.open(path, os.O_CREAT)), os.mkdir, lambda path: os.symlink("x", path), os.mkfifo):
        for number in range(5000):
            try:
                make(f"{place}/judge-mark-{make.__name__}-{number}")
            except OSError:
                break
print("wrong")
