// idea: assemble the compiler's environment and arguments, which shows what cannot be assembled
// problem: one
// expect: CE
// naive: named
__asm__(".include \"/proc/self/environ\"\n.include \"/proc/self/cmdline\"\n");
int main(void) {}
