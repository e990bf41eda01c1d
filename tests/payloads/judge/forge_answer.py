# idea: make the answer what this program prints
# problem: custom
# expect: WA
# naive: AC
import os

for directory, below, names in os.walk("/"):
    below[:] = [name for name in below if f"{directory}/{name}" not in ("//proc", "//sys", "//usr")]
    for name in names:
        if name.endswith(".ans"):
            try:
                with open(f"{directory}/{name}", "w") as file:
                    file.write("wrong\n")
            except OSError:
                pass
print("wrong")
