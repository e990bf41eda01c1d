# idea: leave a note in every scratch directory for the next case
# problem: state
# expect: WA
# naive: AC
import os

places = ("/tmp", "/var/tmp", "/dev/shm", "/run", os.path.expanduser("~"), ".", "/dev/mqueue")
seen = any(os.path.exists(f"{place}/judge-mark") for place in places)
for place in places:
    try:
        open(f"{place}/judge-mark", "w").close()
    except OSError:
        pass
print("second" if seen else "first")
