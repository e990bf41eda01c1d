// idea: include an endless file
// problem: one
// expect: CE
#include "/dev/zero"
int main(void) {}
