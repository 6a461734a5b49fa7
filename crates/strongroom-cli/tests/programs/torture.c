/* The allocation functions under load, against a model: every block has a pattern of its
 * own, which is checked before the block is given back.
 * Usage: torture THREADS OPERATIONS MAX_LIVE_BYTES SEED */
#include "common.h"

#include <malloc.h>
#include <pthread.h>

#define SLOTS 400
#define QUEUE 64

struct block {
    unsigned char *start;
    size_t size;
    size_t alignment;
    unsigned pattern;
};

struct worker {
    pthread_t thread;
    uint64_t random;
    long operations;
    size_t live, limit;
    unsigned long forks, allocated, refused;
};

static int threads;
/* Blocks on their way to another thread, which frees them. */
static struct {
    pthread_mutex_t lock;
    struct block blocks[QUEUE];
    int count;
} queues[16];

static uint64_t next(struct worker *w)
{
    uint64_t x = w->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return w->random = x;
}

/* Small more often than not, up to 1 MiB. */
static size_t some_size(struct worker *w)
{
    unsigned shape = (unsigned)(next(w) % 1000);
    size_t most = shape < 500 ? 64 : shape < 850 ? 1024 : shape < 985 ? 16384 : shape < 998 ? 131072 : 1 << 20;
    return next(w) % (most + 1);
}

static unsigned char at(const struct block *b, size_t i)
{
    return (unsigned char)(b->pattern + i * 31 + (i >> 8));
}

/* Big blocks are looked at in samples, and at both ends. */
static size_t step(size_t size)
{
    return size <= 4096 ? 1 : 61;
}

static void fill_from(struct block *b, size_t from)
{
    for (size_t i = from; i < b->size; i += step(b->size))
        b->start[i] = at(b, i);
    for (size_t i = b->size > from + 64 ? b->size - 64 : from; i < b->size; i++)
        b->start[i] = at(b, i);
}

static void check_until(const struct block *b, size_t end, size_t old_step)
{
    for (size_t i = 0; i < end; i += old_step)
        CHECK(b->start[i] == at(b, i));
}

static void check(const struct block *b)
{
    check_until(b, b->size, step(b->size));
    for (size_t i = b->size > 64 ? b->size - 64 : 0; i < b->size; i++)
        CHECK(b->start[i] == at(b, i));
    CHECK(b->alignment == 0 || (uintptr_t)b->start % b->alignment == 0);
    CHECK((uintptr_t)b->start % 16 == 0);
}

static void drop(struct worker *w, struct block *b)
{
    if (!b->start)
        return;
    check(b);
    CHECK(malloc_usable_size(b->start) >= b->size);
    w->live -= b->size;
    free(b->start);
    b->start = NULL;
}

static void obtain(struct worker *w, struct block *b)
{
    size_t size = some_size(w);
    if (w->live + size > w->limit)
        size = next(w) % 64;
    unsigned how = (unsigned)(next(w) % 16);
    size_t alignment = 0;
    unsigned char *start = NULL;
    if (how < 8) {
        start = malloc(size);
    } else if (how < 11) {
        start = calloc(size / 8 + 1, 8);
        size = (size / 8 + 1) * 8;
        if (start)
            for (size_t i = 0; i < size; i++)
                CHECK(start[i] == 0);
    } else if (how == 11) {
        start = reallocarray(NULL, size / 4 + 1, 4);
        size = (size / 4 + 1) * 4;
    } else {
        alignment = (size_t)16 << next(w) % (how == 15 ? 13 : 5);
        if (how == 12)
            start = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
        else if (how == 13)
            start = memalign(alignment, size);
        else
            CHECK(posix_memalign((void **)&start, alignment, size) == 0 || start == NULL);
    }
    if (!start) {
        w->refused++;
        return;
    }
    *b = (struct block){start, size, alignment, (unsigned)next(w)};
    w->live += size;
    w->allocated++;
    fill_from(b, 0);
}

