// idea: a fork bomb
// problem: one
// expect: TLE
#include <unistd.h>

int main(void) {
    for (;;) fork();
}
