// idea: threads to the end, all computing
// problem: one
// expect: TLE
#include <pthread.h>

static void *spin(void *unused) {
    for (volatile long i = 0;; i++) (void)unused;
}

int main(void) {
    pthread_t thread;
    while (pthread_create(&thread, 0, spin, 0) == 0) ;
    spin(0);
}
