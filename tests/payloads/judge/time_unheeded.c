// idea: compute in children of a millisecond whose time the kernel adds to nobody
// problem: one
// expect: TLE
#include <signal.h>
#include <time.h>
#include <unistd.h>

static double used(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

int main(void)
{
    struct sigaction action = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
    sigaction(SIGCHLD, &action, NULL);
    for (;;) {
        int ends[2];
        char byte;
        if (pipe(ends))
            return 1;
        if (fork() == 0) {
            while (used() < 0.001)
                ;
            _exit(0);
        }
        close(ends[1]);
        if (read(ends[0], &byte, 1))
            return 1;
        close(ends[0]);
    }
}
