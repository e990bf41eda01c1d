/* What the kernel does with system calls under a filter, without any of them happening (x86_64).
 *
 *     filter_calls FILTER listener|alone <TABLE >OUTCOMES
 *
 * TABLE is an array of struct call, OUTCOMES one of struct outcome. A tracee installs two filters: one that gives every call to its tracer
 * (SECCOMP_RET_TRACE), and FILTER, unmodified. Of the answers the kernel takes the strictest: killing, a signal, an errno, the listener, then the tracer,
 * and last allowing. So what comes to the tracer, FILTER allows; the tracer skips it, and nothing dangerous runs. A call that kills ends its
 * tracee, and the next one goes on after it; so does one that ends otherwise, which a call does that the kernel makes without asking filters.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum entry { SYSCALL, INT80 };
enum kind { NOTHING, ERRNO, PASSED, NOTIFIED, TRAPPED, KILLED, ENDED };
enum { MOST = 1 << 20, NO_LISTENER = -1 };
static const int64_t MARK_PASSED = 0x7A55ED0000, MARK_NOTIFIED = 0x07F1ED0000;

struct call { uint64_t entry, number, argument[6]; };
struct outcome { uint32_t kind, value; };

static struct shared {
    long at;
    int listener, ready;
    int64_t result[MOST];
} *shared;
static struct call *calls;
static struct outcome *outcomes;
static long count;
static struct sock_filter code[4096];
static struct sock_fprog filter = {.filter = code};

static int64_t make(const struct call *call)
{
    const uint64_t *a = call->argument;
    int64_t result;
    if (call->entry == INT80) {
        __asm__ volatile("push %%rbx; mov %2, %%rbx; int $0x80; pop %%rbx" : "=a"(result)
                         : "0"(call->number), "r"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4]) : "memory");
        return result;
    }
    register uint64_t r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = a[5];
    __asm__ volatile("syscall" : "=a"(result)
                     : "0"(call->number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return result;
}

static void tracee(int with_listener)
{
    static struct sock_filter all[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE)};
    struct sock_fprog trace = {.len = 1, .filter = all};
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        err(3, "prctl");
    raise(SIGSTOP); /* until the tracer has set its options */
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &trace))
        err(3, "seccomp: trace");
    shared->listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, with_listener ? SECCOMP_FILTER_FLAG_NEW_LISTENER : 0, &filter);
    shared->ready = 1;
    __asm__ volatile("int3"); /* the tracer fetches the listener */
    for (;;) {
        long at = shared->at;
        if (at >= count)
            break;
        shared->result[at] = make(&calls[at]);
        shared->at = at + 1;
    }
    shared->ready = 2;
    __asm__ volatile("int3");
    __builtin_trap();
}

struct supervisor { int listener, end; };

