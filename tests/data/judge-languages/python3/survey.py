def primes(limit):
    composite = bytearray(limit)
    count = 0
    for i in range(2, limit):
        if not composite[i]:
            count += 1
            for j in range(i * i, limit, i):
                composite[j] = 1
    return count


def total(n):
    return n + total(n - 1) if n else 0
