// idea: the same by the assembler, which shows what it cannot assemble
// problem: one
// expect: CE
// naive: shown
__asm__(".include \"@CANARY@\"\n");
int main(void) {}
