/* sandbox-init: the native executor.
 *
 * A loop over the rows of a table of system calls (layout: sandbox/plan/codec.py), plus the reaping
 * loop of pid 1. Freestanding: no libc, no heap, no parsing, no decision that the table did not make.
 * It is started by posix_spawn with an empty environment, reads its table from fd 3, and becomes by
 * clone3 the janitor (outside), init (pid 1) and the payload's last moments before execve.
 *
 * Everything here runs before or beside untrusted code: it trusts the table (ours, from a sealed memfd) and
 * nothing else. It never writes to memory outside the table and its own stack.
 */
#include <asm/unistd.h>
#include <linux/types.h>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef long s64;

enum { EINTR = 4, EAGAIN = 11, EPROTO = 71 };
enum { OP_CALL, OP_CLONE, OP_EXPECT, OP_EXIT, OP_REAP };
enum { FLAG_STORE32 = 1, FLAG_RETRY = 2 };
enum { KIND_FAILED = 1 };
enum { TABLE_FD = 3, MAGIC = 0x31544253, HOLD = 252, STOP_ALL = 253, RESUME = 254, KILL_ALL = 255 };

struct header { u32 magic, size, rows, n_rows, relocs, n_relocs, failure, status_fd; };
struct row { u8 op, slots; u16 flags; u32 number; u64 args[6]; u32 store, reserved; u16 tolerate[4]; };
struct record { u32 kind, row; s64 a, b; u8 rusage[144]; };
struct pollfd { int fd; short events, revents; };
struct timespec { s64 sec, nsec; };

_Static_assert(sizeof(struct header) == 32, "codec.HEADER");
_Static_assert(sizeof(struct row) == 72, "codec.ROW");
_Static_assert(sizeof(struct record) == 168, "codec.RECORD");

