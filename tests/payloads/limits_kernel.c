/* Ways past a limit on memory: memory that no process maps, in files of tmpfs and in objects of the kernel. ASK and `got` are MiB. */
#include "limits.h"
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

enum { MAXIMUM = 256 };
static char chunk[MIB];

static void write_file(int fd, long mib)
{
    if (fd < 0)
        note();
    for (long i = 0; fd >= 0 && i < mib; i++) {
        if (write(fd, chunk, MIB) != MIB) {
            note();
            return;
        }
        add(1);
    }
}

static int file(const char *path) { return open(path, O_CREAT | O_RDWR | O_EXCL, 0600); }

static void memfd(long ask) { write_file(memfd_create("load", 0), ask); hold(); }
static void tmp_file(long ask) { write_file(file("/tmp/load"), ask); hold(); }
static void shm_file(long ask) { write_file(file("/dev/shm/load"), ask); hold(); }
static void home_file(long ask) { write_file(file("load"), ask); hold(); }

static void deleted(long ask)
{
    for (long i = 0; i < ask; i += 4) {
        int fd = file("/tmp/load");
        unlink("/tmp/load");
        write_file(fd, 4);
    }
    hold();
}

static void allocated(int fd, long ask)
{
    for (long i = 0; i < ask; i++) {
        if (fallocate(fd, 0, i * MIB, MIB)) {
            note();
            break;
        }
        add(1);
    }
    hold();
}

static void tmp_allocated(long ask) { allocated(file("/tmp/load"), ask); }
static void memfd_allocated(long ask) { allocated(memfd_create("load", 0), ask); }

static void small_files(long ask)
{
    char name[64];
    for (long i = 0; i < ask * 16; i++) {
        snprintf(name, sizeof name, "/tmp/%ld", i);
        int fd = file(name);
        if (fd < 0 || write(fd, chunk, 65536) != 65536) {
            note();
            break;
        }
        close(fd);
        if (i % 16 == 15)
            add(1);
    }
    hold();
}

static void send_fd(int over, int fd)
{
    char space[CMSG_SPACE(sizeof fd)] = {0}, byte = 0;
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *control = CMSG_FIRSTHDR(&message);
    *control = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(control), &fd, sizeof fd);
    if (sendmsg(over, &message, MSG_DONTWAIT) < 0)
        note();
}

/* Files that no process has open: they are in a message that nobody has received. */
static void in_flight(long ask)
{
    int ends[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    for (long i = 0; i < ask; i += 4) {
        int fd = memfd_create("load", 0);
        write_file(fd, 4);
        send_fd(ends[1], fd);
        close(fd);
    }
    hold();
}

static void pipes(long ask)
{
    for (long i = 0; i < ask; i++) {
        int ends[2];
        long bytes = 0;
        if (pipe2(ends, O_NONBLOCK)) {
            note();
            break;
        }
        fcntl(ends[1], F_SETPIPE_SZ, MIB);
        for (ssize_t written; bytes < MIB && (written = write(ends[1], chunk, 65536)) > 0;)
            bytes += written;
        if (bytes < MIB) { /* the kernel's own bound for one user, 64 MiB, is met */
            note();
            break;
        }
        add(1);
    }
    hold();
}

static void sockets(long ask, int type)
{
    long bytes = 0;
    while (bytes < ask * MIB) {
        int ends[2], size = 8 * MIB;
        if (socketpair(AF_UNIX, type | SOCK_NONBLOCK, 0, ends)) {
            note();
            break;
        }
        setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        for (ssize_t written; bytes < ask * MIB && (written = write(ends[1], chunk, 32768)) > 0; bytes += written)
            if (bytes / MIB != (bytes + written) / MIB)
                add(1);
    }
    hold();
}

static void stream_sockets(long ask) { sockets(ask, SOCK_STREAM); }
static void packet_sockets(long ask) { sockets(ask, SOCK_SEQPACKET); }

/* Full sockets that are themselves in flight in another one, and nowhere open. */
static void sockets_in_flight(long ask)
{
    int carrier[2];
    long bytes = 0;
    socketpair(AF_UNIX, SOCK_STREAM, 0, carrier);
    while (bytes < ask * MIB) {
        int ends[2], size = 8 * MIB;
        long before = bytes;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends))
            break;
        setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        for (ssize_t written; bytes < ask * MIB && (written = write(ends[1], chunk, 32768)) > 0; bytes += written)
            if (bytes / MIB != (bytes + written) / MIB)
                add(1);
        send_fd(carrier[1], ends[0]);
        close(ends[0]);
        if (bytes == before) {
            note();
            break;
        }
    }
    hold();
}

