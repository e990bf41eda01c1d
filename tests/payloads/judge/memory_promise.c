// idea: ask for a terabyte, and touch none of it
// problem: one
// expect: WA
#include <stdio.h>
#include <sys/mman.h>

int main(void) {
    mmap(0, 1UL << 40, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    puts("wrong");
}
