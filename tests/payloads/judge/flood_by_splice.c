// idea: move bytes to the output without writing them: sendfile, splice, tee, vmsplice
// problem: one
// expect: OLE
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <unistd.h>

static char text[65536];

int main(void) {
    int ends[2], zero = open("/usr/bin/python3", O_RDONLY);
    if (pipe(ends) != 0) return 1;
    for (;;) {
        off_t from = 0;
        struct iovec part = {text, sizeof text};
        if (sendfile(1, zero, &from, 65536) > 0) continue;
        if (splice(zero, &from, 1, NULL, 65536, 0) > 0) continue;
        if (vmsplice(1, &part, 1, 0) > 0) continue;
        if (write(1, text, sizeof text) < 0) return 1;
    }
}
