/* Ways past a limit on the open files of a process, and on its stack. ASK and `got` are numbers; of the stack, KiB. */
#include "limits.h"
#include <alloca.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

enum { MAXIMUM = 1 << 16, KIB = 1024 };
static char *program;

/* ---- open files ---- */

static int opened(long kind, long i)
{
    int ends[2];
    sigset_t none;
    switch (kind) {
    case 0: return open("/dev/null", O_RDONLY);
    case 1: return dup(0);
    case 2: return dup2(0, 1000 + i);
    case 3: return fcntl(0, F_DUPFD, 0);
    case 4: return fcntl(0, F_DUPFD, 500);
    case 5: return dup3(0, 1000 + i, O_CLOEXEC);
    case 6: return pipe(ends);
    case 7: return socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    case 8: return eventfd(0, 0);
    case 9: return epoll_create1(0);
    case 10: return timerfd_create(CLOCK_MONOTONIC, 0);
    case 11: sigemptyset(&none); return signalfd(-1, &none, 0);
    case 12: return memfd_create("x", 0);
    case 13: return open("/tmp", O_PATH);
    case 14: return open("/", O_DIRECTORY);
    case 15: return syscall(SYS_pidfd_open, getpid(), 0);
    case 16: return open("/proc/self/fd/0", O_RDONLY);
    case 17: return open("/tmp", O_TMPFILE | O_RDWR, 0600);
    default: return -1;
    }
}

static void descriptors(long kind, long ask)
{
    for (long i = shared->got = 3; i < ask && worked(opened(kind, i)); i += kind == 6 || kind == 7 ? 2 : 1)
        if (kind == 6 || kind == 7)
            add(1);
}

#define DESCRIPTORS(name, kind) static void name(long ask) { descriptors(kind, ask); }
DESCRIPTORS(fd_open, 0)
DESCRIPTORS(fd_dup, 1)
DESCRIPTORS(fd_dup2, 2)
DESCRIPTORS(fd_fcntl, 3)
DESCRIPTORS(fd_fcntl_high, 4)
DESCRIPTORS(fd_dup3, 5)
DESCRIPTORS(fd_pipe, 6)
DESCRIPTORS(fd_pair, 7)
DESCRIPTORS(fd_event, 8)
DESCRIPTORS(fd_epoll, 9)
DESCRIPTORS(fd_timer, 10)
DESCRIPTORS(fd_signal, 11)
DESCRIPTORS(fd_memfd, 12)
DESCRIPTORS(fd_path, 13)
DESCRIPTORS(fd_directory, 14)
DESCRIPTORS(fd_pidfd, 15)
DESCRIPTORS(fd_reopened, 16)
DESCRIPTORS(fd_nameless, 17)

static void fd_raised(long ask)
{
    struct rlimit limit = {MAXIMUM, MAXIMUM};
    setrlimit(RLIMIT_NOFILE, &limit);
    syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, NULL);
    descriptors(1, ask);
}

static void *sharing_body(void *ask)
{
    while (shared->got < (long)ask && worked(dup(0))) {}
    return NULL;
}

static void fd_threads(long ask)
{
    pthread_t threads[4];
    shared->got = 3;
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, sharing_body, (void *)ask);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
}

