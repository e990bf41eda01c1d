/* Ways past a limit on CPU time. ASK is how many milliseconds in all, six parts of it each below the limit; `got` is how much was used. */
#include "limits.h"
#include <sys/resource.h>
#include <sys/time.h>

enum { MAXIMUM = 3000, PARTS = 6, SLICE_MS = 10, PROGRAM_MS = 30 };
static char *program;

static void spin(long ms)
{
    for (long done = 0; done < ms; done += SLICE_MS) {
        long until = milliseconds(CLOCK_THREAD_CPUTIME_ID) + SLICE_MS;
        while (milliseconds(CLOCK_THREAD_CPUTIME_ID) < until) {}
        add(SLICE_MS);
    }
}

static void one(long ask) { spin(ask); }

static void reap(void)
{
    while (wait(NULL) > 0) {}
}

static void part(pid_t child, long ask)
{
    if (child == 0) {
        spin(ask / PARTS);
        _exit(0);
    }
}

static void at_once(long ask)
{
    for (int i = 0; i < PARTS; i++)
        part(spawn(), ask);
    reap();
}

static void relay(long ask)
{
    for (int i = 0; i < PARTS; i++) {
        part(spawn(), ask);
        reap();
    }
}

/* The kernel adds the time of a child to nobody when its parent ignores SIGCHLD. wait(2) waits then as well, and learns nothing. */
static void unheeded(long ask)
{
    signal(SIGCHLD, SIG_IGN);
    relay(ask);
}

static void unheeded_by_flag(long ask)
{
    struct sigaction action = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
    sigaction(SIGCHLD, &action, NULL);
    relay(ask);
}

static void unheeded_by_adopter(long ask)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    signal(SIGCHLD, SIG_IGN);
    for (int i = 0; i < PARTS; i++)
        if (spawn() == 0) {
            if (spawn() == 0) {
                spin(ask / PARTS);
                _exit(0);
            }
            _exit(0);
        } else
            reap();
}

static void generations(long ask)
{
    for (int i = 0; i < PARTS; i++) {
        spin(ask / PARTS);
        pid_t child = spawn();
        if (child > 0) {
            waitpid(child, NULL, 0);
            if (i)
                _exit(0);
            return;
        }
        if (child < 0)
            return;
    }
    _exit(0);
}

static void orphans(long ask)
{
    for (int i = 0; i < PARTS; i++) {
        if (spawn() == 0) {
            part(spawn(), ask);
            _exit(0);
        }
        reap();
    }
    while (shared->got < ask)
        poll(NULL, 0, 5);
}

static void daemons(long ask)
{
    for (int i = 0; i < PARTS; i++) {
        if (spawn() == 0) {
            setsid();
            pid_t child = spawn();
            if (child == 0)
                for (int number = 1; number < 32; number++)
                    signal(number, SIG_IGN);
            part(child, ask);
            _exit(0);
        }
        reap();
    }
    while (shared->got < ask)
        poll(NULL, 0, 5);
}

static void *thread_body(void *ms)
{
    spin((long)ms);
    return NULL;
}

static void in_threads(long ask, int together)
{
    pthread_t threads[PARTS];
    for (int i = 0; i < PARTS; i++) {
        pthread_create(&threads[i], NULL, thread_body, (void *)(ask / PARTS));
        if (!together)
            pthread_join(threads[i], NULL);
    }
    for (int i = 0; together && i < PARTS; i++)
        pthread_join(threads[i], NULL);
}

static void threads(long ask) { in_threads(ask, 1); }
static void thread_relay(long ask) { in_threads(ask, 0); }

static void *leader_body(void *ms)
{
    spin((long)ms);
    dprintf(1, "errno=0\ndone=1\n");
    _exit(0);
}

/* The first thread is a zombie while another one works. */
static void without_leader(long ask)
{
    pthread_t thread;
    pthread_create(&thread, NULL, leader_body, (void *)ask);
    syscall(SYS_exit, 0);
}

static void short_children(long ask)
{
    for (long i = 0; i < ask / SLICE_MS; i++) {
        if (spawn() == 0) {
            spin(SLICE_MS);
            _exit(0);
        }
        reap();
    }
}

static void short_programs(long ask)
{
    char *argv[] = {program, "one", "10", NULL}, *environment[] = {NULL};
    for (long i = 0; i < ask / SLICE_MS; i++) {
        if (spawn() == 0) {
            dup2(open("/dev/null", O_WRONLY), 1);
            execve(program, argv, environment);
            _exit(1);
        }
        reap();
        add(SLICE_MS);
    }
}

/* One process that becomes a new program again and again. */
static void exec_relay(long ask)
{
    char left[24], had[32], *argv[] = {program, "exec-relay", left, NULL}, *environment[] = {had, NULL};
    long before = getenv("HAD") ? atol(getenv("HAD")) : 0;
    snprintf(left, sizeof left, "%ld", ask - PROGRAM_MS);
    snprintf(had, sizeof had, "HAD=%ld", before + PROGRAM_MS);
    spin(PROGRAM_MS);
    dprintf(1, "got=%ld\n", before + PROGRAM_MS);
    if (ask > PROGRAM_MS)
        execve(program, argv, environment);
}

