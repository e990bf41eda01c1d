// idea: wait in a way that uses no time at all: a futex, a pipe that nobody writes to, a poll without end
// problem: one
// expect: WTL
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

static void *read_for_ever(void *ends) {
    char letter;
    return (void *)read(*(int *)ends, &letter, 1);
}

int main(void) {
    int ends[2];
    pthread_t thread;
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    if (pipe(ends) != 0) return 1;
    pthread_create(&thread, 0, read_for_ever, ends);
    struct pollfd nothing = {ends[0], POLLIN, 0};
    poll(&nothing, 1, -1);
    pthread_mutex_lock(&lock);
    pthread_mutex_lock(&lock);
}
