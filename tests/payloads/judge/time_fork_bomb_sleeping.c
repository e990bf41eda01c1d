// idea: a fork bomb whose processes sleep, in sessions of their own
// problem: one
// expect: WTL
#include <unistd.h>

int main(void) {
    while (fork() >= 0) setsid();
    for (;;) pause();
}
