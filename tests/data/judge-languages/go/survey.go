package main

func primes(limit int) int {
	composite := make([]bool, limit)
	count := 0
	for i := 2; i < limit; i++ {
		if composite[i] {
			continue
		}
		count++
		for j := i * i; j < limit; j += i {
			composite[j] = true
		}
	}
	return count
}

func sum(n int) int {
	if n == 0 {
		return 0
	}
	return n + sum(n-1)
}
