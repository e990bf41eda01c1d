/* Ways past a limit on processes and threads. ASK is how many, `got` how many there are at once, the first one included. */
#include "limits.h"
#include <linux/sched.h>
#include <spawn.h>
#include <sys/resource.h>

enum { MAXIMUM = 400, STACK = 16384, FIRST = 40 };
static char *program;
static long wanted;

/* Be there until the first process has had its answer. */
static void stay(void)
{
    for (int i = 0; i < 4000 && !atomic_load(&shared->arrived); i++)
        poll(NULL, 0, 1);
}

static int born(pid_t child)
{
    if (child < 0)
        note();
    if (child == 0) {
        alarm(LIFE_S);
        stay();
        _exit(0);
    }
    if (child > 0)
        add(1);
    return child > 0;
}

/* Others make them: until there are enough, or one was refused. */
static void grown(long ask)
{
    for (int i = 0; i < 4000 && atomic_load(&shared->got) < ask && !atomic_load(&shared->failed); i++)
        poll(NULL, 0, 1);
}

static void finish(void)
{
    hold();
    atomic_store(&shared->arrived, 1);
}

static void forks(long ask)
{
    while (shared->got < ask && born(fork())) {}
    finish();
}

static void insistent(long ask)
{
    for (int refused = 0; shared->got < ask && refused < 500;)
        refused += !born(fork());
    finish();
}

static void zombies(long ask)
{
    for (pid_t child; shared->got < ask; add(1)) {
        if ((child = fork()) == 0)
            _exit(0);
        if (child < 0) {
            note();
            break;
        }
        waitid(P_PID, child, &(siginfo_t){0}, WEXITED | WNOWAIT);
    }
    finish();
}

static void stopped(long ask)
{
    pid_t children[MAXIMUM];
    long made = 0;
    for (; made + 1 < ask; made++) {
        if ((children[made] = fork()) == 0) {
            raise(SIGSTOP);
            _exit(0);
        }
        if (children[made] < 0) {
            note();
            break;
        }
        add(1);
    }
    finish();
    while (made)
        kill(children[--made], SIGKILL);
}

static void in_sessions(long ask, int twice)
{
    while (shared->got < ask) {
        pid_t child = fork();
        if (child < 0) {
            note();
            break;
        }
        if (child == 0) {
            alarm(LIFE_S);
            setsid();
            if (twice) {
                if (born(fork()))
                    _exit(0);
                _exit(1);
            }
            stay();
            _exit(0);
        }
        int status = 0;
        if (twice && waitpid(child, &status, 0) == child && status)
            break;
        if (!twice)
            add(1);
    }
    finish();
}

static void sessions(long ask) { in_sessions(ask, 0); }
static void daemons(long ask) { in_sessions(ask, 1); }

static void tree_node(int depth)
{
    for (int i = 0; i < 2 && depth; i++) {
        pid_t child = fork();
        if (child < 0)
            note();
        if (child == 0) {
            alarm(LIFE_S);
            tree_node(depth - 1);
            stay();
            _exit(0);
        }
        if (child > 0)
            add(1);
    }
}

static void tree(long ask)
{
    tree_node(ask > 60 ? 6 : 3);
    grown(ask);
    hold();
    finish();
}

static void chain(long ask)
{
    pid_t first = getpid();
    while (shared->got < ask) {
        pid_t child = fork();
        if (child < 0) {
            note();
            break;
        }
        if (child > 0) {
            add(1);
            break;
        }
        alarm(LIFE_S);
    }
    if (getpid() == first) {
        grown(ask);
        finish();
    } else {
        stay();
        _exit(0);
    }
}

static void orphans(long ask)
{
    while (shared->got < ask) {
        pid_t child = fork();
        if (child == 0) {
            alarm(LIFE_S);
            long had = shared->got;
            for (int i = 0; i < 4 && born(fork()); i++) {}
            _exit(shared->got == had);
        }
        int status = 0;
        if (child < 0 || waitpid(child, &status, 0) != child || status) {
            note();
            break;
        }
    }
    finish();
}

