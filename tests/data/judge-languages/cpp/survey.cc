#include "survey.hpp"
#include <vector>

int primes(int limit) {
    std::vector<bool> composite(limit);
    int count = 0;
    for (int i = 2; i < limit; i++) {
        if (composite[i]) continue;
        count++;
        for (long j = 1L * i * i; j < limit; j += i) composite[j] = true;
    }
    return count;
}

long sum(long n) { return n ? n + sum(n - 1) : 0; }
