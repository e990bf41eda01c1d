// idea: recursion without end
// problem: one
// expect: RTE|MLE
int deeper(volatile int *before) {
    volatile int here[256];
    here[0] = before ? before[0] + 1 : 0;
    return deeper(here) + here[0];
}

int main(void) { return deeper(0); }
