#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "survey.h"

static int compare(const void *a, const void *b) { return strcmp(a, b); }

int main(void) {
    static char words[1000][64];
    int count = 0;
    while (count < 1000 && scanf("%63s", words[count]) == 1) count++;
    printf("%d\n%ld\n", primes(20000), sum(5000));
    qsort(words, count, sizeof words[0], compare);
    for (int i = 0, j; i < count; i = j) {
        for (j = i; j < count && !strcmp(words[i], words[j]); j++) {}
        printf("%s %d\n", words[i], j - i);
    }
    return 0;
}
