/* Starts one thread by the C library, which tries clone3 first, and joins it. Exit status 0 when the thread ran. */
#include <pthread.h>

static void *run(void *flag)
{
    *(int *)flag = 1;
    return 0;
}

int main(void)
{
    pthread_t thread;
    int ran = 0;
    if (pthread_create(&thread, 0, run, &ran) || pthread_join(thread, 0))
        return 1;
    return ran ? 0 : 2;
}
