/* Ways past a limit on wall time: to be there without using the CPU, or without letting go. ASK is for how many milliseconds. */
#include "limits.h"
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/time.h>
#include <sys/un.h>

enum { MAXIMUM = 3000 };
static char *program;
static long end_ms;

static void deafen(void)
{
    sigset_t all;
    sigfillset(&all);
    for (int number = 1; number < 65; number++)
        signal(number, SIG_IGN);
    sigprocmask(SIG_BLOCK, &all, NULL);
}

/* A child that ends what waits for ever: by a signal to its parent, or by what `also` does. */
static pid_t later(long ms, int number, void (*also)(void))
{
    pid_t child = spawn();
    if (child == 0) {
        poll(NULL, 0, ms);
        if (also)
            also();
        if (number)
            kill(getppid(), number);
        _exit(0);
    }
    return child;
}

static long left(void) { return end_ms - milliseconds(CLOCK_MONOTONIC); }

static void sleeps(long ask) { poll(NULL, 0, ask); }

static void deaf(long ask)
{
    deafen();
    poll(NULL, 0, ask);
}

static void busy(long ask)
{
    (void)ask;
    while (left() > 0) {}
}

static void stopped(long ask)
{
    later(ask, SIGCONT, NULL);
    raise(SIGSTOP);
}

static void stopped_children(long ask)
{
    pid_t child = spawn();
    if (child == 0) {
        raise(SIGSTOP);
        _exit(0);
    }
    if (later(ask, 0, NULL) > 0)
        waitpid(-1, NULL, 0);
    kill(child, SIGKILL);
}

static void one_another(long ask)
{
    (void)ask;
    pid_t child = spawn();
    if (child == 0)
        for (;;) {
            poll(NULL, 0, 2);
            kill(getppid(), SIGCONT);
        }
    while (left() > 0)
        raise(SIGSTOP);
    kill(child, SIGKILL);
}

static void in_vfork(long ask)
{
    if (vfork() == 0) {
        poll(NULL, 0, ask);
        _exit(0);
    }
}

static void open_other_end(void) { open("/tmp/fifo", O_WRONLY | O_NONBLOCK); }

static void fifo(long ask)
{
    mkfifo("/tmp/fifo", 0600);
    later(ask, 0, open_other_end);
    open("/tmp/fifo", O_RDONLY);
}

static void lock(long ask)
{
    int fd = open("/tmp/lock", O_CREAT | O_RDWR, 0600), ends[2];
    char byte;
    if (pipe(ends))
        return;
    if (spawn() == 0) {
        int other = open("/tmp/lock", O_RDWR);
        flock(other, LOCK_EX);
        if (write(ends[1], "x", 1) == 1)
            poll(NULL, 0, ask);
        _exit(0);
    }
    if (read(ends[0], &byte, 1) == 1)
        flock(fd, LOCK_EX);
}

static void futex(long ask)
{
    struct timespec time = {ask / 1000, ask % 1000 * 1000000};
    syscall(SYS_futex, &shared->arrived, FUTEX_WAIT, 0, &time, NULL, 0);
}

static void empty_pipe(long ask)
{
    int ends[2];
    char byte;
    if (pipe(ends))
        return;
    later(ask, 0, NULL);
    close(ends[1]); /* the child has it */
    if (read(ends[0], &byte, 1)) {}
}

static void full_pipe(long ask)
{
    static char chunk[MIB];
    int ends[2];
    if (pipe(ends))
        return;
    later(ask, SIGKILL, NULL);
    if (write(ends[1], chunk, MIB)) {}
}

static void waits(long ask)
{
    later(ask, 0, NULL);
    wait(NULL);
}

static void epoll(long ask)
{
    struct epoll_event event;
    epoll_wait(epoll_create1(0), &event, 1, ask);
}

static void accepts(long ask)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "/tmp/socket"};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof name) || listen(fd, 1))
        return;
    later(ask, SIGKILL, NULL);
    accept(fd, NULL, NULL);
}

static void awake(int number) { (void)number; }

