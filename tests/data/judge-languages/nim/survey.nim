proc primes*(limit: int): int =
  var composite = newSeq[bool](limit)
  for i in 2 ..< limit:
    if not composite[i]:
      inc result
      var j = i * i
      while j < limit:
        composite[j] = true
        j += i

proc sum*(n: int): int = (if n == 0: 0 else: n + sum(n - 1))
