// idea: enter the kernel by the door for 32-bit programs, whose numbers mean other calls
// problem: one
// expect: SYS
// needs: x86_64
#include <stdio.h>

int main(void) {
    long number = 20;
    __asm__ volatile("int $0x80" : "+a"(number) : : "memory");
    puts("wrong");
}