/* Signals that come all the time, to a sleep that is begun again each time. */
static void signals(long ask)
{
    struct itimerval each = {{0, 500}, {0, 500}};
    (void)ask;
    signal(SIGVTALRM, awake);
    signal(SIGPROF, awake);
    signal(SIGUSR1, awake);
    setitimer(ITIMER_PROF, &each, NULL);
    while (left() > 0)
        poll(NULL, 0, 1);
}

static void suspended(long ask)
{
    sigset_t none;
    sigemptyset(&none);
    signal(SIGUSR1, awake);
    later(ask, SIGUSR1, NULL);
    sigsuspend(&none);
}

/* A new program every 20 ms, as one process. */
static void exec_chain(long ask)
{
    char less[24], *argv[] = {program, "exec-chain", less, NULL}, *environment[] = {NULL};
    snprintf(less, sizeof less, "%ld", ask - 20);
    poll(NULL, 0, 20);
    if (ask > 20)
        execve(program, argv, environment);
}

static void fork_relay(long ask)
{
    (void)ask;
    while (left() > 0) {
        pid_t child = spawn();
        if (child == 0) {
            poll(NULL, 0, 10);
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
}

static void *leader_body(void *ms)
{
    poll(NULL, 0, (long)ms);
    dprintf(1, "errno=0\ndone=1\n");
    _exit(0);
}

static void without_leader(long ask)
{
    pthread_t thread;
    pthread_create(&thread, NULL, leader_body, (void *)ask);
    syscall(SYS_exit, 0);
}

/* The clocks of this process are not those of the limit. */
static void clocks(long ask)
{
    struct timespec past = {0, 0};
    struct itimerval none = {{0, 0}, {0, 0}};
    clock_settime(CLOCK_REALTIME, &past);
    setitimer(ITIMER_REAL, &none, NULL);
    poll(NULL, 0, ask);
}

/* Somebody else is to be killed instead: leave the group, the session, and the parent. */
static void daemon_waited_for(long ask)
{
    int ends[2];
    char byte;
    if (pipe(ends))
        return;
    if (spawn() == 0) {
        setsid();
        if (spawn() == 0) {
            deafen();
            poll(NULL, 0, ask);
        }
        _exit(0);
    }
    close(ends[1]);
    deafen();
    if (read(ends[0], &byte, 1)) {}
}

/* Kills whoever might kill it, as far as it may. */
static void fights(long ask)
{
    kill(1, SIGKILL);
    kill(1, SIGSTOP);
    kill(-1, SIGSTOP);
    poll(NULL, 0, ask);
}

static void crowd(long ask)
{
    deafen();
    for (int i = 0; i < 20; i++)
        if (spawn() == 0) {
            while (left() > 0) {}
            _exit(0);
        }
    poll(NULL, 0, ask);
}

static void timers(long ask)
{
    struct timespec time = {ask / 1000, ask % 1000 * 1000000};
    while (clock_nanosleep(CLOCK_BOOTTIME, 0, &time, &time) == EINTR) {}
}

int main(int argc, char **argv)
{
    static const struct way ways[] = {
        {"sleeps", sleeps}, {"deaf", deaf}, {"busy", busy}, {"stopped", stopped}, {"stopped-children", stopped_children}, {"one-another", one_another},
        {"vfork", in_vfork}, {"fifo", fifo}, {"lock", lock}, {"futex", futex}, {"empty-pipe", empty_pipe}, {"full-pipe", full_pipe}, {"waits", waits},
        {"epoll", epoll}, {"accept", accepts}, {"signals", signals}, {"suspended", suspended}, {"exec-chain", exec_chain}, {"fork-relay", fork_relay},
        {"without-leader", without_leader}, {"clocks", clocks}, {"daemon-waited-for", daemon_waited_for}, {"fights", fights}, {"crowd", crowd},
        {"boottime", timers}, {0},
    };
    program = argv[0];
    if (argc > 2)
        end_ms = milliseconds(CLOCK_MONOTONIC) + atol(argv[2]);
    return run_way(ways, MAXIMUM, argc, argv);
}
