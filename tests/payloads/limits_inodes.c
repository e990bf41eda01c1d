/* Ways past a limit on the inodes of a tmpfs. ASK and `got` are how many. */
#include "limits.h"
#include <sys/un.h>
#include <sys/xattr.h>

enum { MAXIMUM = 1000 };
static char text[1024];

static long made(const char *directory, const char *kind, long i)
{
    char name[400], other[300];
    snprintf(name, sizeof name, "%s/%ld", directory, i);
    if (!strcmp(kind, "file")) {
        int fd = open(name, O_CREAT | O_WRONLY | O_EXCL, 0600);
        return fd < 0 ? -1 : close(fd);
    }
    if (!strcmp(kind, "directory"))
        return mkdir(name, 0700);
    if (!strcmp(kind, "symlink"))
        return symlink("x", name);
    if (!strcmp(kind, "fifo"))
        return mkfifo(name, 0600);
    if (!strcmp(kind, "node"))
        return mknod(name, S_IFREG | 0600, 0);
    if (!strcmp(kind, "nameless"))
        return open(directory, O_TMPFILE | O_RDWR, 0600);
    if (!strcmp(kind, "deleted")) {
        int fd = open(name, O_CREAT | O_WRONLY | O_EXCL, 0600);
        if (fd >= 0)
            unlink(name);
        return fd;
    }
    if (!strcmp(kind, "hard-link")) {
        snprintf(other, sizeof other, "%s/first", directory);
        close(open(other, O_CREAT | O_WRONLY, 0600));
        return link(other, name);
    }
    if (!strcmp(kind, "long-name")) {
        memset(other, 'n', 240);
        snprintf(other + 240, 20, "%ld", i);
        snprintf(name, sizeof name, "%s/%s", directory, other);
        int fd = open(name, O_CREAT | O_WRONLY | O_EXCL, 0600);
        return fd < 0 ? -1 : close(fd);
    }
    if (!strcmp(kind, "socket")) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        snprintf(address.sun_path, sizeof address.sun_path, "%.90s", name);
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address))
            return -1;
        return close(fd);
    }
    if (!strcmp(kind, "attribute")) {
        snprintf(other, sizeof other, "user.%ld", i);
        close(open("/tmp/first", O_CREAT | O_WRONLY, 0600));
        /* two of which the bookkeeping and the text make 1 KiB: one inode's worth */
        if (setxattr("/tmp/first", other, text, 400, 0))
            return -1;
        snprintf(other, sizeof other, "user.b%ld", i);
        return setxattr("/tmp/first", other, text, 520, 0);
    }
    if (!strcmp(kind, "nested")) {
        snprintf(name, sizeof name, "%s/%ld", directory, i / 8);
        if (i % 8 == 0)
            return mkdir(name, 0700);
        snprintf(other, sizeof other, "%s/%ld/%ld", directory, i / 8, i);
        return mkdir(other, 0700);
    }
    return -1;
}

static void inodes(const char *directory, const char *kind, long ask)
{
    for (long i = 0; i < ask && worked(made(directory, kind, i)); i++) {}
}

#define INODES(name, directory, kind) static void name(long ask) { inodes(directory, kind, ask); }
INODES(inode_files, "/tmp", "file")
INODES(inode_shm, "/dev/shm", "file")
INODES(inode_directories, "/tmp", "directory")
INODES(inode_symlinks, "/tmp", "symlink")
INODES(inode_fifos, "/tmp", "fifo")
INODES(inode_nodes, "/tmp", "node")
INODES(inode_nameless, "/tmp", "nameless")
INODES(inode_deleted, "/tmp", "deleted")
INODES(inode_links, "/tmp", "hard-link")
INODES(inode_names, "/tmp", "long-name")
INODES(inode_sockets, "/tmp", "socket")
INODES(inode_attributes, "/tmp", "attribute")
INODES(inode_nested, "/tmp", "nested")
INODES(inode_cwd, "/proc/self/cwd", "file")
INODES(inode_link, "/var/tmp", "file")

static void inode_deep(long ask)
{
    for (long i = 0; i < ask; i++)
        if (!worked(mkdir(i ? "d" : "/tmp/d", 0700) || chdir(i ? "d" : "/tmp/d") ? -1 : 0))
            break;
}

static void inode_children(long ask)
{
    for (int child = 0; child < 8; child++)
        if (spawn() == 0) {
            char name[64];
            snprintf(name, sizeof name, "/tmp/of-%d", child);
            if (worked(mkdir(name, 0700)))
                inodes(name, "file", ask / 8);
            _exit(0);
        }
    while (wait(NULL) > 0) {}
}

static void inode_replaced(long ask)
{
    for (long i = 0; i < ask; i++) { /* what the rename replaces stays, because it is open */
        int fd = open("/tmp/new", O_CREAT | O_WRONLY | O_EXCL, 0600);
        if (!worked(fd < 0 || rename("/tmp/new", "/tmp/old") ? -1 : 0))
            break;
    }
}

static void inode_named_later(long ask)
{
    for (long i = 0; i < ask; i++) {
        char from[64], to[64];
        int fd = open("/tmp", O_TMPFILE | O_RDWR, 0600);
        snprintf(from, sizeof from, "/proc/self/fd/%d", fd);
        snprintf(to, sizeof to, "/tmp/%ld", i);
        int status = fd < 0 || linkat(AT_FDCWD, from, AT_FDCWD, to, AT_SYMLINK_FOLLOW) ? -1 : 0;
        if (fd >= 0)
            close(fd);
        if (!worked(status))
            break;
    }
}

static void inode_bound(long ask)
{
    for (long i = 0; i < ask; i++) { /* as many directories that nobody can name any more, each held by a descriptor */
        char name[64];
        snprintf(name, sizeof name, "/tmp/%ld", i);
        int fd = mkdir(name, 0700) ? -1 : open(name, O_PATH | O_DIRECTORY);
        if (!worked(fd))
            break;
        if (rmdir(name))
            break;
    }
}

int main(int argc, char **argv)
{
    static const struct way ways[] = {
        {"inode-files", inode_files}, {"inode-shm", inode_shm}, {"inode-directories", inode_directories}, {"inode-symlinks", inode_symlinks},
        {"inode-fifos", inode_fifos}, {"inode-nodes", inode_nodes}, {"inode-nameless", inode_nameless},
        {"inode-deleted", inode_deleted}, {"inode-links", inode_links}, {"inode-names", inode_names}, {"inode-sockets", inode_sockets},
        {"inode-attributes", inode_attributes}, {"inode-nested", inode_nested}, {"inode-cwd", inode_cwd}, {"inode-var-tmp", inode_link},
        {"inode-deep", inode_deep}, {"inode-children", inode_children}, {"inode-replaced", inode_replaced}, {"inode-named-later", inode_named_later},
        {"inode-held", inode_bound}, {0},
    };
    return run_way(ways, MAXIMUM, argc, argv);
}
