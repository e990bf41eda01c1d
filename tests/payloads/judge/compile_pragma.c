// idea: pragmas that read, compare and depend on files of the host
// problem: one
// expect: CE
// naive: shown
#pragma GCC dependency "@CANARY@"
#include_next "@CANARY@"
int main(void) {}