static void resize(struct worker *w, struct block *b)
{
    for (int chain = (int)(next(w) % 4) + 1; chain > 0 && b->start; chain--) {
        size_t size = some_size(w) + 1;
        if (w->live + size > w->limit)
            size = next(w) % 64 + 1;
        check(b);
        unsigned char *start = realloc(b->start, size);
        if (!start) {
            w->refused++;
            return;
        }
        size_t keep = size < b->size ? size : b->size, old_step = step(b->size);
        w->live += size - b->size;
        b->start = start;
        b->alignment = 0;
        check_until(b, keep, old_step);
        b->size = size;
        b->pattern = (unsigned)next(w);
        fill_from(b, 0);
    }
}

static void send(struct worker *w, struct block *b)
{
    int to = (int)(next(w) % (unsigned)threads);
    pthread_mutex_lock(&queues[to].lock);
    if (queues[to].count < QUEUE) {
        queues[to].blocks[queues[to].count++] = *b;
        w->live -= b->size;
        b->start = NULL;
    }
    pthread_mutex_unlock(&queues[to].lock);
}

static void receive(struct worker *w, int from)
{
    struct block mine[QUEUE];
    pthread_mutex_lock(&queues[from].lock);
    int count = queues[from].count;
    memcpy(mine, queues[from].blocks, sizeof mine[0] * (size_t)count);
    queues[from].count = 0;
    pthread_mutex_unlock(&queues[from].lock);
    for (int i = 0; i < count; i++) {
        w->live += mine[i].size;
        drop(w, &mine[i]);
    }
}

static void *work(void *);

static struct worker workers[16];

static void fork_in_the_middle(struct worker *w, struct block *blocks)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        /* All of the parent's blocks are here; then a life of its own. */
        for (int i = 0; i < SLOTS; i++)
            if (blocks[i].start)
                check(&blocks[i]);
        for (int i = 0; i < SLOTS; i += 2)
            drop(w, &blocks[i]);
        for (int i = 0; i < 2000; i++) {
            struct block *b = &blocks[next(w) % SLOTS];
            drop(w, b);
            obtain(w, b);
        }
        for (int i = 0; i < SLOTS; i++)
            drop(w, &blocks[i]);
        _exit(3);
    }
    CHECK(reap(child) == 3);
    w->forks++;
}

static void *work(void *argument)
{
    struct worker *w = argument;
    int me = (int)(w - workers);
    static __thread struct block blocks[SLOTS];
    memset(blocks, 0, sizeof blocks);
    for (long i = 0; i < w->operations; i++) {
        struct block *b = &blocks[next(w) % SLOTS];
        if (!b->start)
            obtain(w, b);
        else
            switch (next(w) % 8) {
            case 0:
            case 1:
                resize(w, b);
                break;
            case 2:
                send(w, b);
                break;
            default:
                drop(w, b);
            }
        if (i % 64 == 0)
            receive(w, me);
        if (i % (w->operations / 5 + 1) == w->operations / 10)
            fork_in_the_middle(w, blocks);
    }
    for (int i = 0; i < SLOTS; i++)
        drop(w, &blocks[i]);
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 5);
    threads = atoi(argv[1]);
    long operations = atol(argv[2]) / threads;
    for (int i = 0; i < threads; i++) {
        pthread_mutex_init(&queues[i].lock, NULL);
        workers[i].random = strtoull(argv[4], NULL, 10) * 1000003 + (uint64_t)i * 7919 + 1;
        workers[i].operations = operations;
        workers[i].limit = (size_t)atol(argv[3]) / (size_t)threads;
    }
    for (int i = 0; i < threads; i++)
        CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
    unsigned long allocated = 0, refused = 0, forks = 0;
    for (int i = 0; i < threads; i++)
        CHECK(pthread_join(workers[i].thread, NULL) == 0);
    for (int i = 0; i < threads; i++) {
        receive(&workers[i], i);
        allocated += workers[i].allocated;
        refused += workers[i].refused;
        forks += workers[i].forks;
    }
    printf("%d threads, %ld operations, %lu forks, %s\n", threads, operations * threads, forks,
           allocated > (unsigned long)operations / 3 ? "many blocks" : "too few blocks");
    printf("refused %lu\n", refused);
    return 0;
}
