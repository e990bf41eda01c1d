#pragma once
int primes(int limit);
long sum(long n);
