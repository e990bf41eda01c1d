# idea: ask for another pass in the validator's place, with an input of one's own
# problem: custom
# expect: WA
# naive: -
# control: the naive judge knows no passes
import os

for directory in (".", "feedback", "/judge/feedback", "/judge", "/tmp"):
    try:
        os.makedirs(directory, exist_ok=True)
        with open(f"{directory}/nextpass.in", "w") as file:
            file.write("case 01\n")
    except OSError:
        pass
print("wrong")
