/* Ways past a limit on output. ASK is KiB; how much came out is counted outside, so nothing else is said. */
#include "limits.h"
#include <sys/sendfile.h>
#include <sys/uio.h>

enum { MAXIMUM = 1 << 16 };
static char chunk[MIB];
static char *program;

static void put(int fd, long kib, long piece)
{
    for (long left = kib * 1024; left > 0;) {
        ssize_t written = write(fd, chunk, left < piece ? left : piece);
        if (written < 0 && errno == EAGAIN) {
            struct pollfd ready = {fd, POLLOUT, 0};
            poll(&ready, 1, 1000);
            continue;
        }
        if (written <= 0)
            _exit(3);
        left -= written;
    }
}

static void standard_output(long ask) { put(1, ask, 65536); }
static void standard_error(long ask) { put(2, ask, 65536); }
static void one_write(long ask) { put(1, ask, sizeof chunk); }
static void bytes(long ask) { put(1, ask / 4, 1); }
static void lines(long ask) { put(1, ask, 80); }

static void in_turn(long ask)
{
    for (long i = 0; i < ask / 8; i++)
        put(1 + i % 2, 8, 8192);
}

static void halves(long ask)
{
    put(1, ask / 2, 4096);
    put(2, ask / 2, 4096);
}

static void *thread_body(void *kib)
{
    put(1, (long)kib, 4096);
    return NULL;
}

static void threads(long ask)
{
    pthread_t made[8];
    for (int i = 0; i < 8; i++)
        pthread_create(&made[i], NULL, thread_body, (void *)(ask / 8));
    for (int i = 0; i < 8; i++)
        pthread_join(made[i], NULL);
}

static void children(long ask)
{
    for (int i = 0; i < 8; i++)
        if (spawn() == 0) {
            put(1 + i % 2, ask / 8, 4096);
            _exit(0);
        }
    while (wait(NULL) > 0) {}
}

static void relay(long ask)
{
    for (int i = 0; i < 16; i++) {
        if (spawn() == 0) {
            put(1, ask / 16, 65536);
            _exit(0);
        }
        wait(NULL);
    }
}

/* Fills the pipe, which holds up to 1 MiB, and ends; a daemon goes on. */
static void after_the_end(long ask)
{
    fcntl(1, F_SETPIPE_SZ, MIB);
    if (spawn() == 0) {
        setsid();
        put(1, ask, 65536);
        _exit(0);
    }
    put(1, ask / 2, sizeof chunk);
}

static void daemon_waited_for(long ask)
{
    int ends[2];
    char byte;
    if (pipe(ends))
        return;
    if (spawn() == 0) {
        setsid();
        if (spawn() == 0)
            put(2, ask, 65536);
        _exit(0);
    }
    close(ends[1]);
    if (read(ends[0], &byte, 1)) {}
}

static void large_pipe(long ask)
{
    fcntl(1, F_SETPIPE_SZ, MIB);
    put(1, ask, sizeof chunk);
}

static void vectors(long ask)
{
    static struct iovec many[1024];
    for (int i = 0; i < 1024; i++)
        many[i] = (struct iovec){chunk, 1024};
    for (long left = ask; left > 0; left -= 1024)
        for (long done = 0; done < MIB;) {
            ssize_t written = writev(1, many, (MIB - done + 1023) / 1024);
            if (written <= 0)
                _exit(3);
            done += written;
        }
}

static int file_of(long kib)
{
    int fd = open("/tmp/file", O_CREAT | O_RDWR | O_TRUNC, 0600);
    if (ftruncate(fd, kib * 1024)) /* a hole: it costs nothing */
        _exit(4);
    return fd;
}

static void sent_file(long ask)
{
    int fd = file_of(ask);
    for (long left = ask * 1024; left > 0;) {
        ssize_t sent = sendfile(1, fd, NULL, left);
        if (sent <= 0)
            _exit(3);
        left -= sent;
    }
}

