// idea: ask the compiler which files exist, bit by bit
// problem: one
// expect: WA
// naive: RTE
#include <stdio.h>

int main(void) {
#if __has_include("@PACKAGE@/problem.yaml") || __has_include("@CANARY@")
    return 3;
#endif
    puts("wrong");
}
