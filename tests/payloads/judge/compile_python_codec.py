# idea: a codec that decodes the source into another one
# problem: one
# expect: WA|NZE|CE
# made: codec
print("wrong")
