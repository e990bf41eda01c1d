/* Times system calls under a filter: `syscalls [FILTER]` installs it (a file of struct sock_filter) and answers each line `CALL COUNT` of its standard
 * input with the nanoseconds that one call took, over COUNT calls. `syscalls install FILTER COUNT` prints COUNT times of seccomp(2) itself, each in a
 * process of its own. `syscalls loops COUNT` prints `CALL NANOSECONDS` for every call, without a filter of its own: for use inside a sandbox.
 * A loop is in C so that what is measured is the call.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct sock_filter code[4096];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static struct sock_fprog load(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, code, sizeof code);
    if (size <= 0 || size % sizeof *code)
        err(2, "read `%s`", path);
    close(fd);
    return (struct sock_fprog){.len = size / sizeof *code, .filter = code};
}

static double install(struct sock_fprog *program)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        err(2, "prctl");
    double began = now();
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, program))
        err(2, "seccomp");
    return now() - began;
}

static int zero, null, word;
static char byte;

static double loop(const char *call, long count)
{
    double began = now();
    if (!strcmp(call, "getpid"))
        for (long i = 0; i < count; i++)
            syscall(SYS_getpid);
    else if (!strcmp(call, "read"))
        for (long i = 0; i < count; i++)
            syscall(SYS_read, zero, &byte, 1);
    else if (!strcmp(call, "openat+close"))
        for (long i = 0; i < count; i++)
            syscall(SYS_close, syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDONLY));
    else if (!strcmp(call, "futex"))
        for (long i = 0; i < count; i++)
            syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
    else if (!strcmp(call, "fcntl"))
        for (long i = 0; i < count; i++)
            syscall(SYS_fcntl, zero, F_GETFD, 0);
    else if (!strcmp(call, "ioctl"))
        for (long i = 0; i < count; i++)
            syscall(SYS_ioctl, null, TCGETS, 0);
    else
        errx(2, "no call `%s`", call);
    return (now() - began) / count;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 4 && !strcmp(argv[1], "install")) {
        struct sock_fprog program = load(argv[2]);
        for (int left = atoi(argv[3]); left > 0; left--) {
            pid_t pid = fork();
            if (!pid) {
                char text[32];
                int size = snprintf(text, sizeof text, "%.0f\n", install(&program));
                syscall(SYS_write, 1, text, size);
                syscall(SYS_exit_group, 0);
            }
            int status;
            if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
                errx(2, "install");
        }
        return 0;
    }
    zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (argc == 3 && !strcmp(argv[1], "loops")) {
        static const char *const calls[] = {"getpid", "read", "openat+close", "futex", "fcntl", "ioctl"};
        for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++)
            printf("%s %.2f\n", calls[i], loop(calls[i], atol(argv[2])));
        return 0;
    }
    if (argc == 2) {
        struct sock_fprog program = load(argv[1]);
        install(&program);
    }
    char call[32];
    long count;
    while (scanf("%31s %ld", call, &count) == 2)
        printf("%.2f\n", loop(call, count));
    return 0;
}
