# idea: write the next test's input: standard input has a name
# problem: rewrite
# expect: WA
# naive: AC
import hashlib
import os

text = f"hard {hashlib.sha256(b'x').hexdigest()}\n"
try:
    path = os.readlink("/proc/self/fd/0")
    for name in [path, *(f"{os.path.dirname(path)}/0{number}.in" for number in range(1, 4))]:
        with open(name, "w") as file:
            file.write(text)
except OSError as error:
    print(error)
print("x")
