import sys
from collections import Counter

import survey

sys.setrecursionlimit(10000)
words = Counter(sys.stdin.read().split())
print(survey.primes(20000))
print(survey.total(5000))
for word in sorted(words):
    print(word, words[word])
