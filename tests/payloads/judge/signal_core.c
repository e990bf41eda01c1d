// idea: dump core, into a helper of the host's or over a file
// problem: one
// expect: RTE
#include <stdlib.h>
#include <sys/resource.h>

int main(void) {
    struct rlimit most = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_CORE, &most);
    abort();
}
