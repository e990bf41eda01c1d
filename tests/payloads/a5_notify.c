/* Callers of refused system calls that make it hard for whoever answers them.
 *
 *     a5_notify flood PROCESSES MILLISECONDS   each process calls sethostname as fast as it is answered; prints how many answers came
 *     a5_notify calls PROCESSES TIMES          each process calls it so often; prints how many answers came
 *     a5_notify killed ROUNDS                  each round a child calls it over and over and is killed; prints the rounds
 *     a5_notify storm ROUNDS                   calls it while a timer interrupts every 100 us; prints the rounds that gave EPERM
 *     a5_notify race ROUNDS PATH               calls mkdir(PATH) while a second thread rewrites the path, until one succeeds; prints how many did
 *     a5_notify once                           calls it once; prints errno
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int refused(void)
{
    return syscall(SYS_sethostname, "x", 1) < 0 ? errno : 0;
}

static long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void nothing(int number)
{
    (void)number;
}

static volatile int stop;
static char path[256];

static void *rewrite(void *unused)
{
    (void)unused;
    while (!stop) {
        path[1] ^= 1;
        __sync_synchronize();
        sched_yield();
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 99;
    if (!strcmp(argv[1], "once")) {
        printf("%d\n", refused());
    } else if (!strcmp(argv[1], "flood") || !strcmp(argv[1], "calls")) {
        int processes = atoi(argv[2]), timed = argv[1][0] == 'f';
        long *counts = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), total = 0;
        long most = atol(argv[3]), end = now_ms() + most;
        for (int i = 0; i < processes; i++)
            if (fork() == 0) {
                while (timed ? now_ms() < end : counts[i] < most) {
                    refused();
                    counts[i]++;
                }
                _exit(0);
            }
        while (wait(NULL) > 0) {}
        for (int i = 0; i < processes; i++)
            total += counts[i];
        printf("%ld\n", total);
    } else if (!strcmp(argv[1], "killed")) {
        int rounds = atoi(argv[2]);
        volatile int *answered = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        for (int i = 0; i < rounds; i++) {
            *answered = 0;
            pid_t child = fork();
            if (child == 0)
                for (;;) {
                    refused();
                    *answered = 1;
                }
            while (!*answered) {}
            for (volatile int spin = 0; spin < (i % 50) * 2000; spin++) {}
            kill(child, SIGKILL);
            waitpid(child, NULL, 0);
        }
        printf("%d\n", rounds);
    } else if (!strcmp(argv[1], "storm")) {
        struct sigaction action = {.sa_handler = nothing, .sa_flags = SA_RESTART};
        struct itimerval often = {{0, 100}, {0, 100}};
        int rounds = atoi(argv[2]), right = 0;
        sigaction(SIGALRM, &action, NULL);
        setitimer(ITIMER_REAL, &often, NULL);
        for (int i = 0; i < rounds; i++)
            right += refused() == EPERM;
        printf("%d\n", right);
    } else if (!strcmp(argv[1], "race")) {
        pthread_t thread;
        int rounds = atoi(argv[2]), made = 0;
        strncpy(path, argv[3], sizeof path - 1);
        pthread_create(&thread, NULL, rewrite, NULL);
        for (int i = 0; i < rounds && !made; i++)
            made += mkdir(path, 0755) == 0;
        stop = 1;
        pthread_join(thread, NULL);
        printf("%d\n", made);
    }
    return 0;
}
