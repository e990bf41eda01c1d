// idea: wait in the kernel, unkillable in old ones, for a child that never ends
// problem: one
// expect: WTL
#define _GNU_SOURCE
#include <unistd.h>

int main(void) {
    if (vfork() == 0) for (;;) pause();
    return 0;
}