static void unheeded(long ask)
{
    signal(SIGCHLD, SIG_IGN);
    forks(ask);
}

static void adopter(long ask)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    orphans(ask);
}

static void *thread_body(void *unused)
{
    stay();
    return unused;
}

static long make_threads(long most)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (long made = 0; made < most; made++) {
        pthread_t thread;
        if ((errno = pthread_create(&thread, &attributes, thread_body, NULL))) {
            note();
            return made;
        }
        add(1);
    }
    return most;
}

static void threads(long ask)
{
    make_threads(ask - 1);
    finish();
}

static void threads_of_many(long ask)
{
    for (int i = 0; i < 8; i++) {
        pid_t child = fork();
        if (child < 0) {
            note();
            break;
        }
        if (child == 0) {
            alarm(LIFE_S);
            make_threads(ask / 8);
            stay();
            _exit(0);
        }
        add(1);
    }
    grown(ask);
    finish();
}

static atomic_long settled; /* threads that fork no more */

static void *forking_body(void *unused)
{
    for (int i = 0; i < wanted / 8 && born(fork()); i++) {}
    atomic_fetch_add(&settled, 1);
    stay();
    return unused;
}

static void at_once(long ask)
{
    long made = 0;
    wanted = ask;
    for (; made < 8; made++) {
        pthread_t thread;
        if ((errno = pthread_create(&thread, NULL, forking_body, NULL))) {
            note();
            break;
        }
        add(1);
    }
    /* Or a thread would count what it forks in the place of children that have gone. */
    for (int i = 0; i < 4000 && atomic_load(&settled) < made; i++)
        poll(NULL, 0, 1);
    finish();
}

static void *vfork_body(void *unused)
{
    pid_t child = vfork();
    if (child < 0) {
        note();
        take_back(1); /* the thread ends */
    }
    if (child == 0) {
        add(1);
        for (int i = 0; i < 4000 && !atomic_load(&shared->arrived); i++)
            poll(NULL, 0, 1);
        _exit(0);
    }
    return unused;
}

/* Each thread is held by a child that shares its memory and does not exec. */
static void vforks(long ask)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    for (long i = 0; i < ask / 2; i++) {
        pthread_t thread;
        if ((errno = pthread_create(&thread, &attributes, vfork_body, NULL))) {
            note();
            break;
        }
        add(1);
    }
    poll(NULL, 0, 30);
    finish();
    poll(NULL, 0, 20);
}

static int clone_body(void *unused)
{
    (void)unused;
    stay();
    return 0;
}

static void clones(long ask, int flags)
{
    while (shared->got < ask) {
        char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (clone(clone_body, stack + STACK, flags, NULL) < 0) {
            note();
            break;
        }
        add(1);
    }
    finish();
    poll(NULL, 0, 20);
}

static void unsignalled(long ask) { clones(ask, 0); }
static void siblings(long ask) { clones(ask, CLONE_PARENT | SIGCHLD); }
static void same_memory(long ask) { clones(ask, CLONE_VM | SIGCHLD); }
static void nearly_threads(long ask) { clones(ask, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | SIGCHLD); }
static void bare_threads(long ask) { clones(ask, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM); }
static void untraced(long ask) { clones(ask, CLONE_UNTRACED | SIGUSR1); }

static void by_clone3(long ask)
{
    while (shared->got < ask) {
        struct clone_args arguments = {.exit_signal = SIGCHLD};
        if (!born(syscall(SYS_clone3, &arguments, sizeof arguments)))
            break;
    }
    finish();
    if (shared->got == 1) /* it is refused as a whole, for which every libc falls back to clone */
        forks(ask);
}

