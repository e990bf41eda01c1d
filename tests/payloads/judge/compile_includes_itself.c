// idea: a file that includes itself twice, two hundred deep
// problem: one
// expect: CE
#include __FILE__
#include __FILE__
int main(void) {}
