pub fn primes(limit: usize) -> usize {
    let mut composite = vec![false; limit];
    let mut count = 0;
    for i in 2..limit {
        if composite[i] {
            continue;
        }
        count += 1;
        for j in (i * i..limit).step_by(i) {
            composite[j] = true;
        }
    }
    count
}

pub fn sum(n: u64) -> u64 {
    if n == 0 { 0 } else { n + sum(n - 1) }
}
