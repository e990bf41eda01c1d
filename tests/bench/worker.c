/* A program that always does the same: arithmetic, memory and some system calls, a part of it in a child; prints its own CPU time in ns.
 *
 *   worker ROUNDS CHILDREN
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t work(long rounds)
{
    static uint64_t table[1 << 15];
    uint64_t value = 88172645463325252ull;
    for (long i = 0; i < rounds; i++) {
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
        table[value & 0x7fff] += value;
        if (!(i & 0xfff))
            getppid();
    }
    return table[5];
}

int main(int argc, char **argv)
{
    long rounds = atol(argv[1]), children = atol(argv[2]), own[2];
    for (long i = 0; i < children; i++)
        if (!fork())
            _exit(work(rounds / (children + 1)) == 1);
    uint64_t result = work(rounds / (children + 1));
    while (wait(0) > 0) {}
    for (int i = 0; i < 2; i++) {
        struct rusage used;
        getrusage(i ? RUSAGE_CHILDREN : RUSAGE_SELF, &used);
        own[i] = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000000l + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1000l;
    }
    printf("%ld\n", own[0] + own[1]);
    return result == 1;
}
