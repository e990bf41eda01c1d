/* Ways past a limit on which processors may be used. ASK is ignored; `got` is on how many different ones the payload was. */
#include "limits.h"
#include <sys/resource.h>
#include <sys/time.h>

enum { MAXIMUM = 64, PROCESSORS = 64 };
static char *program;

static void look(void)
{
    for (int i = 0; i < 50; i++) {
        unsigned processor = 0;
        syscall(SYS_getcpu, &processor, NULL, NULL); /* libc's word is that of the thread whose memory this is */
        long bit = 1l << (processor % PROCESSORS);
        if (!(atomic_fetch_or(&shared->arrived, bit) & bit))
            add(1);
        sched_yield();
    }
}

/* Bind a thread to one processor after the other, and see where this one is. */
static void visit_by(pid_t thread)
{
    for (int processor = 0; processor < PROCESSORS; processor++) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(processor, &set);
        if (sched_setaffinity(thread, sizeof set, &set) == 0)
            look();
        else if (processor < 2)
            note();
    }
}

static void visit(void) { visit_by(0); }

static void self(long ask) { (void)ask; visit(); }

static void reap(void)
{
    while (wait(NULL) > 0) {}
}

static void child(long ask)
{
    (void)ask;
    if (spawn() == 0) {
        visit();
        _exit(0);
    }
    reap();
}

static void children(long ask)
{
    (void)ask;
    for (int i = 0; i < 8; i++)
        if (spawn() == 0) {
            visit();
            _exit(0);
        }
    reap();
}

static void relay(long ask)
{
    for (int i = 0; i < 4; i++)
        child(ask);
}

static void daemon_of(long ask)
{
    (void)ask;
    int ends[2];
    char byte;
    if (pipe(ends))
        return;
    if (spawn() == 0) {
        setsid();
        if (spawn() == 0)
            visit();
        _exit(0);
    }
    close(ends[1]);
    if (read(ends[0], &byte, 1)) {}
}

static void *thread_body(void *unused)
{
    visit();
    return unused;
}

static void threads(long ask)
{
    pthread_t made[8];
    (void)ask;
    for (int i = 0; i < 8; i++)
        pthread_create(&made[i], NULL, thread_body, NULL);
    for (int i = 0; i < 8; i++)
        pthread_join(made[i], NULL);
}

static void *leader_body(void *unused)
{
    (void)unused;
    visit();
    dprintf(1, "errno=%ld\ndone=1\n", (long)shared->failed);
    _exit(0);
}

static void without_leader(long ask)
{
    pthread_t thread;
    (void)ask;
    pthread_create(&thread, NULL, leader_body, NULL);
    syscall(SYS_exit, 0);
}

/* Somebody else binds this process: where it is is seen by itself. */
static void by_child(long ask)
{
    (void)ask;
    pid_t parent = getpid(), helper = spawn();
    if (helper == 0) {
        for (int processor = 0; processor < PROCESSORS; processor++) {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET(processor, &set);
            if (sched_setaffinity(parent, sizeof set, &set) == 0)
                poll(NULL, 0, 20);
        }
        _exit(0);
    }
    while (waitpid(helper, NULL, WNOHANG) == 0)
        look();
}

static void by_parent(long ask)
{
    (void)ask;
    pid_t other = spawn();
    if (other == 0)
        for (;;)
            look();
    for (int processor = 0; processor < PROCESSORS; processor++) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(processor, &set);
        if (sched_setaffinity(other, sizeof set, &set) == 0)
            poll(NULL, 0, 20);
    }
    kill(other, SIGKILL);
    reap();
}

static void by_exec(long ask)
{
    char *argv[] = {program, "self", "1", NULL}, *environment[] = {NULL};
    (void)ask;
    execve(program, argv, environment);
}

static void in_program(long ask)
{
    if (spawn() == 0)
        by_exec(ask);
    reap();
}

static void in_vfork(long ask)
{
    (void)ask;
    if (vfork() == 0) {
        visit();
        _exit(0);
    }
    reap();
}

