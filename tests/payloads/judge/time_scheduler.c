// idea: become more important than the judge: real-time scheduler, priorities, a processor to oneself
// problem: one
// expect: TLE
#define _GNU_SOURCE
#include <sched.h>
#include <sys/resource.h>
#include <sys/mman.h>

int main(void) {
    struct sched_param most = {99};
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    for (int pid = 0; pid < 8; pid++) {
        sched_setscheduler(pid, SCHED_FIFO, &most);
        sched_setscheduler(pid, SCHED_RR, &most);
        sched_setaffinity(pid, sizeof one, &one);
    }
    setpriority(PRIO_PROCESS, 0, -20);
    mlockall(MCL_CURRENT | MCL_FUTURE);
    for (volatile long i = 0;; i++) ;
}
