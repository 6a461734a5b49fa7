/* Threads: blocks go from one to another, each has its own last error, all end while blocks are in use. */
#include "check.h"
#include <pthread.h>

#define THREADS 8
#define ROUNDS 2000
#define SLOTS 64

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned char *slot[SLOTS];
static pthread_barrier_t barrier;

static void *work(void *argument)
{
    unsigned number = *(unsigned *)argument, random = number * 7919 + 1;
    strongroom_policy policy = SR_PREFER(SR_HIDDEN);
    CHECK(strongroom_last_error() == SR_OK);
    /* Half fail in one way, half in another; each still sees its own. */
    if (number % 2 == 0)
        CHECK(strongroom_region_new(NULL, 1) == NULL);
    else
        CHECK(strongroom_conceal((void *)4096, 1, &policy, NULL) == SR_E_UNMAPPED);
    pthread_barrier_wait(&barrier);
    CHECK(strongroom_last_error() == (number % 2 == 0 ? SR_E_ARGUMENT : SR_E_UNMAPPED));

    for (int i = 0; i < ROUNDS; i++) {
        random = random * 1103515245 + 12345;
        size_t size = 2 + random / 65536 % 3000;
        unsigned char *block = strongroom_malloc(size);
        CHECK(block != NULL && all(block, 0, size));
        memset(block, (int)(size % 251 + 1), size);
        pthread_mutex_lock(&lock);
        unsigned char *other = slot[random % SLOTS];
        slot[random % SLOTS] = block;
        pthread_mutex_unlock(&lock);
        if (other != NULL) {
            CHECK(other[0] != 0 && all(other, other[0], 2));
            strongroom_free(other);
        }
        if (i % 100 == 0) {
            strongroom_region *region = strongroom_region_new(&policy, 100);
            CHECK(region != NULL && all(strongroom_region_address(region), 0, 4096));
            memset(strongroom_region_address(region), 1, 4096);
            strongroom_region_free(region);
        }
        /* Among them a fork, whose child goes on. */
        if (i % 1000 == 500) {
            pid_t child = fork();
            if (child == 0) {
                unsigned char *fresh = strongroom_malloc(100);
                _exit(fresh != NULL && all(fresh, 0, 100) ? 0 : 1);
            }
            CHECK(reap(child) == 0);
        }
    }
    return NULL;
}

int main(void)
{
    pthread_t thread[THREADS];
    unsigned number[THREADS];
    CHECK(pthread_barrier_init(&barrier, NULL, THREADS) == 0);
    for (unsigned i = 0; i < THREADS; i++) {
        number[i] = i;
        CHECK(pthread_create(&thread[i], NULL, work, &number[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(thread[i], NULL) == 0);
    CHECK(strongroom_last_error() == SR_OK);
    for (int i = 0; i < SLOTS; i++)
        strongroom_free(slot[i]);
    puts("all joined");
    return 0;
}
