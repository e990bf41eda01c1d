// idea: share the memory among children, each below the limit
// problem: one
// expect: MLE
#include <stdlib.h>
#include <unistd.h>

int main(void) {
    for (int i = 0; i < 8; i++)
        if (fork() == 0) {
            volatile char *more = malloc(64 << 20);
            for (long at = 0; more && at < 64 << 20; at += 4096) more[at] = 1;
            for (;;) pause();
        }
    for (;;) pause();
}
