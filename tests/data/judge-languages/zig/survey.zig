pub fn primes(comptime limit: usize) usize {
    var composite = [_]bool{false} ** limit;
    var count: usize = 0;
    for (2..limit) |i| {
        if (composite[i]) continue;
        count += 1;
        var j = i * i;
        while (j < limit) : (j += i) composite[j] = true;
    }
    return count;
}

pub fn sum(n: u64) u64 {
    return if (n == 0) 0 else n + sum(n - 1);
}
