// idea: assemble the compiler's environment and arguments, which shows what cannot be assembled
// problem: one
// expect: CE
// naive: -
// control: how much of it the assembler names hangs on what is in it; `compile_asm_include.c` shows that it reads what it is told
__asm__(".include \"/proc/self/environ\"\n.include \"/proc/self/cmdline\"\n");
int main(void) {}
