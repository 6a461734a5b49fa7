/* Its first thread ends and another goes on, whose number stands for the length. */
#include "common.h"
#include <pthread.h>

static pthread_t first;

static void *go_on(void *unused)
{
    (void)unused;
    CHECK(pthread_join(first, NULL) == 0);
    stage("alone", NULL, (size_t)syscall(SYS_gettid));
    _exit(0);
}

int main(void)
{
    pthread_t other;
    first = pthread_self();
    CHECK(pthread_create(&other, NULL, go_on, NULL) == 0);
    pthread_exit(NULL);
}
