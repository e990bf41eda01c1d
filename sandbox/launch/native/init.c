/* sandbox-init: the native executor.
 *
 * A loop over the rows of a table of system calls (layout: sandbox/plan/codec.py), plus the reaping
 * loop of pid 1. Freestanding: no libc, no heap, no parsing, no decision that the table did not make.
 * It is started by posix_spawn with an empty environment, reads its table from fd 3, and becomes by
 * clone3 the janitor (outside), init (pid 1) and the payload's last moments before execve; or a server, which clones an init for each request.
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

enum { EINTR = 4, EAGAIN = 11, EPROTO = 71, ECANCELED = 125 };
enum { OP_CALL, OP_CLONE, OP_EXPECT, OP_EXIT, OP_REAP, OP_SERVE, OP_COMMAND, OP_BECOME };
enum { FLAG_STORE32 = 1, FLAG_RETRY = 2, FLAG_REPEAT = 4 };
enum { KIND_FAILED = 1, KIND_REAPED = 5 };
enum { REQUEST_MAGIC = 0x31525153, COMMAND_MAGIC = 0x31435153, ASK_RECYCLE_NETWORK = 1, NO_ROW = -1 };
enum { STATUS_FD = 4, FIRST_FREE = 7, MAXIMUM_PASSED = 64, IDLE_NETWORKS = 16, CLOEXEC = 02000000, NEWNET = 0x40000000 };
enum { TABLE_FD = 3, MAGIC = 0x31544253, HOLD = 252, STOP_ALL = 253, RESUME = 254, KILL_ALL = 255 };

struct header { u32 magic, size, rows, n_rows, relocs, n_relocs, failure, status_fd; };
struct row { u8 op, slots; u16 flags; u32 number; u64 args[6]; u32 store, reserved; u16 tolerate[4]; };
struct record { u32 kind, row; s64 a, b; u8 rusage[144]; };
struct request { u32 magic, ask; u64 clone_flags; };
struct command { u32 magic, size, relocs, n_relocs; u64 pointers[3]; };
struct member { int pid, status_fd, net, uses_net; };
struct pollfd { int fd; short events, revents; };
struct timespec { s64 sec, nsec; };

_Static_assert(sizeof(struct header) == 32, "codec.HEADER");
_Static_assert(sizeof(struct row) == 72, "codec.ROW");
_Static_assert(sizeof(struct record) == 168, "codec.RECORD");
_Static_assert(sizeof(struct request) == 16, "codec.REQUEST");
_Static_assert(sizeof(struct command) == 40, "codec.COMMAND");
_Static_assert(sizeof(struct member) == 16, "lower.MEMBERS");

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

__attribute__((noreturn, used)) void run(void);

/* Reads a command block from a pipe and makes its offsets pointers. It comes from the supervisor, like the table; it is measured all the same, for what
 * is wrong is to end the run, not to be executed. */
static s64 command(int fd, u8 *block, u64 room, u64 *pointers)
{
    struct command *head = (struct command *)block;
    u64 got = 0, wanted = sizeof *head;
    while (got < wanted) {
        s64 result = CALL(read, fd, block + got, wanted - got, 0, 0);
        if (result == -EINTR)
            continue;
        if (result <= 0)
            return result ? result : -ECANCELED;
        got += result;
        if (got < sizeof *head)
            continue;
        wanted = head->size;
        if (head->magic != COMMAND_MAGIC || wanted < sizeof *head || wanted > room || head->relocs % 4 ||
            head->relocs + 4ul * head->n_relocs > wanted)
            return -ECANCELED;
    }
    u32 *relocs = (u32 *)(block + head->relocs);
    for (u32 i = 0; i < head->n_relocs; i++) {
        if (relocs[i] % 8 || relocs[i] + 8ul > wanted || *(u64 *)(block + relocs[i]) >= wanted)
            return -ECANCELED;
        *(u64 *)(block + relocs[i]) += (u64)block;
    }
    for (int i = 0; i < 3; i++)
        pointers[i] = head->pointers[i];
    return 0;
}

/* Moves a descriptor of the server's own to where no request's will be. */
static s64 above(s64 fd, int low)
{
    enum { F_DUPFD_CLOEXEC = 1030 };
    if (fd < 0)
        return fd;
    s64 moved = CALL(fcntl, fd, F_DUPFD_CLOEXEC, low, 0, 0);
    CALL(close, fd, 0, 0, 0, 0);
    return moved;
}

/* A network namespace may be used again when not one socket is left in it: sockets that lie in another's queue are counted, too. Nothing else of a
 * run can stay, see docs/explanation/launching.md. */
static int is_clean(int net, int proc)
{
    static const char empty[] = "sockets: used 0\n";
    char text[sizeof empty - 1];
    if (CALL(setns, net, NEWNET, 0, 0, 0) < 0)
        return 0;
    s64 fd = CALL(openat, proc, "self/net/sockstat", CLOEXEC, 0, 0);
    s64 got = fd < 0 ? fd : CALL(read, fd, text, sizeof text, 0, 0);
    CALL(close, fd, 0, 0, 0, 0);
    for (u32 i = 0; i < sizeof text; i++)
        if (got != sizeof text || text[i] != empty[i])
            return 0;
    return 1;
}