static void *supervise(void *argument)
{
    struct supervisor *it = argument;
    struct pollfd fds[] = {{.fd = it->listener, .events = POLLIN}, {.fd = it->end, .events = POLLIN}};
    for (;;) {
        if (poll(fds, 2, -1) < 0 || fds[1].revents || fds[0].revents & (POLLHUP | POLLERR))
            return NULL;
        struct seccomp_notif call = {0};
        if (ioctl(it->listener, SECCOMP_IOCTL_NOTIF_RECV, &call))
            continue;
        struct seccomp_notif_resp answer = {.id = call.id, .val = MARK_NOTIFIED};
        ioctl(it->listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
    }
}

static void note(long at, int64_t result)
{
    if (result == MARK_PASSED)
        outcomes[at].kind = PASSED;
    else if (result == MARK_NOTIFIED)
        outcomes[at].kind = NOTIFIED;
    else
        outcomes[at] = (struct outcome){ERRNO, -result};
}

/* Makes calls from shared->at on, until all are made or one kills. */
static void trace(int with_listener)
{
    struct supervisor supervisor = {NO_LISTENER, eventfd(0, EFD_CLOEXEC)};
    pthread_t thread;
    int status, stop = 0;
    shared->ready = 0;
    long begin = shared->at;
    fflush(stdout);
    pid_t pid = fork();
    if (!pid)
        tracee(with_listener);
    if (pid < 0 || supervisor.end < 0)
        err(2, "fork");
    if (waitpid(pid, &status, WUNTRACED) != pid || !WIFSTOPPED(status))
        errx(2, "the tracee ended at once");
    if (ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_EXITKILL | PTRACE_O_TRACESECCOMP))
        err(2, "ptrace(PTRACE_SEIZE)");
    kill(pid, SIGCONT);
    for (;;) {
        if (waitpid(pid, &status, 0) != pid)
            err(2, "waitpid");
        if (!WIFSTOPPED(status))
            break;
        int signal = WSTOPSIG(status), event = status >> 16;
        stop = 0;
        if (event == PTRACE_EVENT_SECCOMP) {
            if (shared->ready) {
                if (ptrace(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, orig_rax), -1L) ||
                    ptrace(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, rax), MARK_PASSED))
                    err(2, "ptrace(PTRACE_POKEUSER)");
            }
        } else if (event || signal == SIGCONT || signal == SIGSTOP) {
            /* group stops and their end: go on */
        } else if (signal == SIGTRAP && shared->ready == 2) {
            kill(pid, SIGKILL);
        } else if (signal == SIGTRAP && shared->ready == 1 && shared->at == begin) {
            if (shared->listener < 0)
                errx(2, "seccomp: %s", strerror(errno));
            if (with_listener) {
                int pidfd = syscall(SYS_pidfd_open, pid, 0);
                supervisor.listener = syscall(SYS_pidfd_getfd, pidfd, shared->listener, 0);
                if (supervisor.listener < 0 || pthread_create(&thread, NULL, supervise, &supervisor))
                    err(2, "pidfd_getfd");
                close(pidfd);
            }
        } else if (signal == SIGSYS) {
            outcomes[shared->at] = (struct outcome){TRAPPED, 0};
        } else {
            stop = signal;
        }
        if (ptrace(PTRACE_CONT, pid, 0, stop) && errno != ESRCH)
            err(2, "ptrace(PTRACE_CONT)");
    }
    if (supervisor.listener >= 0) {
        uint64_t one = 1;
        if (write(supervisor.end, &one, sizeof one) != sizeof one)
            err(2, "eventfd");
        pthread_join(thread, NULL);
        close(supervisor.listener);
    }
    close(supervisor.end);
    for (long at = begin; at < shared->at; at++)
        if (outcomes[at].kind == NOTHING)
            note(at, shared->result[at]);
    if (shared->at < count) {
        if (!WIFSIGNALED(status))
            errx(2, "the tracee ended in call %ld with status %#x", shared->at, status);
        outcomes[shared->at++] = (struct outcome){WTERMSIG(status) == SIGSYS ? KILLED : ENDED, WTERMSIG(status)};
    }
}

int main(int argc, char **argv)
{
    if (argc != 3)
        errx(2, "usage: filter_calls FILTER listener|alone");
    int fd = open(argv[1], O_RDONLY | O_CLOEXEC);
    ssize_t size = read(fd, code, sizeof code);
    if (size <= 0 || size % sizeof *code)
        err(2, "read `%s`", argv[1]);
    close(fd);
    filter.len = size / sizeof *code;
    calls = calloc(MOST, sizeof *calls);
    outcomes = calloc(MOST, sizeof *outcomes);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!calls || !outcomes || shared == MAP_FAILED)
        err(2, "memory");
    count = fread(calls, sizeof *calls, MOST, stdin);
    while (shared->at < count)
        trace(!strcmp(argv[2], "listener"));
    return fwrite(outcomes, sizeof *outcomes, count, stdout) == (size_t)count && !fflush(stdout) ? 0 : 2;
}
