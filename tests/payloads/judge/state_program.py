# idea: leave the note beside the program, or in the program itself
# problem: state
# expect: WA
# naive: AC
import os

here = os.path.dirname(os.path.abspath(__file__))
seen = os.path.exists(f"{here}/judge-mark") or "marked by the first run" in open(__file__).read()[1000:]
for path, text in ((f"{here}/judge-mark", "x"), (__file__, "\n" * 1000 + "# marked by the first run\n")):
    try:
        os.chmod(path, 0o755)
    except OSError:
        pass
    try:
        with open(path, "a") as file:
            file.write(text)
    except OSError:
        pass
print("second" if seen else "first")