static void in_kernel(long ask)
{
    for (long done = 0; done < ask; done += SLICE_MS) {
        long until = milliseconds(CLOCK_THREAD_CPUTIME_ID) + SLICE_MS;
        while (milliseconds(CLOCK_THREAD_CPUTIME_ID) < until)
            for (int i = 0; i < 100; i++)
                syscall(SYS_getppid);
        add(SLICE_MS);
    }
}

static void faults(long ask)
{
    char *memory = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (long done = 0; done < ask; done += SLICE_MS) {
        long until = milliseconds(CLOCK_THREAD_CPUTIME_ID) + SLICE_MS;
        while (milliseconds(CLOCK_THREAD_CPUTIME_ID) < until) {
            for (long at = 0; at < MIB; at += PAGE)
                memory[at] = 1;
            madvise(memory, MIB, MADV_DONTNEED);
        }
        add(SLICE_MS);
    }
}

static void deaf(long ask)
{
    sigset_t all;
    sigfillset(&all);
    signal(SIGXCPU, SIG_IGN);
    sigprocmask(SIG_BLOCK, &all, NULL);
    spin(ask);
}

static void raised(long ask)
{
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_CPU, &limit);
    syscall(SYS_prlimit64, 0, RLIMIT_CPU, &limit, NULL);
    relay(ask);
}

static void humble(long ask)
{
    struct sched_param parameter = {0};
    setpriority(PRIO_PROCESS, 0, 19);
    sched_setscheduler(0, SCHED_IDLE, &parameter);
    at_once(ask);
}

static void one_processor(long ask)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(0, &set);
    sched_setaffinity(0, sizeof set, &set);
    at_once(ask);
}

/* Sleeps when a sampler or a tick would look: works 3 ms, rests 1. */
static void between_ticks(long ask)
{
    long since = 0;
    while (since < ask) {
        long before = milliseconds(CLOCK_PROCESS_CPUTIME_ID);
        while (milliseconds(CLOCK_PROCESS_CPUTIME_ID) < before + 3) {}
        since += 3;
        if (since / SLICE_MS != (since - 3) / SLICE_MS)
            add(SLICE_MS);
        poll(NULL, 0, 1);
    }
}

/* Two that wake each other up: nobody runs for longer than a few microseconds. */
static void ping_pong(long ask)
{
    int there[2], back[2];
    char byte = 0;
    if (pipe(there) || pipe(back))
        return;
    pid_t child = spawn();
    if (child == 0) {
        while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1) {}
        _exit(0);
    }
    long before = 0;
    while (before < ask / 2) {
        for (int i = 0; i < 500; i++)
            if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
                return;
        long now = milliseconds(CLOCK_PROCESS_CPUTIME_ID);
        if (now - before >= SLICE_MS) {
            add(2 * (now - before)); /* the other one works as much */
            before = now;
        }
    }
    kill(child, SIGKILL);
}

/* Children that are stopped but for a moment each. */
static void taken_turns(long ask)
{
    pid_t children[PARTS];
    for (int i = 0; i < PARTS; i++)
        if ((children[i] = spawn()) == 0) {
            raise(SIGSTOP);
            spin(ask / PARTS);
            _exit(0);
        }
    for (long turn = 0; shared->got < ask && turn < 2000; turn++) {
        kill(children[turn % PARTS], SIGCONT);
        poll(NULL, 0, 15);
        kill(children[turn % PARTS], SIGSTOP);
    }
    for (int i = 0; i < PARTS; i++)
        kill(children[i], SIGKILL);
}

static int clone_body(void *ms)
{
    spin((long)ms);
    return 0;
}

static void clones(long ask, int flags)
{
    for (int i = 0; i < PARTS; i++) {
        char *stack = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (clone(clone_body, stack + 65536, flags, (void *)(ask / PARTS)) < 0)
            note();
    }
    while (shared->got < ask && !shared->failed)
        poll(NULL, 0, 5);
}

static void unsignalled(long ask) { clones(ask, 0); }
static void siblings(long ask) { clones(ask, CLONE_PARENT | SIGCHLD); }

static void vforks(long ask)
{
    for (volatile int i = 0; i < PARTS; i++)
        if (vfork() == 0) {
            spin(ask / PARTS);
            _exit(0);
        }
    reap();
}

int main(int argc, char **argv)
{
    static const struct way ways[] = {
        {"one", one}, {"at-once", at_once}, {"relay", relay}, {"unheeded", unheeded}, {"unheeded-by-flag", unheeded_by_flag},
        {"unheeded-by-adopter", unheeded_by_adopter}, {"generations", generations}, {"orphans", orphans}, {"daemons", daemons}, {"threads", threads},
        {"thread-relay", thread_relay}, {"without-leader", without_leader}, {"short-children", short_children}, {"short-programs", short_programs},
        {"exec-relay", exec_relay}, {"in-kernel", in_kernel}, {"faults", faults}, {"deaf", deaf}, {"raised", raised}, {"humble", humble},
        {"one-processor", one_processor}, {"between-ticks", between_ticks}, {"ping-pong", ping_pong}, {"taken-turns", taken_turns},
        {"unsignalled", unsignalled}, {"siblings", siblings}, {"vforks", vforks}, {0},
    };
    program = argv[0];
    return run_way(ways, MAXIMUM, argc, argv);
}