static int clone_body(void *unused)
{
    (void)unused;
    visit();
    return 0;
}

static void clones(int flags)
{
    char *stack = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (clone(clone_body, stack + 65536, flags, NULL) < 0)
        note();
    poll(NULL, 0, 60);
}

static void sibling(long ask) { (void)ask; clones(CLONE_PARENT | SIGCHLD); }
static void same_memory(long ask) { (void)ask; clones(CLONE_VM | SIGCHLD); }

static void orphans(long ask)
{
    (void)ask;
    for (int i = 0; i < 3; i++) {
        if (spawn() == 0) {
            if (spawn() == 0)
                visit();
            _exit(0);
        }
        reap();
    }
    poll(NULL, 0, 60);
}

static void wide_mask(long ask)
{
    static unsigned char all[8192];
    memset(all, 0xff, sizeof all);
    syscall(SYS_sched_setaffinity, 0, sizeof all, all);
    self(ask);
}

static void with_policy(int policy, long ask)
{
    struct sched_param parameter = {0};
    sched_setscheduler(0, policy, &parameter);
    self(ask);
}

static void batch(long ask) { with_policy(SCHED_BATCH, ask); }
static void idle(long ask) { with_policy(SCHED_IDLE, ask); }
static void real_time(long ask)
{
    struct sched_param parameter = {1};
    sched_setscheduler(0, SCHED_FIFO, &parameter);
    self(ask);
}

static void by_attributes(long ask)
{
    uint32_t attributes[12] = {sizeof attributes, SCHED_BATCH};
    syscall(SYS_sched_setattr, 0, attributes, 0);
    self(ask);
}

static void on_signal(int number) { (void)number; visit(); }

static void in_handler(long ask)
{
    (void)ask;
    signal(SIGUSR1, on_signal);
    raise(SIGUSR1);
}

static void by_timer(long ask)
{
    struct itimerval once = {{0, 0}, {0, 2000}};
    (void)ask;
    signal(SIGPROF, on_signal);
    setitimer(ITIMER_PROF, &once, NULL);
    for (long until = milliseconds(CLOCK_PROCESS_CPUTIME_ID) + 100; milliseconds(CLOCK_PROCESS_CPUTIME_ID) < until;) {}
}

static void stopped(long ask)
{
    pid_t other = spawn();
    if (other == 0) {
        raise(SIGSTOP);
        self(ask);
        _exit(0);
    }
    waitpid(other, NULL, WUNTRACED);
    for (int processor = 1; processor >= 0; processor--) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(processor, &set);
        sched_setaffinity(other, sizeof set, &set);
    }
    kill(other, SIGCONT);
    waitpid(other, NULL, 0);
}

static void other_cgroup(long ask)
{
    static const char *const files[] = {"/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/cpuset.cpus", "/sys/fs/cgroup/cpuset/tasks", "/proc/self/cgroup"};
    unshare(CLONE_NEWCGROUP);
    for (int i = 0; i < 4; i++) {
        int fd = open(files[i], O_WRONLY);
        if (fd >= 0 && write(fd, "0", 1) < 0)
            note();
    }
    self(ask);
}

int main(int argc, char **argv)
{
    static const struct way ways[] = {
        {"self", self}, {"child", child}, {"children", children}, {"relay", relay}, {"daemon", daemon_of}, {"threads", threads},
        {"without-leader", without_leader}, {"by-child", by_child}, {"by-parent", by_parent}, {"exec", by_exec}, {"program", in_program},
        {"vfork", in_vfork}, {"sibling", sibling}, {"same-memory", same_memory}, {"orphans", orphans}, {"wide-mask", wide_mask}, {"batch", batch},
        {"idle", idle}, {"real-time", real_time}, {"attributes", by_attributes}, {"handler", in_handler}, {"timer", by_timer}, {"stopped", stopped},
        {"other-cgroup", other_cgroup}, {0},
    };
    program = argv[0];
    return run_way(ways, MAXIMUM, argc, argv);
}
