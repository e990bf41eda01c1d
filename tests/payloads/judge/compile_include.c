// idea: include a file of the host: the error shows its lines
// problem: one
// expect: CE
// naive: shown
#include "@CANARY@"
int main(void) {}
