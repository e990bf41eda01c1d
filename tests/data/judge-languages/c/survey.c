#include "survey.h"

int primes(int limit) {
    static char composite[1 << 20];
    int count = 0;
    for (int i = 2; i < limit; i++) {
        if (composite[i]) continue;
        count++;
        for (long j = (long)i * i; j < limit; j += i) composite[j] = 1;
    }
    return count;
}

long sum(long n) { return n ? n + sum(n - 1) : 0; }
