/* Bounded loads: each takes a number of something and says how much it got (`got=N`), so that a test sees a limit and its absence.
 *
 *     a7_loads forks|threads|zombies N          that many at once
 *     a7_loads processes P MIB [MS]             P processes that touch MIB each and hold it together, for MS when all have it
 *     a7_loads memfd|shm|pipes|sockets N MIB    N objects that hold MIB each without being mapped
 *     a7_loads tables MIB MS                    so much memory in page tables, a few pages of it data, held for MS
 *     a7_loads burn P MS | relay N MS | lost N MS   CPU: at once; one after another; one after another and nobody waits for them
 *     a7_loads stop | vfork | fifo | sleep      waits for ever, each in another way
 *     a7_loads spent P MS                       ends when P children of its own have used MS of CPU time each; they live on
 *     a7_loads output FD KIB                    writes so much to a stream, or in turn to both for FD 3
 *     a7_loads daemon MS                        ends while a daemon of its own holds the streams
 *     a7_loads inodes|files|inotify|queues N [PATH]
 *
 * What holds something holds it for HOLD_MS, where no other time is given, and ends.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { HOLD_MS = 400, MIB = 1 << 20 };
static char chunk[MIB];
static struct { atomic_long count, go; } *shared;

static void hold(int ms)
{
    poll(NULL, 0, ms);
}

static void report(long got)
{
    dprintf(1, "got=%ld\nerrno=%d\n", got, errno);
}

static long cpu_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void burn(long ms)
{
    while (cpu_ms() < ms) {}
}

static void *thread_body(void *unused)
{
    pause();
    return unused;
}

static void many_processes(long n, int zombies)
{
    long got = 0;
    errno = 0;
    for (long i = 0; i < n; i++) {
        pid_t child = fork();
        if (child < 0)
            break;
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (zombies)
                _exit(0);
            for (;;)
                pause();
        }
        got++;
    }
    report(got);
    hold(50);
}

static void many_threads(long n)
{
    long got = 0;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 16384);
    for (long i = 0; i < n; i++) {
        pthread_t thread;
        errno = pthread_create(&thread, &attributes, thread_body, NULL);
        if (errno)
            break;
        got++;
    }
    report(got);
    hold(50);
}

static void many_touch(long processes, long mib, int ms)
{
    for (long i = 0; i < processes; i++)
        if (fork() == 0) {
            char *memory = mmap(NULL, mib * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (memory == MAP_FAILED)
                _exit(1);
            for (long at = 0; at < mib * MIB; at += 4096)
                memory[at] = 1;
            atomic_fetch_add(&shared->count, 1);
            while (shared->count < processes)
                hold(1);
            hold(ms);
            _exit(0);
        }
    while (wait(NULL) > 0) {}
    report(shared->count * mib);
}

static void unmapped(const char *what, long n, long mib)
{
    long got = 0;
    errno = 0;
    for (long i = 0; i < n; i++) {
        long bytes = 0;
        if (!strcmp(what, "memfd")) {
            int fd = memfd_create("load", 0);
            for (long j = 0; fd >= 0 && j < mib; j++) {
                ssize_t size = write(fd, chunk, MIB);
                if (size > 0)
                    bytes += size;
            }
        } else if (!strcmp(what, "shm")) {
            int id = shmget(IPC_PRIVATE, mib * MIB, 0600 | IPC_CREAT);
            char *memory = id < 0 ? (void *)-1 : shmat(id, NULL, 0);
            if (memory != (void *)-1) {
                memset(memory, 1, mib * MIB);
                shmdt(memory);
                bytes = mib * MIB;
            }
        } else {
            int ends[2];
            int made = !strcmp(what, "pipes") ? pipe2(ends, O_NONBLOCK) : socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends);
            if (made == 0) {
                int size = mib * MIB;
                if (!strcmp(what, "pipes"))
                    fcntl(ends[1], F_SETPIPE_SZ, size);
                else
                    setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
                for (ssize_t written; bytes < mib * MIB && (written = write(ends[1], chunk, 65536)) > 0;)
                    bytes += written;
            }
        }
        if (!bytes)
            break;
        got += bytes;
    }
    report(got / MIB);
    hold(HOLD_MS);
}

static void page_tables(long mib, int ms)
{
    /* One page of table for each 2 MiB of addresses; the data page behind it is the kernel's own zero page. */
    unsigned long step = 2ul * MIB, span = (unsigned long)mib * 256 * step;
    volatile char *memory = mmap(NULL, span, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        report(0);
        return;
    }
    madvise((void *)memory, span, MADV_NOHUGEPAGE);
    for (unsigned long at = 0; at < span; at += step)
        (void)memory[at];
    report(mib);
    hold(ms);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    long n = argc > 2 ? atol(argv[2]) : 0, m = argc > 3 ? atol(argv[3]) : 0;
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memset(chunk, 1, sizeof chunk);
    if (!strcmp(what, "forks") || !strcmp(what, "zombies"))
        many_processes(n, what[0] == 'z');
    else if (!strcmp(what, "threads"))
        many_threads(n);
    else if (!strcmp(what, "processes"))
        many_touch(n, m, argc > 4 ? atoi(argv[4]) : HOLD_MS);
    else if (!strcmp(what, "memfd") || !strcmp(what, "shm") || !strcmp(what, "pipes") || !strcmp(what, "sockets"))
        unmapped(what, n, m);
    else if (!strcmp(what, "tables"))
        page_tables(n, argc > 3 ? (int)m : HOLD_MS);
    else if (!strcmp(what, "burn")) {
        for (long i = 0; i < n; i++)
            if (fork() == 0) {
                burn(m);
                _exit(0);
            }
        while (wait(NULL) > 0) {}
        report(n);
    } else if (!strcmp(what, "relay") || !strcmp(what, "lost")) {
        if (what[0] == 'l')
            signal(SIGCHLD, SIG_IGN);
        for (long i = 0; i < n; i++) {
            if (fork() == 0) {
                burn(m);
                _exit(0);
            }
            wait(NULL); /* with SIGCHLD ignored it waits as well, and learns nothing */
        }
        report(n);
    } else if (!strcmp(what, "spent")) {
        for (long i = 0; i < n; i++)
            if (fork() == 0) {
                burn(m);
                atomic_fetch_add(&shared->count, 1);
                for (;;)
                    pause();
            }
        while (shared->count < n)
            hold(1);
        report(n);
    } else if (!strcmp(what, "stop"))
        raise(SIGSTOP);
    else if (!strcmp(what, "sleep"))
        pause();
    else if (!strcmp(what, "vfork")) {
        if (vfork() == 0)
            for (;;)
                pause();
    } else if (!strcmp(what, "fifo")) {
        mkfifo("/tmp/fifo", 0600);
        open("/tmp/fifo", O_RDONLY);
    } else if (!strcmp(what, "output")) {
        memset(chunk, 'x', sizeof chunk);
        for (long left = m * 1024, turn = 0; left > 0; turn++) {
            long size = left < 65536 ? left : 65536;
            ssize_t written = write(n == 3 ? 1 + turn % 2 : n, chunk, size);
            if (written <= 0)
                return 3;
            left -= written;
        }
    } else if (!strcmp(what, "daemon")) {
        if (fork() == 0) {
            setsid();
            if (fork() == 0) {
                signal(SIGTERM, SIG_IGN);
                signal(SIGHUP, SIG_IGN);
                hold(n);
                dprintf(1, "survived=yes\n");
                _exit(0);
            }
            _exit(0);
        }
        wait(NULL);
        dprintf(1, "main=ended\n");
    } else if (!strcmp(what, "inodes")) {
        char name[256];
        long got = 0;
        errno = 0;
        for (; got < n; got++) {
            snprintf(name, sizeof name, "%s/%ld", argv[3], got);
            int fd = open(name, O_CREAT | O_WRONLY, 0600);
            if (fd < 0)
                break;
            close(fd);
        }
        report(got);
    } else if (!strcmp(what, "fill")) {
        int fd = open(argv[3], O_CREAT | O_WRONLY, 0600);
        long got = 0;
        signal(SIGXFSZ, SIG_IGN);
        errno = 0;
        for (; got < n && write(fd, chunk, MIB) == MIB; got++) {}
        report(got);
    } else if (!strcmp(what, "files") || !strcmp(what, "inotify")) {
        long got = 0;
        errno = 0;
        while (got < n && (what[0] == 'f' ? dup(0) : inotify_init1(0)) >= 0)
            got++;
        report(got);
        hold(m);
    } else if (!strcmp(what, "queues")) {
        long got = 0;
        errno = 0;
        for (; got < n; got++) {
            char name[64];
            snprintf(name, sizeof name, "/a7-%ld-%d", got, getpid());
            struct mq_attr attributes = {.mq_maxmsg = 10, .mq_msgsize = 8192};
            if (mq_open(name, O_CREAT | O_RDWR, 0600, &attributes) < 0)
                break;
            mq_unlink(name);
        }
        report(got);
    } else
        return 99;
    return 0;
}
