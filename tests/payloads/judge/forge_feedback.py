# idea: write the validator's feedback files wherever one can write
# problem: custom
# expect: WA
# naive: AC
import os

for directory in (
    ".",
    "feedback",
    "../feedback",
    "/judge/feedback",
    "/judge",
    "/tmp/feedback",
    "/tmp",
    os.path.dirname(os.path.abspath(__file__)),
):
    for name, text in (
        ("score.txt", "100"),
        ("judgemessage.txt", "accepted"),
        ("teammessage.txt", "accepted"),
        ("score_multiplier.txt", "1"),
    ):
        try:
            os.makedirs(directory, exist_ok=True)
            with open(f"{directory}/{name}", "w") as file:
                file.write(text)
        except OSError:
            pass
print("wrong")
