/* Ways past a limit on memory: memory that processes map. ASK and `got` are MiB. */
#include "limits.h"
#include <sys/ipc.h>
#include <sys/shm.h>

enum { MAXIMUM = 256, CHILDREN = 8 };

/* Take memory piece by piece, as a program does that is told no at some point. */
static void fill(long mib, int flags, int advice, int touch)
{
    for (long i = 0; i < mib; i++) {
        char *piece = mmap(NULL, MIB, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
        if (piece == MAP_FAILED) {
            note();
            return;
        }
        if (advice && madvise(piece, MIB, advice)) {
            note();
            return;
        }
        for (long at = 0; touch && at < MIB; at += PAGE)
            piece[at] = 1;
        add(1);
    }
}

static void touch(long ask) { fill(ask, MAP_PRIVATE, 0, 1); hold(); }
static void populate(long ask) { fill(ask, MAP_PRIVATE | MAP_POPULATE, 0, 0); hold(); }
static void populate_advice(long ask) { fill(ask, MAP_PRIVATE, 23 /* MADV_POPULATE_WRITE */, 0); hold(); }
static void shared_pages(long ask) { fill(ask, MAP_SHARED, 0, 1); hold(); }

static void huge(long ask)
{
    char *area = mmap(NULL, (ask + 2) * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *start = (char *)(((uintptr_t)area + 2 * MIB - 1) & ~(uintptr_t)(2 * MIB - 1));
    for (long i = 0; i + 2 <= ask; i += 2) {
        if (mprotect(start + i * MIB, 2 * MIB, PROT_READ | PROT_WRITE)) {
            note();
            break;
        }
        madvise(start + i * MIB, 2 * MIB, MADV_HUGEPAGE);
        start[i * MIB] = start[i * MIB + MIB] = 1;
        for (long at = 0; at < 2 * MIB; at += PAGE)
            start[i * MIB + at] = 1;
        add(2);
    }
    hold();
}

static void *map_piece(long mib) { return mmap(NULL, mib * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

static void grow(long ask)
{
    char *memory = map_piece(1);
    for (long have = 1; have <= ask && memory != MAP_FAILED; have++) {
        for (long at = (have - 1) * MIB; at < have * MIB; at += PAGE)
            memory[at] = 1;
        add(1);
        memory = mremap(memory, have * MIB, (have + 1) * MIB, MREMAP_MAYMOVE);
    }
    note();
    hold();
}

static void brk_heap(long ask)
{
    for (long i = 0; i < ask; i++) {
        char *piece = sbrk(MIB);
        if (piece == (char *)-1) {
            note();
            break;
        }
        memset(piece, 1, MIB);
        add(1);
    }
    hold();
}

static void many(long ask, void (*each)(long mib))
{
    for (int i = 0; i < CHILDREN; i++)
        if (spawn() == 0) {
            each(ask / CHILDREN);
            _exit(0);
        }
    while (wait(NULL) > 0 || errno == EINTR) {}
}

static void hold_part(long mib)
{
    fill(mib, MAP_PRIVATE, 0, 1);
    meet(CHILDREN);
    hold();
}

static void processes(long ask) { many(ask, hold_part); }

static void chain_part(long mib, int left)
{
    fill(mib, MAP_PRIVATE, 0, 1);
    if (left > 1 && spawn() == 0) {
        chain_part(mib, left - 1);
        _exit(0);
    }
    if (left == 1)
        hold();
    wait(NULL);
}

static void chain(long ask) { chain_part(ask / CHILDREN, CHILDREN); }

/* Below the limit until each child writes to what it inherited. */
static void copy_on_write(long ask)
{
    long mib = ask / 4;
    char *memory = map_piece(mib);
    memset(memory, 1, mib * MIB);
    add(mib);
    for (int i = 0; i < 3; i++)
        if (spawn() == 0) {
            for (long at = 0; at < mib; at++) {
                memset(memory + at * MIB, 2, MIB);
                add(1);
            }
            meet(3);
            hold();
            _exit(0);
        }
    while (wait(NULL) > 0) {}
}

static void stopped_part(long mib)
{
    fill(mib, MAP_PRIVATE, 0, 1);
    atomic_fetch_add(&shared->arrived, 1);
    raise(SIGSTOP);
}

static void stopped(long ask)
{
    pid_t children[CHILDREN];
    for (int i = 0; i < CHILDREN; i++)
        if ((children[i] = spawn()) == 0) {
            stopped_part(ask / CHILDREN);
            _exit(0);
        }
    for (int i = 0; i < 2000 && shared->arrived < CHILDREN; i++)
        poll(NULL, 0, 1);
    hold();
    for (int i = 0; i < CHILDREN; i++)
        if (children[i] > 0)
            kill(children[i], SIGKILL);
}

static void daemons(long ask)
{
    for (int i = 0; i < CHILDREN; i++) {
        if (spawn() == 0) {
            setsid();
            if (spawn() == 0) {
                for (int number = 1; number < 32; number++)
                    signal(number, SIG_IGN);
                hold_part(ask / CHILDREN);
                atomic_fetch_add(&shared->arrived, 1);
                _exit(0);
            }
            _exit(0);
        }
        wait(NULL);
    }
    for (int i = 0; i < 3000 && shared->arrived < 2 * CHILDREN; i++)
        poll(NULL, 0, 1);
}

static void *thread_part(void *mib)
{
    char *memory = malloc((long)mib * MIB);
    for (long i = 0; memory && i < (long)mib; i++) {
        memset(memory + i * MIB, 1, MIB);
        add(1);
    }
    if (!memory)
        note();
    hold();
    return NULL;
}

static void in_threads(long ask, void *(*body)(void *), long stack_mib)
{
    pthread_t threads[CHILDREN];
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, stack_mib * MIB + 65536);
    int made = 0;
    for (; made < CHILDREN && !(errno = pthread_create(&threads[made], &attributes, body, (void *)(ask / CHILDREN))); made++) {}
    if (made < CHILDREN)
        note();
    while (made)
        pthread_join(threads[--made], NULL);
}

static void threads(long ask) { in_threads(ask, thread_part, 1); }

static long deeper(long mib)
{
    volatile char frame[MIB / 2];
    for (long at = 0; at < (long)sizeof frame; at += PAGE)
        frame[at] = 1;
    if (mib % 2)
        add(1);
    return mib ? deeper(mib - 1) + frame[0] : (hold(), 0);
}

static void *stack_part(void *mib)
{
    deeper(2 * (long)mib - 1);
    return NULL;
}

static void stacks(long ask) { in_threads(ask, stack_part, ask / CHILDREN); }

/* One page of table for each 2 MiB of addresses; the data page behind it is the kernel's own zero page. */
static void tables_part(long mib)
{
    unsigned long step = 2ul * MIB, span = step * 256;
    for (long i = 0; i < mib; i++) {
        volatile char *memory = mmap(NULL, span, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) {
            note();
            return;
        }
        madvise((void *)memory, span, MADV_NOHUGEPAGE);
        for (unsigned long at = 0; at < span; at += step)
            (void)memory[at];
        add(1);
    }
    hold();
}

static void tables(long ask) { tables_part(ask); }
static void tables_of_many(long ask) { many(ask, tables_part); }

/* Arguments and environment are pages of the new program, made by the kernel. */
static void arguments(long ask)
{
    static char word[100 * 1024];
    char *argv[17] = {"sleep", "2"}, *environment[17] = {0};
    memset(word, 'x', sizeof word - 1);
    for (int i = 0; i < 15; i++)
        environment[i] = word;
    for (long have = 0; have + 1 <= ask && have < 60; have++) {
        pid_t child = spawn();
        if (child < 0)
            break;
        if (child == 0) {
            execve("/usr/bin/sleep", argv, environment);
            _exit(1);
        }
        add(1); /* 1.5 MiB, less what rounds it */
    }
    while (wait(NULL) > 0) {}
}

static void sysv(long ask, int detach)
{
    for (long i = 0; i < ask; i += 4) {
        int id = shmget(IPC_PRIVATE, 4 * MIB, 0600 | IPC_CREAT);
        char *memory = id < 0 ? (void *)-1 : shmat(id, NULL, 0);
        if (memory == (void *)-1) {
            note();
            break;
        }
        memset(memory, 1, 4 * MIB);
        if (detach)
            shmdt(memory);
        add(4);
    }
    hold();
}

static void sysv_attached(long ask) { sysv(ask, 0); }
static void sysv_detached(long ask) { sysv(ask, 1); }

/* The mapped part is always small: each piece is written through a window that moves on. */
static void window(long ask)
{
    int fd = memfd_create("window", 0);
    if (ftruncate(fd, ask * MIB))
        note();
    for (long i = 0; i < ask; i++) {
        char *piece = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, i * MIB);
        if (piece == MAP_FAILED) {
            note();
            break;
        }
        memset(piece, 1, MIB);
        munmap(piece, MIB);
        add(1);
    }
    hold();
}

int main(int argc, char **argv)
{
    static const struct way ways[] = {
        {"touch", touch}, {"populate", populate}, {"populate-advice", populate_advice}, {"shared-pages", shared_pages}, {"huge-pages", huge},
        {"mremap", grow}, {"brk", brk_heap}, {"processes", processes}, {"chain", chain}, {"copy-on-write", copy_on_write}, {"stopped", stopped},
        {"daemons", daemons}, {"threads", threads}, {"thread-stacks", stacks}, {"page-tables", tables}, {"page-tables-of-many", tables_of_many},
        {"arguments", arguments}, {"sysv-attached", sysv_attached}, {"sysv-detached", sysv_detached}, {"memfd-window", window}, {0},
    };
    return run_way(ways, MAXIMUM, argc, argv);
}