#if defined(__x86_64__)
static inline s64 call6(u64 n, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
    s64 result;
    register u64 r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
__asm__(".globl _start\n_start:\n xor %ebp,%ebp\n and $-16,%rsp\n call run\n hlt\n");
#elif defined(__aarch64__)
static inline s64 call6(u64 n, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
    register u64 x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    register u64 x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return (s64)x0;
}
__asm__(".globl _start\n_start:\n mov x29,#0\n mov x30,#0\n bl run\n brk #0\n");
#else
#error "sandbox-init knows x86_64 and aarch64"
#endif

#define CALL(n, a, b, c, d, e) call6(__NR_##n, (u64)(a), (u64)(b), (u64)(c), (u64)(d), (u64)(e), 0)

static __attribute__((noreturn)) void leave(int code)
{
    for (;;)
        CALL(exit_group, code, 0, 0, 0, 0);
}

static __attribute__((noreturn)) void fail(struct record *record, u32 status_fd, u32 row, s64 error)
{
    record->kind = KIND_FAILED;
    record->row = row;
    record->a = -error;
    CALL(write, status_fd, record, sizeof *record, 0, 0);
    leave(125);
}

/* Pid 1's life: reap whatever ends, pass signals on, and when the payload has ended (or the control pipe says so or closed) kill
 * everything, reap it, report. kill(-1) in a pid namespace reaches every process of it but its init, atomically against fork. */
static s64 monotonic(void)
{
    struct timespec now;
    CALL(clock_gettime, 1, &now, 0, 0, 0);
    return now.sec * 1000000000 + now.nsec;
}

static __attribute__((noreturn)) void reap(s64 payload, int control, struct record *record, int status_fd, s64 patience)
{
    enum { WNOHANG = 1, WALL = 0x40000000, SFD_FLAGS = 02004000, POLLIN = 1, RUSAGE_CHILDREN = -1 };
    enum { SIGKILL = 9, SIGCHLD = 17, SIGCONT = 18, SIGSTOP = 19 };
    u64 mask = 1ul << (SIGCHLD - 1);
    u8 drain[128];
    int status, killed = 0, stopped = 0;
    s64 sfd = CALL(signalfd4, -1, &mask, 8, SFD_FLAGS, 0);
    if (sfd < 0)
        leave(125);
    struct pollfd fds[2] = {{(int)sfd, POLLIN, 0}, {control, POLLIN, 0}};
    s64 deadline = patience ? monotonic() + patience : 0; /* 0: none, or held while the run is paused */
    for (;;) {
        s64 pid;
        while ((pid = CALL(wait4, -1, &status, WNOHANG | WALL, 0, 0)) > 0)
            if (pid == payload)
                goto ended;
        if (pid < 0 && pid != -EINTR) /* no child left: the payload was reaped and missed */
            leave(125);
        struct timespec left = {0, 0};
        s64 ns = deadline ? deadline - monotonic() : 0;
        if (ns > 0) {
            left.sec = ns / 1000000000;
            left.nsec = ns % 1000000000;
        }
        fds[0].revents = fds[1].revents = 0;
        CALL(ppoll, fds, killed ? 1 : 2, deadline ? &left : 0, 0, 8);
        if (fds[0].revents)
            while (CALL(read, sfd, drain, sizeof drain, 0, 0) == sizeof drain) {}
        u8 word = 0;
        s64 got = !killed && fds[1].revents ? CALL(read, control, &word, 1, 0, 0) : -EAGAIN;
        if (got == 1 && (word == HOLD || word == STOP_ALL)) {
            deadline = 0;
            if (word == STOP_ALL)
                stopped = CALL(kill, -1, SIGSTOP, 0, 0, 0) == 0;
        } else if (got == 1 && word == RESUME) {
            deadline = patience ? monotonic() + patience : 0;
            if (stopped)
                CALL(kill, -1, SIGCONT, 0, 0, 0);
            stopped = 0;
        } else if (got == 1 && word != KILL_ALL) {
            CALL(kill, payload, word, 0, 0, 0);
        } else if (got == -EAGAIN || got == -EINTR ? deadline && ns <= 0 : 1) {
            /* The word, the end of the pipe, or no word at the deadline: the second line of defence, should the supervisor not have acted.
             * A word goes first: one that was written while we were frozen says that the time did not count. */
            CALL(kill, -1, SIGKILL, 0, 0, 0);
            killed = 1;
            deadline = 0;
        }
    }
ended:;
    s64 end = monotonic();
    int ignored;
    s64 pid;
    CALL(kill, -1, SIGKILL, 0, 0, 0);
    do
        pid = CALL(wait4, -1, &ignored, WALL, 0, 0);
    while (pid > 0 || pid == -EINTR);
    CALL(getrusage, RUSAGE_CHILDREN, record->rusage, 0, 0, 0);
    record->a = status;
    record->b = end;
    CALL(write, status_fd, record, sizeof *record, 0, 0);
    leave(0);
}

__attribute__((noreturn, used)) void run(void)
{
    enum { PROT_RW = 3, MAP_PRIVATE = 2 };
    struct header head;
    if (CALL(pread64, TABLE_FD, &head, sizeof head, 0, 0) != sizeof head || head.magic != MAGIC)
        leave(125);
    s64 mapped = CALL(mmap, 0, head.size, PROT_RW, MAP_PRIVATE, TABLE_FD);
    if (mapped < 0 && mapped > -4096)
        leave(125);
    CALL(close, TABLE_FD, 0, 0, 0, 0);
    u8 *base = (u8 *)mapped;
    u32 *relocs = (u32 *)(base + head.relocs);
    for (u32 i = 0; i < head.n_relocs; i++)
        *(u64 *)(base + relocs[i]) += (u64)base;

    struct row *rows = (struct row *)(base + head.rows);
    struct record *failure = (struct record *)(base + head.failure);
    for (u32 at = 0; at < head.n_rows; at++) {
        struct row *row = &rows[at];
        u64 a[6];
        for (int i = 0; i < 6; i++)
            a[i] = row->slots >> i & 1 ? *(u64 *)row->args[i] : row->args[i];
        s64 result = 0;
        switch (row->op) {
        case OP_CALL:
            do
                result = call6(row->number, a[0], a[1], a[2], a[3], a[4], a[5]);
            while (result == -EINTR && row->flags & FLAG_RETRY);
            break;
        case OP_CLONE:
            result = CALL(clone3, a[0], a[1], 0, 0, 0);
            if (result == 0) {
                at = row->number - 1;
                continue;
            }
            break;
        case OP_EXPECT: {
            u64 value = a[1] == 4 ? *(u32 *)a[0] : a[1] == 8 ? *(u64 *)a[0] : ~a[3];
            result = (value & a[2]) == a[3] ? 0 : -(s64)a[4];
            break;
        }
        case OP_EXIT:
            leave((int)a[0]);
        case OP_REAP:
            reap((s64)a[0], (int)a[1], (struct record *)a[2], (int)a[3], (s64)a[4]);
        default:
            result = -EPROTO;
        }
        if (result < 0 && result > -4096) {
            int tolerated = 0;
            for (int i = 0; i < 4; i++)
                tolerated |= row->tolerate[i] == (u16)-result && row->tolerate[i];
            if (!tolerated)
                fail(failure, head.status_fd, at, result);
        }
        if (row->store && row->flags & FLAG_STORE32)
            *(u32 *)(base + row->store) = (u32)result;
        else if (row->store)
            *(s64 *)(base + row->store) = result;
    }
    fail(failure, head.status_fd, head.n_rows, -EPROTO);
}
