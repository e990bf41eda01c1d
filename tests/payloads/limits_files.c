/* Ways past a limit on disk bytes, on inodes, and on the size of one file; of a tmpfs. ASK and `got` are MiB, or a number of inodes. */
#include "limits.h"
#include <sys/sendfile.h>
#include <sys/un.h>
#include <sys/xattr.h>

enum { MAXIMUM = 1000 };
static char chunk[MIB];

static int file(const char *path)
{
    int fd = open(path, O_CREAT | O_RDWR, 0600);
    if (fd < 0)
        note();
    return fd;
}

static long piece(int fd, off_t at, long size)
{
    ssize_t written = fd < 0 ? -1 : pwrite(fd, chunk, size, at);
    if (written != size)
        note();
    return written == size;
}

static void filled(int fd, long mib)
{
    for (long i = 0; i < mib && piece(fd, i * MIB, MIB); i++)
        add(1);
}

/* ---- bytes ---- */

static void one_file(long ask) { filled(file("/tmp/load"), ask); }
static void in_shm(long ask) { filled(file("/dev/shm/load"), ask); }
static void in_home(long ask) { filled(file("load"), ask); }
static void by_link(long ask) { filled(file("/var/tmp/load"), ask); }
static void nameless(long ask) { filled(open("/tmp", O_TMPFILE | O_RDWR, 0600), ask); }

static void many_files(long ask)
{
    char name[64];
    for (long i = 0; i < ask * 16; i++) {
        snprintf(name, sizeof name, "/tmp/%ld", i);
        int fd = file(name);
        if (!piece(fd, 0, 65536))
            break;
        close(fd);
        if (i % 16 == 15)
            add(1);
    }
}

static void deleted(long ask)
{
    for (long i = 0; i < ask; i++) {
        int fd = file("/tmp/load");
        unlink("/tmp/load");
        if (!piece(fd, 0, MIB))
            break;
        add(1);
    }
}

static void renamed_over(long ask)
{
    for (long i = 0; i < ask; i++) { /* what a new file replaces stays, because it is open */
        int fd = file("/tmp/new");
        if (!piece(fd, 0, MIB) || rename("/tmp/new", "/tmp/old"))
            break;
        add(1);
    }
}

static void allocated(int fd, int mode, long ask)
{
    for (long i = 0; i < ask; i++) {
        if (fd < 0 || fallocate(fd, mode, i * MIB, MIB)) {
            note();
            break;
        }
        add(1);
    }
}

static void allocates(long ask) { allocated(file("/tmp/load"), 0, ask); }
static void allocates_beyond(long ask) { allocated(file("/tmp/load"), 1 /* FALLOC_FL_KEEP_SIZE */, ask); }

