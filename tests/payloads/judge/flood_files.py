# idea: fill every scratch directory to the last byte
# problem: one
# expect: WA|OLE|MLE
import os

for place in ("/tmp", "/dev/shm", os.path.expanduser("~"), "."):
    for number in range(64):
        try:
            with open(f"{place}/judge-mark-{number}", "wb", buffering=0) as file:
                while file.write(b"x" * (1 << 20)):
                    pass
        except OSError:
            pass
print("wrong")
