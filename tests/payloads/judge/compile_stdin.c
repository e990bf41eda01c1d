// idea: include the compiler's own streams and terminal, to hang it or to read what is not for it
// problem: one
// expect: CE
#include "/dev/stdin"
#include "/dev/tty"
#include "/proc/self/fd/0"
int main(void) {}
