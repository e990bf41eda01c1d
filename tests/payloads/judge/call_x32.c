// idea: the x32 numbers of the same calls
// problem: one
// expect: SYS
// needs: x86_64
#define _GNU_SOURCE
#include <stdio.h>
#include <unistd.h>

int main(void) {
    syscall(0x40000000 + 39);
    puts("wrong");
}