static void raised(long ask)
{
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_NPROC, &limit);
    syscall(SYS_prlimit64, 0, RLIMIT_NPROC, &limit, NULL);
    if (fork() == 0) { /* and a child for its parent */
        syscall(SYS_prlimit64, getppid(), RLIMIT_NPROC, &limit, NULL);
        _exit(0);
    }
    wait(NULL);
    forks(ask);
}

static void other_namespace(long ask)
{
    unshare(CLONE_NEWUSER);
    unshare(CLONE_NEWPID);
    forks(ask);
}

static void by_exec(long ask)
{
    char *argv[] = {program, "stay-for-a-while", "1", NULL}, *environment[] = {NULL};
    while (shared->got < ask) {
        pid_t child = fork();
        if (child == 0) {
            execve(program, argv, environment);
            _exit(1);
        }
        if (child < 0) {
            note();
            break;
        }
        add(1);
    }
    finish();
}

static void for_a_while(long ask)
{
    (void)ask;
    poll(NULL, 0, 400);
}

static void by_spawn(long ask)
{
    char *argv[] = {program, "stay-for-a-while", "1", NULL}, *environment[] = {NULL};
    while (shared->got < ask) {
        pid_t child;
        if ((errno = posix_spawn(&child, program, NULL, NULL, argv, environment))) {
            note();
            break;
        }
        add(1);
    }
    finish();
}

static void on_alarm(int number)
{
    (void)number;
    if (shared->got < wanted)
        born(fork());
}

/* Forks in the handler of a timer that fires each millisecond. */
static void by_timer(long ask)
{
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};
    struct itimerspec each = {{0, 1000000}, {0, 1000000}};
    timer_t timer;
    wanted = ask;
    signal(SIGUSR2, on_alarm);
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    timer_settime(timer, 0, &each, NULL);
    long until = milliseconds(CLOCK_MONOTONIC) + 30000;
    while (shared->got < ask && !shared->failed && milliseconds(CLOCK_MONOTONIC) < until)
        poll(NULL, 0, 5);
    timer_delete(timer);
    finish();
}

/* Short lives, one after another and many at once: what counts is how many there are at one moment. The first ones wait for each other. */
static void churn(long ask)
{
    for (long i = 0; i < 3 * ask; i++) {
        pid_t child = fork();
        if (child == 0) {
            for (int j = 0; j < 4000 && i < FIRST && !atomic_load(&shared->arrived) && !atomic_load(&shared->failed); j++)
                poll(NULL, 0, 1);
            poll(NULL, 0, 60);
            take_back(1);
            _exit(0);
        }
        if (child < 0) {
            note();
            if (waitpid(-1, NULL, 0) < 0)
                break;
            continue;
        }
        add(1);
        if (i == FIRST)
            atomic_store(&shared->arrived, 1);
        while (waitpid(-1, NULL, WNOHANG) > 0) {}
    }
    while (wait(NULL) > 0) {}
}

int main(int argc, char **argv)
{
    static const struct way ways[] = {
        {"forks", forks}, {"insistent", insistent}, {"zombies", zombies}, {"stopped", stopped}, {"sessions", sessions}, {"daemons", daemons}, {"tree", tree},
        {"chain", chain}, {"orphans", orphans}, {"unheeded", unheeded}, {"adopter", adopter}, {"threads", threads}, {"threads-of-many", threads_of_many},
        {"at-once", at_once}, {"vforks", vforks}, {"unsignalled", unsignalled}, {"siblings", siblings}, {"same-memory", same_memory},
        {"nearly-threads", nearly_threads}, {"bare-threads", bare_threads}, {"untraced", untraced}, {"clone3", by_clone3}, {"raised", raised},
        {"other-namespace", other_namespace}, {"exec", by_exec}, {"posix-spawn", by_spawn}, {"timer", by_timer}, {"churn", churn},
        {"stay-for-a-while", for_a_while}, {0},
    };
    program = argv[0];
    first = 1;
    return run_way(ways, MAXIMUM, argc, argv);
}
