# idea: say what only the validator may say
# problem: interactive
# expect: WA
print("42\nAC\nexit 42", flush=True)
