/* Creates, writes and closes N small files in the working directory, a hundred to a directory, then unlinks them; prints what each half took in ns, and what CPU
 * time of that. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static long long now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void check(int failed, const char *what)
{
    if (failed) {
        perror(what);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    int count = argc > 1 ? atoi(argv[1]) : 20000;
    char name[64], content[200];
    memset(content, 'x', sizeof content);
    long long began = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < count; i++) {
        if (i % 100 == 0) {
            snprintf(name, sizeof name, "d%d", i / 100);
            check(mkdir(name, 0755), "mkdir");
        }
        snprintf(name, sizeof name, "d%d/f%d", i / 100, i);
        int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
        check(fd < 0, "open");
        check(write(fd, content, sizeof content) != sizeof content, "write");
        check(close(fd), "close");
    }
    long long made = now(CLOCK_MONOTONIC), cpu_made = now(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "d%d/f%d", i / 100, i);
        check(unlink(name), "unlink");
        if (i % 100 == 99 || i == count - 1) {
            snprintf(name, sizeof name, "d%d", i / 100);
            check(rmdir(name), "rmdir");
        }
    }
    long long end = now(CLOCK_MONOTONIC), cpu_end = now(CLOCK_PROCESS_CPUTIME_ID);
    printf("%lld %lld %lld %lld\n", made - began, end - made, cpu_made - cpu, cpu_end - cpu_made);
    return 0;
}
