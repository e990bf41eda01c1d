/* What the limits of time are measured against: processes that do not want to end, and that write down what they used.
 *
 *   hostile DIRECTORY MODE N CPU_LIMIT_NS
 *
 * DIRECTORY/lock is locked by an open file that every process inherits, and DIRECTORY/fifo is open for writing, if it is there: who waits for
 * the lock, or for the end of the FIFO, learns when the last one is gone, whatever the sandbox. DIRECTORY/slots is shared memory: [0] the time of our first instruction, [1] the time at which all processes together had
 * used CPU_LIMIT_NS, from [8] on the CPU time of each process, always up to date. Times are CLOCK_MONOTONIC.
 *
 * Modes: spin (N processes), relay (N chains of processes that fork one and end), resident (200 MB, then spin).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <signal.h>

static volatile uint64_t *slots;
static uint64_t limit;
static int count;

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static void spin(int own)
{
    for (;;) {
        slots[8 + own] = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
        if (limit && !slots[1]) {
            uint64_t sum = 0;
            for (int i = 0; i < count; i++)
                sum += slots[8 + i];
            if (sum >= limit)
                slots[1] = clock_ns(CLOCK_MONOTONIC);
        }
    }
}

static void relay(void)
{
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        uint64_t end = clock_ns(CLOCK_MONOTONIC) + 200000;
        while (clock_ns(CLOCK_MONOTONIC) < end) {}
        if (fork() > 0)
            _exit(0);
    }
}

int main(int argc, char **argv)
{
    uint64_t began = clock_ns(CLOCK_MONOTONIC);
    char path[4096];
    if (argc != 5)
        return 2;
    count = atoi(argv[3]);
    limit = strtoull(argv[4], 0, 10);
    setpriority(PRIO_PROCESS, 0, 0); /* the same for all sandboxes, whatever the measurement runs at */
    for (int signal_number = 1; signal_number < 32; signal_number++)
        if (signal_number != SIGCHLD)
            signal(signal_number, SIG_IGN);
    strcat(strcpy(path, argv[1]), "/lock");
    int lock = open(path, O_RDWR);
    if (lock < 0)
        return 3;
    flock(lock, LOCK_EX); /* isolate refuses it, and we refuse the FIFO */
    strcat(strcpy(path, argv[1]), "/fifo");
    (void)!open(path, O_WRONLY | O_NONBLOCK);
    strcat(strcpy(path, argv[1]), "/slots");
    int file = open(path, O_RDWR);
    slots = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (slots == MAP_FAILED)
        return 4;
    if (!strcmp(argv[2], "resident")) {
        char *memory = mmap(0, 200 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            return 5;
        memset(memory, 1, 200 << 20);
    }
    slots[0] = began;
    int own = 0;
    for (int i = 1; i < count; i++)
        if (!fork()) {
            own = i;
            break;
        }
    if (!strcmp(argv[2], "relay") && own)
        relay();
    spin(own);
}
