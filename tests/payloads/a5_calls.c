/* Makes system calls that no library would make, each in a child of its own, and says what came of it.
 *
 *     a5_calls REQUEST...        REQUEST is GATE:NUMBER[:ARGUMENT,...] or table:FIRST-LAST
 *
 * GATE is `syscall` or `int80` (the i386 entry, which any 64-bit program can use). An ARGUMENT is a number (any C notation, negative
 * too), `@` for the address of a zeroed page, `^` for one of garbage, `'text` for the address of a string, or `#` and 64-bit words joined by
 * `.` for the address of them (at the start of a zeroed page).
 * `table` makes every call of a range with all-ones arguments, for which no call does harm. One line for each:
 * REQUEST, a tab, and the raw result, `signal N`, or `timeout`.
 *
 * Build: gcc -O1 -static -no-pie (so that addresses fit the 32-bit registers of int80).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

typedef unsigned long u64;

static __attribute__((always_inline)) inline long gate_syscall(u64 n, const u64 *a)
{
    long result;
#if defined(__x86_64__)
    register u64 r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = a[5];
    __asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
#else
    register u64 x8 __asm__("x8") = n, x0 __asm__("x0") = a[0], x1 __asm__("x1") = a[1], x2 __asm__("x2") = a[2];
    register u64 x3 __asm__("x3") = a[3], x4 __asm__("x4") = a[4], x5 __asm__("x5") = a[5];
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    result = (long)x0;
#endif
    return result;
}

#if defined(__x86_64__)
static long gate_int80(u64 n, const u64 *a)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(n), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4]) : "r8", "r9", "r10", "r11", "memory");
    return (int)result;
}
#endif

/* A refused call waits for its answer, on a busy machine for long; pause (34, of x86_64) waits for ever. */
enum { CHILD_MS = 3000, PAUSE_MS = 50, PAUSE = 34, UNSET = 0x7eadbeef };
static long *slot;

/* The call may be fork, vfork, exit or one that never returns: the result goes through shared memory, and whoever returns with 0 just ends. */
static void attempt(int int80, u64 number, const u64 *arguments)
{
    *slot = UNSET;
    fflush(stdout);
    pid_t child = fork();
    if (child < 0) {
        printf("fork failed: %d\n", errno);
        return;
    }
    if (child == 0) {
        int ms = number == PAUSE ? PAUSE_MS : CHILD_MS;
        struct itimerval soon = {{0, 0}, {ms / 1000, ms % 1000 * 1000}};
        setitimer(ITIMER_REAL, &soon, NULL);
        long result;
#if defined(__x86_64__)
        result = int80 ? gate_int80(number, arguments) : gate_syscall(number, arguments);
#else
        result = gate_syscall(number, arguments);
#endif
        if (result != 0 || *slot == UNSET)
            *slot = result;
        static const u64 none[6];
        gate_syscall(
#if defined(__x86_64__)
            231,
#else
            94,
#endif
            none);
    }
    int status;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    if (*slot != UNSET)
        printf("%ld\n", *slot);
    else if (WIFSIGNALED(status) && WTERMSIG(status) != 14)
        printf("signal %d\n", WTERMSIG(status));
    else if (WIFSIGNALED(status))
        printf("timeout\n");
    else
        printf("exit %d\n", WEXITSTATUS(status));
}

int main(int argc, char **argv)
{
    slot = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    char *garbage = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (slot == MAP_FAILED || page == MAP_FAILED || garbage == MAP_FAILED)
        return 99;
    memset(garbage, 0x7f, 4096);
    for (int i = 1; i < argc; i++) {
        u64 ones[6] = {~0ul, ~0ul, ~0ul, ~0ul, ~0ul, ~0ul}, arguments[6] = {0};
        unsigned first, last;
        if (sscanf(argv[i], "table:%u-%u", &first, &last) == 2) {
            for (unsigned number = first; number <= last; number++) {
                printf("%u\t", number);
                attempt(0, number, ones);
            }
            continue;
        }
        printf("%s\t", argv[i]);
        char *text = strchr(argv[i], ':');
        if (!text)
            return 98;
        int int80 = !strncmp(argv[i], "int80", 5);
        u64 number = strtoull(++text, &text, 0);
        for (int a = 0; a < 6 && *text; a++) {
            text++;
            if (*text == '\'') {
                char *end = strchr(text, ',');
                size_t length = end ? (size_t)(end - text - 1) : strlen(text + 1);
                char *copy = page + 2048 + a * 256;
                memcpy(copy, text + 1, length);
                copy[length] = 0;
                arguments[a] = (u64)copy;
                text += length + 1;
            } else if (*text == '@' || *text == '^') {
                arguments[a] = (u64)(*text == '@' ? page : garbage);
                text++;
            } else if (*text == '#') {
                u64 *word = (u64 *)page;
                do
                    *word++ = strtoull(text + 1, &text, 0);
                while (*text == '.');
                arguments[a] = (u64)page;
            } else
                arguments[a] = strtoull(text, &text, 0);
        }
        attempt(int80, number, arguments);
    }
    return 0;
}
