/* What the payloads limits_*.c share: ways to get past one limit, each a function of how much to ask for.
 *
 *     program WAY ASK [HOLD_MS]
 *
 * A way says `got=N` each time it holds more than before, so that it is known how far one came that was killed, and `errno=N` and `done=1` at its
 * end. What it got it holds for HOLD_MS. All are bounded by themselves, in case that the sandbox is not: by MAXIMUM, and by LIFE_S for each process.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, PAGE = 4096, LIFE_S = 60 };
static int hold_ms = 50;
static long first; /* what a payload has from its start */

struct way {
    const char *name;
    void (*go)(long ask);
};

static struct {
    atomic_long got, arrived, failed;
} *shared;

static inline long milliseconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static inline void hold(void)
{
    long until = milliseconds(CLOCK_MONOTONIC) + hold_ms;
    for (long left; (left = until - milliseconds(CLOCK_MONOTONIC)) > 0;)
        poll(NULL, 0, left);
}

static inline void add(long by)
{
    long now = atomic_fetch_add(&shared->got, by) + by;
    dprintf(1, "got=%ld\n", now);
}

static inline void take_back(long by)
{
    atomic_fetch_sub(&shared->got, by);
}

static inline void note(void)
{
    atomic_store(&shared->failed, errno);
}

/* Count one more, unless a call failed. */
static inline int worked(long result)
{
    if (result < 0)
        note();
    else
        add(1);
    return result >= 0;
}

/* fork whose child ends by itself; its errno survives it. */
static inline pid_t spawn(void)
{
    pid_t child = fork();
    if (child < 0)
        note();
    if (child == 0)
        alarm(LIFE_S);
    return child;
}

/* Wait, at most a while, until N others have arrived. */
static inline void meet(long n)
{
    atomic_fetch_add(&shared->arrived, 1);
    for (int i = 0; i < 2000 && atomic_load(&shared->arrived) < n; i++)
        poll(NULL, 0, 1);
}

static int run_way(const struct way *ways, long maximum, int argc, char **argv)
{
    if (argc < 3)
        return 98;
    long ask = atol(argv[2]);
    if (ask < 1 || ask > maximum)
        return 97;
    if (argc > 3)
        hold_ms = atoi(argv[3]) < 5000 ? atoi(argv[3]) : 5000;
    shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    alarm(LIFE_S);
    for (; ways->name; ways++)
        if (!strcmp(ways->name, argv[1])) {
            errno = 0;
            shared->got = first;
            ways->go(ask);
            if (!shared->failed)
                note();
            dprintf(1, "errno=%ld\ndone=1\n", (long)shared->failed);
            return 0;
        }
    return 99;
}
