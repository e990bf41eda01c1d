// idea: take memory without end
// problem: one
// expect: MLE
#include <stdlib.h>

int main(void) {
    for (;;) {
        volatile char *more = malloc(1 << 20);
        for (long at = 0; more && at < 1 << 20; at += 4096) more[at] = 1;
    }
}
