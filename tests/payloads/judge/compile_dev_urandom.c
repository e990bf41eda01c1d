// idea: include an endless file that is no text, and embed it
// problem: one
// expect: CE
__asm__(".incbin \"/dev/urandom\"\n");
#include "/dev/urandom"
int main(void) {}
