# idea: unlink the input and put another one in its place, or rename the directory away
# problem: rewrite
# expect: WA
# naive: AC
import hashlib
import os
import shutil

try:
    path = os.readlink("/proc/self/fd/0").removesuffix(" (deleted)")
    directory = os.path.dirname(path)
    shutil.copytree(directory, f"{directory}-new")
    for name in os.listdir(f"{directory}-new"):
        if name.endswith(".in"):
            os.unlink(f"{directory}-new/{name}")
            with open(f"{directory}-new/{name}", "w") as file:
                file.write(f"hard {hashlib.sha256(b'x').hexdigest()}\n")
    os.rename(directory, f"{directory}-old{os.getpid()}")
    os.rename(f"{directory}-new", directory)
except OSError as error:
    print(error)
print("x")
