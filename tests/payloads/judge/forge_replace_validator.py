# idea: put another validator in the place of the package's
# problem: custom
# expect: WA
# naive: AC
import os

for directory, below, names in os.walk("/"):
    below[:] = [name for name in below if f"{directory}/{name}" not in ("//proc", "//sys", "//usr")]
    for name in names:
        if name.startswith("validate"):
            try:
                with open(f"{directory}/{name}", "w") as file:
                    file.write("import sys\nsys.exit(42)\n")
            except OSError:
                pass
print("wrong")