/* A child shares the table and fills it for its parent. */
static void fd_shared_table(long ask)
{
    shared->got = 3;
    pid_t child = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) {
        sharing_body((void *)ask);
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

/* Sent by children, so that what is in flight counts for nobody, and received by one. */
static void fd_received(long ask)
{
    int ends[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    shared->got = 5;
    while (shared->got < ask) {
        char space[CMSG_SPACE(20 * sizeof(int))] = {0}, byte = 0;
        struct iovec vector = {&byte, 1};
        struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
        if (spawn() == 0) {
            struct cmsghdr *control = CMSG_FIRSTHDR(&message);
            *control = (struct cmsghdr){.cmsg_len = CMSG_LEN(20 * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
            _exit(sendmsg(ends[1], &message, 0) < 0);
        }
        wait(NULL);
        if (recvmsg(ends[0], &message, 0) < 0 || !CMSG_FIRSTHDR(&message)) {
            note();
            break;
        }
        long came = (CMSG_FIRSTHDR(&message)->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        add(came);
        if (came < 20 || (message.msg_flags & MSG_CTRUNC)) {
            errno = EMFILE;
            note();
            break;
        }
    }
}

/* ---- stack ---- */

enum { STEP = 32 };

static long deeper(long kib)
{
    volatile char frame[STEP * KIB];
    for (long at = 0; at < STEP * KIB; at += 1024)
        frame[at] = 1;
    add(STEP);
    return kib > STEP ? deeper(kib - STEP) + frame[0] : 0;
}

static void stack_recursion(long ask) { deeper(ask); }

static void stack_frames(long ask)
{
    for (long have = 0; have < ask; have += STEP) {
        volatile char *more = alloca(STEP * KIB);
        for (long at = 0; at < STEP * KIB; at += 1024)
            more[at] = 1;
        add(STEP);
    }
}

static void stack_jump(long ask)
{
    volatile char *far = alloca(ask * KIB); /* one touch at the far end, none between */
    far[0] = 1;
    add(ask);
}

static void stack_child(long ask)
{
    if (spawn() == 0) {
        deeper(ask);
        _exit(0);
    }
    wait(NULL);
}

static void stack_raised_of(long ask, int replaced)
{
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    char kib[24], *argv[] = {program, "stack-recursion", kib, NULL}, *environment[] = {NULL};
    setrlimit(RLIMIT_STACK, &limit);
    syscall(SYS_prlimit64, 0, RLIMIT_STACK, &limit, NULL);
    snprintf(kib, sizeof kib, "%ld", ask);
    if (replaced)
        execve(program, argv, environment);
    deeper(ask);
}

static void stack_raised(long ask) { stack_raised_of(ask, 0); }
static void stack_raised_exec(long ask) { stack_raised_of(ask, 1); }

static void grown(char *top, long ask)
{
    for (long have = 0; have < ask; have += STEP) {
        for (long at = 0; at < STEP * KIB; at += PAGE)
            top[-(have * KIB) - at - 1] = 1;
        add(STEP);
    }
}

static void stack_grows_down(long ask)
{
    /* far from everything else, so that only the limit is in its way */
    char *base = (char *)0x200000000000;
    char *memory = mmap(base, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0);
    if (memory != base)
        note();
    else
        grown(memory + PAGE, ask);
}

static void on_signal(int depth)
{
    (void)depth;
    volatile char frame[STEP * KIB];
    for (long at = 0; at < STEP * KIB; at += 1024)
        frame[at] = 1;
    add(STEP);
    if (shared->got < shared->arrived)
        raise(SIGUSR1 + frame[0] - 1); /* again, on top of this frame */
}

static void stack_signals(long ask)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_NODEFER};
    shared->arrived = ask;
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
}

static void stack_arguments(long ask)
{
    static char word[100 * KIB];
    static char *argv[64] = {"true"};
    char *environment[] = {NULL};
    memset(word, 'x', sizeof word - 1);
    for (long have = 100, count = 1; have <= ask && count < 60; have += 100) {
        argv[count++] = word;
        pid_t child = spawn();
        if (child == 0) {
            execve("/usr/bin/true", argv, environment);
            _exit(1);
        }
        int status = 1;
        waitpid(child, &status, 0);
        if (status) {
            errno = E2BIG;
            note();
            return;
        }
        add(100);
    }
}

static void stack_environment(long ask)
{
    static char word[100 * KIB];
    static char *environment[64], *argv[] = {"true", NULL};
    memset(word, 'x', sizeof word - 1);
    for (long have = 100, count = 0; have <= ask && count < 60; have += 100) {
        environment[count++] = word;
        pid_t child = spawn();
        if (child == 0) {
            execve("/usr/bin/true", argv, environment);
            _exit(1);
        }
        int status = 1;
        waitpid(child, &status, 0);
        if (status) {
            errno = E2BIG;
            note();
            return;
        }
        add(100);
    }
}

/* The kernel writes below the stack, which grows it as a touch does. */
static void stack_written_by_kernel(long ask)
{
    int zero = open("/dev/zero", O_RDONLY);
    char *top = alloca(ask * KIB) + ask * KIB;
    for (long have = STEP; have <= ask; have += STEP) {
        if (read(zero, top - have * KIB, STEP * KIB) != STEP * KIB) {
            note();
            return;
        }
        add(STEP);
    }
}

static int own_stack_body(void *ask)
{
    deeper((long)ask);
    return 0;
}

/* A process on a mapping of its own that grows down. */
static void stack_clone(long ask)
{
    char *base = (char *)0x200000000000;
    char *memory = mmap(base, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0);
    int status;
    pid_t child = memory == base ? clone(own_stack_body, memory + 16 * PAGE, CLONE_VM | SIGCHLD, (void *)ask) : -1;
    if (child < 0)
        note();
    else
        waitpid(child, &status, 0);
}

static void stack_program(long ask)
{
    char kib[24], *argv[] = {program, "stack-recursion", kib, NULL}, *environment[] = {NULL};
    snprintf(kib, sizeof kib, "%ld", ask);
    if (spawn() == 0) {
        execve(program, argv, environment);
        _exit(1);
    }
    wait(NULL);
}

/* Down and up again, each time a bit further: what was grown once must not be forgotten. */
static void stack_again(long ask)
{
    for (long kib = STEP; kib <= ask; kib *= 2) {
        shared->got = 0;
        deeper(kib);
    }
}

static void stack_vfork(long ask)
{
    if (vfork() == 0) {
        deeper(ask);
        _exit(0);
    }
}

static void *default_body(void *ask)
{
    deeper((long)ask);
    return NULL;
}

/* A thread's stack is as large as the limit, unless it asks for another; that one counts as memory. */
static void stack_thread(long ask)
{
    pthread_t thread;
    pthread_attr_t attributes;
    struct rlimit limit;
    getrlimit(RLIMIT_STACK, &limit);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, limit.rlim_cur);
    if ((errno = pthread_create(&thread, &attributes, default_body, (void *)ask)))
        note();
    else
        pthread_join(thread, NULL);
}

static void stack_caught(int number)
{
    (void)number;
    dprintf(1, "errno=11\ndone=1\n");
    _exit(0);
}

/* The overflow is caught on another stack, so that the program goes on. */
static void stack_survived(long ask)
{
    stack_t other = {.ss_sp = malloc(65536), .ss_size = 65536};
    struct sigaction action = {.sa_handler = stack_caught, .sa_flags = SA_ONSTACK};
    sigaltstack(&other, NULL);
    sigaction(SIGSEGV, &action, NULL);
    deeper(ask);
}

static void stack_forks(long ask)
{
    for (long have = 0; have < ask; have += STEP) { /* each generation a frame deeper */
        volatile char *more = alloca(STEP * KIB);
        for (long at = 0; at < STEP * KIB; at += 1024)
            more[at] = 1;
        add(STEP);
        if (have % (16 * STEP) == 0) {
            pid_t child = spawn();
            if (child) {
                waitpid(child, NULL, 0);
                if (have)
                    _exit(0);
                return;
            }
        }
    }
    _exit(0);
}

static void stack_protected(long ask)
{
    char here;
    /* make what lies below the stack part of it */
    char *page = (char *)((uintptr_t)&here & ~(uintptr_t)(PAGE - 1));
    mprotect(page, PAGE, PROT_READ | PROT_WRITE | PROT_GROWSDOWN);
    deeper(ask);
}

int main(int argc, char **argv)
{
    static const struct way ways[] = {
        {"fd-open", fd_open}, {"fd-dup", fd_dup}, {"fd-dup2", fd_dup2}, {"fd-fcntl", fd_fcntl}, {"fd-fcntl-high", fd_fcntl_high},
        {"fd-dup3", fd_dup3}, {"fd-pipe", fd_pipe}, {"fd-pair", fd_pair}, {"fd-event", fd_event}, {"fd-epoll", fd_epoll}, {"fd-timer", fd_timer},
        {"fd-signal", fd_signal}, {"fd-memfd", fd_memfd}, {"fd-path", fd_path}, {"fd-directory", fd_directory}, {"fd-pidfd", fd_pidfd},
        {"fd-reopened", fd_reopened}, {"fd-nameless", fd_nameless}, {"fd-raised", fd_raised}, {"fd-threads", fd_threads},
        {"fd-shared-table", fd_shared_table}, {"fd-received", fd_received}, {"stack-recursion", stack_recursion}, {"stack-frames", stack_frames},
        {"stack-jump", stack_jump}, {"stack-child", stack_child}, {"stack-raised", stack_raised}, {"stack-raised-exec", stack_raised_exec},
        {"stack-grows-down", stack_grows_down}, {"stack-signals", stack_signals}, {"stack-arguments", stack_arguments}, {"stack-environment", stack_environment}, {"stack-kernel", stack_written_by_kernel},
        {"stack-clone", stack_clone}, {"stack-program", stack_program}, {"stack-again", stack_again}, {"stack-vfork", stack_vfork},
        {"stack-thread", stack_thread}, {"stack-survived", stack_survived}, {"stack-forks", stack_forks}, {"stack-protected", stack_protected}, {0},
    };
    program = argv[0];
    return run_way(ways, MAXIMUM, argc, argv);
}
