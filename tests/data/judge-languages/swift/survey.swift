func primes(_ limit: Int) -> Int {
    var composite = [Bool](repeating: false, count: limit)
    var count = 0
    for i in 2..<limit where !composite[i] {
        count += 1
        for j in stride(from: i * i, to: limit, by: i) { composite[j] = true }
    }
    return count
}

func total(_ n: Int) -> Int { n == 0 ? 0 : n + total(n - 1) }