static void spliced(long ask)
{
    int fd = file_of(ask);
    for (long left = ask * 1024; left > 0;) {
        ssize_t moved = splice(fd, NULL, 1, NULL, left, 0);
        if (moved <= 0)
            _exit(3);
        left -= moved;
    }
}

static void teed(long ask)
{
    int ends[2];
    if (pipe(ends))
        return;
    put(ends[1], 64, 65536);
    for (long left = ask * 1024; left > 0;) {
        ssize_t moved = tee(ends[0], 1, left, 0);
        if (moved <= 0)
            _exit(3);
        left -= moved;
    }
}

static void mapped(long ask)
{
    int fd = file_of(ask);
    char *memory = mmap(NULL, ask * 1024, PROT_READ, MAP_SHARED, fd, 0);
    for (long left = ask * 1024, at = 0; left > 0;) {
        ssize_t written = write(1, memory + at, left);
        if (written <= 0)
            _exit(3);
        at += written;
        left -= written;
    }
}

static void opened(const char *path, long ask)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0)
        _exit(4);
    put(fd, ask, 65536);
}

static void reopened(long ask) { opened("/proc/self/fd/1", ask); }
static void reopened_stderr(long ask) { opened("/proc/self/fd/2", ask); }
static void by_device(long ask) { opened("/dev/stdout", ask); }

static void duplicates(long ask)
{
    for (int i = 0; i < 16; i++)
        put(dup(1 + i % 2), ask / 16, 4096);
}

static void non_blocking(long ask)
{
    fcntl(1, F_SETFL, O_NONBLOCK);
    put(1, ask, 65536);
}

/* A descriptor of the output that is handed over a socket to a child which has closed its own. */
static void handed_over(long ask)
{
    int ends[2];
    char space[CMSG_SPACE(sizeof(int))] = {0}, byte = 0;
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *control = CMSG_FIRSTHDR(&message);
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    if (spawn() == 0) {
        close(1);
        close(2);
        if (recvmsg(ends[0], &message, 0) <= 0)
            _exit(4);
        put(*(int *)CMSG_DATA(CMSG_FIRSTHDR(&message)), ask, 65536);
        _exit(0);
    }
    *control = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    *(int *)CMSG_DATA(control) = 1;
    sendmsg(ends[1], &message, 0);
    close(1);
    wait(NULL);
}

static void deaf(long ask)
{
    sigset_t all;
    sigfillset(&all);
    signal(SIGPIPE, SIG_IGN);
    sigprocmask(SIG_BLOCK, &all, NULL);
    put(1, ask, 65536);
}

static void by_exec(long ask)
{
    char kib[24], *argv[] = {program, "stdout", kib, NULL}, *environment[] = {NULL};
    snprintf(kib, sizeof kib, "%ld", ask / 2);
    put(1, ask / 2, 65536);
    execve(program, argv, environment);
}

static void packets(long ask)
{
    int ends[2];
    if (pipe2(ends, O_DIRECT))
        return;
    fcntl(1, F_SETFL, O_DIRECT); /* each write is a packet now, and takes a page */
    put(1, ask / 4, 512);
}

int main(int argc, char **argv)
{
    static const struct way ways[] = {
        {"stdout", standard_output}, {"stderr", standard_error}, {"one-write", one_write}, {"bytes", bytes}, {"lines", lines}, {"in-turn", in_turn},
        {"halves", halves}, {"threads", threads}, {"children", children}, {"relay", relay}, {"after-the-end", after_the_end},
        {"daemon-waited-for", daemon_waited_for}, {"large-pipe", large_pipe}, {"vectors", vectors}, {"sendfile", sent_file}, {"splice", spliced},
        {"tee", teed}, {"mapped", mapped}, {"reopened", reopened}, {"reopened-stderr", reopened_stderr}, {"dev-stdout", by_device},
        {"duplicates", duplicates}, {"non-blocking", non_blocking}, {"handed-over", handed_over}, {"deaf", deaf}, {"exec", by_exec},
        {"packets", packets}, {0},
    };
    memset(chunk, 'x', sizeof chunk);
    program = argv[0];
    return run_way(ways, MAXIMUM, argc, argv);
}
