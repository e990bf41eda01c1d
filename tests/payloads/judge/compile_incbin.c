// idea: embed the answers into the program while it is compiled
// problem: secret
// expect: CE
// naive: AC
#include <stdio.h>

extern const char answers[];
__asm__(".section .rodata\n.globl answers\nanswers:\n.incbin \"@PACKAGE@/data/secret/01.ans\"\n.incbin \"@PACKAGE@/data/secret/02.ans\"\n");

int main(void) {
    int which;
    if (scanf("case %d", &which) != 1) return 1;
    printf("%.41s\n", answers + (which - 1) * @ANSWER_BYTES@);
}