static void tcp(long ask)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof here;
    int listener = socket(AF_INET, SOCK_STREAM, 0), size = 4 * MIB;
    if (listener < 0 || bind(listener, (struct sockaddr *)&here, length) || listen(listener, 64) || getsockname(listener, (struct sockaddr *)&here, &length)) {
        note();
        return;
    }
    for (long bytes = 0, before = -1; bytes < ask * MIB && bytes != before;) {
        before = bytes;
        int from = socket(AF_INET, SOCK_STREAM, 0), to;
        if (from < 0 || connect(from, (struct sockaddr *)&here, length) || (to = accept(listener, NULL, NULL)) < 0)
            break;
        setsockopt(from, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        fcntl(from, F_SETFL, O_NONBLOCK);
        for (ssize_t written; bytes < ask * MIB && (written = write(from, chunk, 65536)) > 0; bytes += written)
            if (bytes / MIB != (bytes + written) / MIB)
                add(1);
    }
    note();
    hold();
}

/* 0.2 KiB of kernel for each mapping; neighbours differ, or they would be one. */
static void mappings(long ask)
{
    for (long i = 0; i < ask; i += 8)
        if (spawn() == 0) {
            char *memory = mmap(NULL, 44000l * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            for (long part = 0; part < 8; part++) {
                for (long page = part * 5500; page < (part + 1) * 5500; page += 2)
                    if (mprotect(memory + page * PAGE, PAGE, PROT_READ)) {
                        note();
                        _exit(1);
                    }
                add(1);
            }
            meet((ask + 7) / 8);
            hold();
            _exit(0);
        }
    while (wait(NULL) > 0) {}
}

/* A record lock costs 0.25 KiB; a file's locks are one list, so that many files take a few each. */
static void record_locks(long ask)
{
    char name[64];
    for (long part = 0; part < ask; part++) {
        for (int i = 0; i < 8; i++) {
            snprintf(name, sizeof name, "/tmp/%ld", part * 8 + i);
            int fd = file(name);
            for (int lock = 0; lock < 512; lock++) {
                struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 2 * lock, .l_len = 1};
                if (fd < 0 || fcntl(fd, F_SETLK, &range)) {
                    note();
                    hold();
                    return;
                }
            }
        }
        add(1);
    }
    hold();
}

/* Each watch of a descriptor by an epoll costs 0.2 KiB: 100 × 100 of them for one process. */
static void epoll_watches(long ask)
{
    for (long i = 0; i < ask; i += 2)
        if (spawn() == 0) {
            int events[100], polls[100], watches = 0;
            for (int e = 0; e < 100; e++)
                events[e] = eventfd(0, 0);
            for (int p = 0; p < 100; p++)
                polls[p] = epoll_create1(0);
            for (int p = 0; p < 100; p++)
                for (int e = 0; e < 100; e++) {
                    struct epoll_event event = {.events = EPOLLIN};
                    if (epoll_ctl(polls[p], EPOLL_CTL_ADD, events[e], &event))
                        note();
                    else if (++watches % 5000 == 0)
                        add(1);
                }
            meet(ask / 2);
            hold();
            _exit(0);
        }
    while (wait(NULL) > 0) {}
}

static void sysv_messages(long ask)
{
    struct {
        long kind;
        char text[8000];
    } message = {1, {0}};
    for (long i = 0; i < ask; i++) {
        for (int queue = 0; queue < 64; queue++) {
            int id = msgget(IPC_PRIVATE, 0600 | IPC_CREAT);
            if (id < 0 || msgsnd(id, &message, sizeof message.text, IPC_NOWAIT) || msgsnd(id, &message, sizeof message.text, IPC_NOWAIT)) {
                note();
                hold();
                return;
            }
        }
        add(1);
    }
    hold();
}

static void sysv_semaphores(long ask)
{
    for (long i = 0; i < ask; i++) {
        if (semget(IPC_PRIVATE, 8192, 0600 | IPC_CREAT) < 0) {
            note();
            break;
        }
        add(1);
    }
    hold();
}

int main(int argc, char **argv)
{
    static const struct way ways[] = {
        {"memfd", memfd}, {"memfd-allocated", memfd_allocated}, {"memfd-in-flight", in_flight}, {"tmp-file", tmp_file}, {"shm-file", shm_file},
        {"home-file", home_file}, {"deleted-files", deleted}, {"tmp-allocated", tmp_allocated}, {"small-files", small_files}, {"pipes", pipes},
        {"stream-sockets", stream_sockets}, {"packet-sockets", packet_sockets}, {"sockets-in-flight", sockets_in_flight}, {"tcp-buffers", tcp},
        {"mappings", mappings}, {"record-locks", record_locks}, {"epoll-watches", epoll_watches}, {"sysv-messages", sysv_messages},
        {"sysv-semaphores", sysv_semaphores}, {0},
    };
    memset(chunk, 1, sizeof chunk);
    return run_way(ways, MAXIMUM, argc, argv);
}
