# idea: constants that the compiler is to fold, of gigabytes
# problem: one
# expect: WA
def huge():
    return "x" * (1 << 34), 10**10**10, (0,) * (1 << 33), 1 << (1 << 40)


print("wrong")
