// idea: end by a fault after the right beginnings
// problem: one
// expect: RTE
#include <stdio.h>

int main(void) {
    puts("token");
    fflush(stdout);
    *(volatile int *)0 = 1;
}
