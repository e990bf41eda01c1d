// idea: block every signal in every thread, and compute
// problem: one
// expect: TLE
#include <pthread.h>
#include <signal.h>

static void *spin(void *unused) {
    for (volatile long i = 0;; i++) (void)unused;
}

int main(void) {
    sigset_t all;
    pthread_t thread;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, 0);
    for (int i = 0; i < 4; i++) pthread_create(&thread, 0, spin, 0);
    spin(0);
}