static void mapped(long ask)
{
    int fd = file("/tmp/load");
    if (ftruncate(fd, ask * MIB)) {
        note();
        return;
    }
    char *memory = mmap(NULL, ask * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    for (long i = 0; i < ask; i++) {
        memset(memory + i * MIB, 1, MIB);
        add(1);
    }
}

/* Blocks that are far from one another, in a file that is mostly hole. */
static void scattered(long ask)
{
    int fd = file("/tmp/load");
    for (long i = 0; i < ask * 256; i++) {
        if (!piece(fd, i * 7 * PAGE, PAGE))
            break;
        if (i % 256 == 255)
            add(1);
    }
}

static void copied(long ask, int how)
{
    int from = how == 1 ? file("/tmp/source") : memfd_create("source", 0), to = file("/tmp/load"), ends[2];
    if (write(from, chunk, MIB) != MIB || (how == 2 && pipe(ends)))
        return;
    for (long i = 0; i < ask; i++)
        for (long done = 0; done < MIB;) {
            off_t at = done, there = i * MIB + done;
            ssize_t moved;
            if (how == 0)
                moved = sendfile(to, from, &at, MIB - done);
            else if (how == 1)
                moved = copy_file_range(from, &at, to, &there, MIB - done, 0);
            else {
                moved = splice(from, &at, ends[1], NULL, 65536, 0);
                if (moved > 0)
                    moved = splice(ends[0], NULL, to, NULL, moved, 0);
            }
            if (moved <= 0) {
                note();
                return;
            }
            done += moved;
            if (done >= MIB)
                add(1);
        }
}

static void by_sendfile(long ask) { copied(ask, 0); }
static void by_copy(long ask) { copied(ask, 1); }
static void by_splice(long ask) { copied(ask, 2); }

/* A symbolic link's text takes a page. */
static void link_texts(long ask)
{
    static char text[4090];
    char name[64];
    memset(text, 'x', sizeof text - 1);
    for (long i = 0; i < ask * 256; i++) {
        snprintf(name, sizeof name, "/tmp/%ld", i);
        if (symlink(text, name)) {
            note();
            break;
        }
        if (i % 256 == 255)
            add(1);
    }
}

/* They do not count as bytes but as inodes, one for each KiB (since Linux 6.6; before there are none on a tmpfs). */
static void attributes(long ask)
{
    char name[64];
    for (long i = 0; i < ask * 16; i++) {
        snprintf(name, sizeof name, "/tmp/%ld", i / 100);
        close(file(name));
        char key[32];
        snprintf(key, sizeof key, "user.%ld", i);
        if (setxattr(name, key, chunk, 65536, 0)) {
            note();
            break;
        }
        if (i % 16 == 15)
            add(1);
    }
}

static void by_many(long ask, int thread_like)
{
    for (int i = 0; i < 8; i++) {
        pid_t child = thread_like ? (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0) : spawn();
        if (child == 0) {
            char name[64];
            snprintf(name, sizeof name, "/tmp/of-%d", i);
            filled(file(name), ask / 8);
            _exit(0);
        }
    }
    while (wait(NULL) > 0) {}
}

static void by_children(long ask) { by_many(ask, 0); }
static void by_sharers(long ask) { by_many(ask, 1); }

static void again(long ask)
{
    int fd = file("/tmp/load");
    for (long i = 0; i < ask; i++) {
        /* give back and take more, so that a count that is not kept exactly would drift */
        if (fallocate(fd, 3 /* PUNCH_HOLE | KEEP_SIZE */, 0, i * MIB + 1))
            note();
        for (long at = 0; at <= i; at++)
            if (!piece(fd, at * MIB, MIB))
                return;
        add(1);
    }
}

static void deep(long ask)
{
    for (long i = 0; i < ask; i++) {
        if (mkdir("/tmp/d", 0700) && errno != EEXIST)
            break;
        if (chdir(i ? "d" : "/tmp/d") || (mkdir("d", 0700) && errno != EEXIST) || !piece(file("load"), 0, MIB)) {
            note();
            break;
        }
        add(1);
    }
}

static void linked(long ask)
{
    for (long i = 0; i < ask; i++) {
        char name[64];
        int fd = open("/tmp", O_TMPFILE | O_RDWR, 0600);
        if (!piece(fd, 0, MIB))
            break;
        snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        linkat(AT_FDCWD, name, AT_FDCWD, "/tmp/name", AT_SYMLINK_FOLLOW);
        unlink("/tmp/name");
        add(1);
    }
}

static void direct(long ask)
{
    void *aligned;
    int fd = open("/tmp/load", O_CREAT | O_RDWR | 040000 /* O_DIRECT */, 0600);
    if (fd < 0)
        fd = file("/tmp/load");
    if (posix_memalign(&aligned, PAGE, MIB))
        return;
    memset(aligned, 1, MIB);
    for (long i = 0; i < ask; i++) {
        if (write(fd, aligned, MIB) != MIB) {
            note();
            break;
        }
        add(1);
    }
}

/* ---- the size of one file ---- */

static void quiet(void) { signal(SIGXFSZ, SIG_IGN); }
static void size_written(long ask) { quiet(); filled(file("/tmp/load"), ask); }
static void size_signalled(long ask) { filled(file("/tmp/load"), ask); }
static void size_allocated(long ask) { quiet(); allocates(ask); }
static void size_beyond(long ask) { quiet(); allocates_beyond(ask); }
static void size_sent(long ask) { quiet(); by_sendfile(ask); }
static void size_copied(long ask) { quiet(); by_copy(ask); }
static void size_spliced(long ask) { quiet(); by_splice(ask); }
static void size_nameless(long ask) { quiet(); nameless(ask); }
static void size_shm(long ask) { quiet(); in_shm(ask); }
static void size_home(long ask) { quiet(); in_home(ask); }
static void size_memfd(long ask) { quiet(); filled(memfd_create("load", 0), ask); }
static void size_direct(long ask) { quiet(); direct(ask); }

static void size_truncated_of(int fd, const char *path, long ask)
{
    quiet();
    for (long i = 1; i <= ask; i++) {
        if (path ? truncate(path, i * MIB) : ftruncate(fd, i * MIB)) {
            note();
            return;
        }
        add(1);
    }
}

static void size_truncated(long ask) { size_truncated_of(file("/tmp/load"), NULL, ask); }
static void size_truncated_path(long ask) { close(file("/tmp/load")); size_truncated_of(-1, "/tmp/load", ask); }
static void size_truncated_memfd(long ask) { size_truncated_of(memfd_create("load", 0), NULL, ask); }

static void size_far(long ask)
{
    quiet();
    if (piece(file("/tmp/load"), (ask - 1) * MIB, MIB))
        add(ask);
}

static void size_appended(long ask)
{
    quiet();
    for (long i = 0; i < ask; i++) { /* opened anew for each piece, by a new process */
        pid_t child = spawn();
        if (child == 0) {
            int fd = open("/tmp/load", O_CREAT | O_WRONLY | O_APPEND, 0600);
            if (write(fd, chunk, MIB) == MIB) {
                add(1);
                _exit(0);
            }
            note();
            _exit(1);
        }
        waitpid(child, NULL, 0);
    }
}

static void size_of_many(long ask)
{
    quiet();
    for (int i = 0; i < 8; i++)
        if (spawn() == 0) {
            int fd = file("/tmp/load");
            for (long at = i; at < ask && piece(fd, at * MIB, MIB); at += 8)
                add(1);
            _exit(0);
        }
    while (wait(NULL) > 0) {}
}

static void size_raised(long ask)
{
    struct { uint64_t soft, hard; } limit = {~0ull, ~0ull};
    quiet();
    syscall(SYS_prlimit64, 0, 1 /* RLIMIT_FSIZE */, &limit, NULL);
    filled(file("/tmp/load"), ask);
}

static void size_mapped(long ask)
{
    int fd = file("/tmp/load");
    quiet();
    char *memory = mmap(NULL, ask * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    for (long i = 0; i < ask; i++) { /* beyond the file's end: SIGBUS, unless it grew first */
        if (ftruncate(fd, (i + 1) * MIB)) {
            note();
            return;
        }
        memset(memory + i * MIB, 1, MIB);
        add(1);
    }
}

int main(int argc, char **argv)
{
    static const struct way ways[] = {
        {"one-file", one_file}, {"in-shm", in_shm}, {"in-home", in_home}, {"var-tmp", by_link}, {"nameless", nameless}, {"many-files", many_files},
        {"deleted", deleted}, {"renamed-over", renamed_over}, {"allocated", allocates}, {"allocated-beyond", allocates_beyond}, {"mapped", mapped},
        {"scattered", scattered}, {"sendfile", by_sendfile}, {"copy-file-range", by_copy}, {"splice", by_splice}, {"link-texts", link_texts},
        {"attributes", attributes}, {"children", by_children}, {"shared-files", by_sharers}, {"again", again}, {"deep", deep}, {"linked", linked},
        {"direct", direct}, {"size-written", size_written}, {"size-signalled", size_signalled}, {"size-allocated", size_allocated},
        {"size-allocated-beyond", size_beyond}, {"size-sendfile", size_sent}, {"size-copy-file-range", size_copied}, {"size-splice", size_spliced},
        {"size-nameless", size_nameless}, {"size-in-shm", size_shm}, {"size-in-home", size_home}, {"size-memfd", size_memfd}, {"size-direct", size_direct},
        {"size-truncated", size_truncated}, {"size-truncated-path", size_truncated_path}, {"size-truncated-memfd", size_truncated_memfd},
        {"size-far", size_far}, {"size-appended", size_appended}, {"size-of-many", size_of_many}, {"size-raised", size_raised},
        {"size-mapped", size_mapped}, {0},
    };
    memset(chunk, 1, sizeof chunk);
    return run_way(ways, MAXIMUM, argc, argv);
}
