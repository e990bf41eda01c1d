// idea: the same by the assembler
// problem: one
// expect: CE
__asm__(".data\n.fill 4000000000, 1, 0x90\n");
int main(void) {}
