// malloc SIZE THREADS SET [OPERATIONS]: allocate, touch, wipe, free; prints nanoseconds per operation.
//
// Each thread runs its own loop. SET 0 frees each block at once; otherwise a thread keeps SET
// blocks and replaces a random one each time. With OPERATIONS the loop is that long, and nothing
// is timed.
//
// WIPE: wipe by explicit_bzero before free. SODIUM: libsodium's allocator, which wipes by itself.

#include "common.h"
#include <pthread.h>
#include <sched.h>
#ifdef SODIUM
#include <sodium.h>
#define ALLOCATE(size) sodium_malloc(size)
#define RELEASE(block, size) sodium_free(block)
#elif defined(WIPE)
#define ALLOCATE(size) malloc(size)
#define RELEASE(block, size) (explicit_bzero(block, size), free(block))
#else
#define ALLOCATE(size) malloc(size)
#define RELEASE(block, size) free(block)
#endif

enum { MOST_THREADS = 64, SLICES = 4096, SLICE_NS = 500000, RUN_NS = 150000000 };

static size_t size, set;
static long threads, operations;
static pthread_barrier_t barrier;

// Apart from each other: only the allocator may make threads share a cache line.
struct worker {
    _Alignas(128) pthread_t thread;
    long index;
    uint64_t random;
    char **blocks;
    double nanoseconds;
};

static char *take(void) {
    char *block = checked(ALLOCATE(size), "malloc");
    for (size_t at = 0; at < size; at += 64) block[at] = 1;
    escape(block);
    return block;
}

static void run(struct worker *worker, long count) {
    for (long i = 0; i < count; i++) {
        if (set == 0) {
            char *block = take();
            RELEASE(block, size);
        } else {
            char **place = &worker->blocks[next_random(&worker->random) % set];
            RELEASE(*place, size);
            *place = take();
        }
    }
}

// Each thread on a processor of its own, where there are as many: a scheduler that packs them onto
// one would hide what they cost each other.
static void settle(long index) {
    cpu_set_t allowed, own;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    long skip = index % CPU_COUNT(&allowed);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || skip-- > 0) continue;
        CPU_ZERO(&own);
        CPU_SET(cpu, &own);
        pthread_setaffinity_np(pthread_self(), sizeof own, &own);
        return;
    }
}

static void *work(void *argument) {
    struct worker *worker = argument;
    if (threads > 1) settle(worker->index);
    worker->blocks = set ? checked(calloc(set, sizeof *worker->blocks), "calloc") : NULL;
    for (size_t i = 0; i < set; i++) worker->blocks[i] = take();
    if (threads > 1) pthread_barrier_wait(&barrier);
    if (operations) {
        run(worker, operations);
        return NULL;
    }
    // Warm up, and find how many make a slice: short, so that few slices are interrupted.
    long count = 1;
    for (uint64_t spent = 0; spent < SLICE_NS; count *= 2) {
        uint64_t start = now();
        run(worker, count * 2);
        spent = now() - start;
    }
    static __thread double slices[SLICES];
    size_t taken = 0;
    for (uint64_t end = now() + RUN_NS, at; (at = now()) < end && taken < SLICES;) {
        run(worker, count);
        slices[taken++] = (double)(now() - at) / (double)count;
    }
    worker->nanoseconds = median(slices, taken);
    return NULL;
}

int main(int argc, char **argv) {
    size = (size_t)argument(argc, argv, 1, "SIZE");
    threads = argument(argc, argv, 2, "THREADS");
    set = (size_t)argument(argc, argv, 3, "SET");
    operations = argc > 4 ? argument(argc, argv, 4, "OPERATIONS") : 0;
#ifdef SODIUM
    if (sodium_init() < 0) return 1;
#endif
    if (threads < 1 || threads > MOST_THREADS) return 2;
    static struct worker workers[MOST_THREADS];
    pthread_barrier_init(&barrier, NULL, (unsigned)threads);
    double sum = 0;
    for (long i = 0; i < threads; i++) {
        workers[i].index = i;
        workers[i].random = 88172645463325252u + (uint64_t)i;
    }
    if (threads == 1) {
        // In the main thread: a program without threads is the common case, and libc's fast one.
        work(&workers[0]);
    } else {
        for (long i = 0; i < threads; i++)
            if (pthread_create(&workers[i].thread, NULL, work, &workers[i])) return 1;
        for (long i = 0; i < threads; i++) pthread_join(workers[i].thread, NULL);
    }
    for (long i = 0; i < threads; i++) sum += workers[i].nanoseconds;
    printf("%.3f\n", sum / (double)threads);
    return 0;
}
