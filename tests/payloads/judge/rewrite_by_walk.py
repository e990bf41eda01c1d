# idea: overwrite every input that can be found
# problem: rewrite
# expect: WA
# naive: AC
import hashlib
import os

for directory, below, names in os.walk("/"):
    below[:] = [name for name in below if f"{directory}/{name}" not in ("//proc", "//sys", "//usr")]
    for name in names:
        if name.endswith(".in"):
            try:
                with open(f"{directory}/{name}", "w") as file:
                    file.write(f"hard {hashlib.sha256(b'x').hexdigest()}\n")
            except OSError:
                pass
print("x")