static void reap_members(struct member *members, u32 count, struct record *record, int proc)
{
    enum { WNOHANG = 1, WALL = 0x40000000 };
    int status;
    s64 pid;
    while ((pid = CALL(wait4, -1, &status, WNOHANG | WALL, record->rusage, 0)) > 0) {
        struct member *member = 0;
        u32 idle = 0;
        for (u32 i = 0; i < count; i++) {
            if (members[i].pid == pid)
                member = &members[i];
            idle += !members[i].pid && members[i].net >= 0;
        }
        if (!member)
            continue;
        record->kind = KIND_REAPED;
        record->row = 0;
        record->a = status;
        CALL(write, member->status_fd, record, sizeof *record, 0, 0);
        CALL(close, member->status_fd, 0, 0, 0, 0);
        member->pid = 0;
        if (member->uses_net && (idle >= IDLE_NETWORKS || !is_clean(member->net, proc))) {
            CALL(close, member->net, 0, 0, 0, 0);
            member->net = -1;
        }
    }
}

/* Puts the server into a network namespace for the next clone: one that was proved clean, or a new one. */
static s64 enter_network(struct member *member, int proc)
{
    s64 result;
    member->uses_net = 1;
    if (member->net >= 0)
        return CALL(setns, member->net, NEWNET, 0, 0, 0);
    if ((result = CALL(unshare, NEWNET, 0, 0, 0, 0)) < 0)
        return result;
    result = above(CALL(openat, proc, "self/ns/net", CLOEXEC, 0, 0), proc);
    member->net = (int)result;
    return result;
}

/* A server's life: one clone for each request. What a request brings lies at 0, 1, 2 … because nothing else is open below: so it is where the run's table
 * wants it. In the child everything else is closed before the first row. A server without a table of its own to trust would be nobody: it trusts the
 * other end of its socket, which is the process that started it. */
static __attribute__((noreturn)) void serve(int requests, struct member *members, u32 count, struct record *record, int proc)
{
    enum { SIGCHLD = 17, SFD_FLAGS = 02004000, POLLIN = 1, MSG_CTRUNC = 8, MSG_DONTWAIT = 0x40 };
    u64 mask = 1ul << (SIGCHLD - 1);
    u8 drain[128];
    u64 control[2 + MAXIMUM_PASSED / 2];
    int sfd = (int)above(CALL(signalfd4, -1, &mask, 8, SFD_FLAGS, 0), requests);
    if (sfd < 0)
        leave(125);
    for (u32 i = 0; i < count; i++)
        members[i].net = -1;
    for (;;) {
        reap_members(members, count, record, proc);
        u32 used = 0;
        struct member *fresh = 0, *warm = 0;
        for (u32 i = 0; i < count; i++) {
            used += members[i].pid != 0;
            if (!members[i].pid && members[i].net < 0 && !fresh)
                fresh = &members[i];
            if (!members[i].pid && members[i].net >= 0 && !warm)
                warm = &members[i];
        }
        struct pollfd fds[2] = {{sfd, POLLIN, 0}, {requests, POLLIN, 0}};
        CALL(ppoll, fds, used < count ? 2 : 1, 0, 0, 8);
        if (fds[0].revents)
            while (CALL(read, sfd, drain, sizeof drain, 0, 0) == sizeof drain) {}
        if (!fds[1].revents)
            continue;
        struct request request = {0, 0, 0};
        struct { void *base; u64 size; } part = {&request, sizeof request};
        struct { void *name; u64 name_size; void *parts; u64 n_parts; void *control; u64 control_size, flags; } message = {
            0, 0, &part, 1, control, sizeof control, 0};
        s64 got = CALL(recvmsg, requests, &message, MSG_DONTWAIT, 0, 0);
        if (got == -EINTR || got == -EAGAIN)
            continue;
        if (got <= 0)
            leave(0); /* with us goes everything that we have started: the pid namespace, or PR_SET_PDEATHSIG */
        u32 passed = message.control_size > 16 ? (u32)((control[0] - 16) / 4) : 0;
        if (got == sizeof request && request.magic == REQUEST_MAGIC && !(message.flags & MSG_CTRUNC) && passed >= FIRST_FREE) {
            int recycle = request.ask & ASK_RECYCLE_NETWORK;
            struct member *member = recycle ? (warm ? warm : fresh) : (fresh ? fresh : warm);
            u64 arguments[11] = {request.clone_flags, 0, 0, 0, SIGCHLD};
            member->uses_net = 0;
            s64 result = recycle ? enter_network(member, proc) : 0;
            if (result >= 0)
                result = CALL(clone3, arguments, sizeof arguments, 0, 0, 0);
            if (result == 0) {
                CALL(close_range, passed, proc < 0 ? ~0u : (u32)proc - 1, 0, 0, 0);
                if (proc >= 0)
                    CALL(close_range, proc + 1, ~0u, 0, 0, 0);
                run();
            }
            if (result > 0) {
                member->pid = (int)result;
                member->status_fd = (int)above(STATUS_FD, requests);
            } else {
                record->kind = KIND_FAILED;
                record->row = (u32)NO_ROW;
                record->a = -result;
                CALL(write, STATUS_FD, record, sizeof *record, 0, 0);
            }
        }
        CALL(close_range, 0, requests - 1, 0, 0, 0);
    }
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
            while ((result == -EINTR && row->flags & FLAG_RETRY) || (result > 0 && row->flags & FLAG_REPEAT));
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
        case OP_SERVE:
            serve((int)a[0], (struct member *)a[1], (u32)a[2], (struct record *)a[3], (int)a[4]);
        case OP_COMMAND:
            result = command((int)a[0], (u8 *)a[1], a[2], (u64 *)a[3]);
            break;
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
