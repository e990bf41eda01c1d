// idea: be killed by a filter of one's own, so that it looks like the judge's doing
// problem: one
// expect: RTE|SYS|NZE
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(void) {
    struct sock_filter kill = {0x06, 0, 0, SECCOMP_RET_KILL_PROCESS};
    struct sock_fprog filter = {1, &kill};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) return 3;
    getppid();
}
