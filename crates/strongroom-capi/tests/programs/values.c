/* Values stay what they are, in each kind of memory. */
#include "check.h"

static const size_t sizes[] = {0, 1, 15, 16, 17, 100, 1000, 5000, 40000, 1000000};
#define COUNT (sizeof sizes / sizeof *sizes)

static unsigned char seed(size_t number)
{
    return (unsigned char)(number * 17 + 5);
}

/* Blocks are zero, apart, aligned, and keep what is written. */
static void blocks(sr_heap *heap)
{
    unsigned char *block[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        block[i] = sr_heap_malloc(heap, sizes[i]);
        CHECK(block[i] != NULL && (size_t)block[i] % 16 == 0);
        size_t usable = sr_heap_usable_size(heap, block[i]);
        CHECK(usable >= sizes[i] && usable > 0 && all(block[i], 0, usable));
        memset(block[i], seed(i), usable);
    }
    for (size_t i = 0; i < COUNT; i++)
        CHECK(all(block[i], seed(i), sr_heap_usable_size(heap, block[i])));
    for (size_t i = 0; i < COUNT; i++) {
        size_t old = sr_heap_usable_size(heap, block[i]);
        block[i] = sr_heap_realloc(heap, block[i], 3 * old);
        CHECK(block[i] != NULL && all(block[i], seed(i), old));
        CHECK(all(block[i] + old, 0, 2 * old));
        block[i] = sr_heap_realloc(heap, block[i], 0);
        CHECK(block[i] != NULL && block[i][0] == seed(i));
        sr_heap_free(heap, block[i]);
    }
    unsigned char *array = sr_heap_calloc(heap, 100, 7);
    CHECK(array != NULL && all(array, 0, 700));
    sr_heap_free(heap, array);
    for (size_t alignment = 1; alignment <= 1 << 20; alignment *= 2) {
        unsigned char *aligned = sr_heap_aligned_alloc(heap, alignment, 100);
        CHECK(aligned != NULL && (size_t)aligned % alignment == 0);
        memset(aligned, 1, 100);
        sr_heap_free(heap, aligned);
    }
    CHECK(sr_heap_realloc(heap, NULL, 10) != NULL);
}

static void same_by_the_short_names(void)
{
    unsigned char *block = sr_malloc(33);
    CHECK(block != NULL && all(block, 0, 33) && sr_usable_size(block) >= 33);
    memset(block, 7, 33);
    block = sr_realloc(block, 3333);
    CHECK(block != NULL && all(block, 7, 33));
    errno = 4711;
    sr_free(block);
    CHECK(errno == 4711);
    block = sr_calloc(5, 5);
    CHECK(block != NULL && all(block, 0, 25));
    sr_free(block);
    block = sr_aligned_alloc(4096, 1);
    CHECK(block != NULL && (size_t)block % 4096 == 0);
    sr_free(block);
    sr_free(NULL);
    CHECK(sr_usable_size(NULL) == 0);
}

static void region(const sr_policy *policy)
{
    sr_region *region = sr_region_new(policy, 10000);
    CHECK(region != NULL && sr_region_length(region) == 12288);
    unsigned char *at = sr_region_address(region);
    CHECK(all(at, 0, 12288));
    memset(at, 3, 12288);
    CHECK(all(at, 3, 12288));
    /* The guards: a child that goes over either end is killed. */
    static const long beyond[] = {-1, 12288};
    for (int i = 0; i < 2; i++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            ((volatile unsigned char *)at)[beyond[i]] = 1;
            _exit(0);
        }
        CHECK(reap(child) == 1000 + SIGSEGV);
    }
    sr_region_free(region);
}

int main(void)
{
    static const uint32_t levels[] = {SR_LOCKED, SR_HIDDEN};
    for (int i = 0; i < 2; i++) {
        sr_policy policy = SR_PREFER(levels[i]);
        region(&policy);
        sr_heap *heap = sr_heap_new(&policy);
        CHECK(heap != NULL);
        blocks(heap);
        CHECK(sr_heap_delete(heap) == SR_OK);
    }
    blocks(sr_process_heap());
    same_by_the_short_names();
    unsigned char plain[100];
    memset(plain, 1, sizeof plain);
    sr_wipe(plain + 10, 50);
    CHECK(all(plain, 1, 10) && all(plain + 10, 0, 50) && all(plain + 60, 1, 40));
    puts("all as it was");
    return 0;
}
