/* Values stay what they are, in each kind of memory. */
#include "check.h"

static const size_t sizes[] = {0, 1, 15, 16, 17, 100, 1000, 5000, 40000, 1000000};
#define COUNT (sizeof sizes / sizeof *sizes)

static unsigned char seed(size_t number)
{
    return (unsigned char)(number * 17 + 5);
}

/* Blocks are zero, apart, aligned, and keep what is written. */
static void blocks(strongroom_heap *heap)
{
    unsigned char *block[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        block[i] = strongroom_heap_malloc(heap, sizes[i]);
        CHECK(block[i] != NULL && (size_t)block[i] % 16 == 0);
        size_t usable = strongroom_heap_usable_size(heap, block[i]);
        CHECK(usable >= sizes[i] && usable > 0 && all(block[i], 0, usable));
        memset(block[i], seed(i), usable);
    }
    for (size_t i = 0; i < COUNT; i++)
        CHECK(all(block[i], seed(i), strongroom_heap_usable_size(heap, block[i])));
    for (size_t i = 0; i < COUNT; i++) {
        size_t old = strongroom_heap_usable_size(heap, block[i]);
        block[i] = strongroom_heap_realloc(heap, block[i], 3 * old);
        CHECK(block[i] != NULL && all(block[i], seed(i), old));
        CHECK(all(block[i] + old, 0, 2 * old));
        block[i] = strongroom_heap_realloc(heap, block[i], 0);
        CHECK(block[i] != NULL && block[i][0] == seed(i));
        strongroom_heap_free(heap, block[i]);
    }
    unsigned char *array = strongroom_heap_calloc(heap, 100, 7);
    CHECK(array != NULL && all(array, 0, 700));
    strongroom_heap_free(heap, array);
    for (size_t alignment = 1; alignment <= 1 << 20; alignment *= 2) {
        unsigned char *aligned = strongroom_heap_aligned_alloc(heap, alignment, 100);
        CHECK(aligned != NULL && (size_t)aligned % alignment == 0);
        memset(aligned, 1, 100);
        strongroom_heap_free(heap, aligned);
    }
    CHECK(strongroom_heap_realloc(heap, NULL, 10) != NULL);
}

static void same_by_the_short_names(void)
{
    unsigned char *block = strongroom_malloc(33);
    CHECK(block != NULL && all(block, 0, 33) && strongroom_usable_size(block) >= 33);
    memset(block, 7, 33);
    block = strongroom_realloc(block, 3333);
    CHECK(block != NULL && all(block, 7, 33));
    errno = 4711;
    strongroom_free(block);
    CHECK(errno == 4711);
    block = strongroom_calloc(5, 5);
    CHECK(block != NULL && all(block, 0, 25));
    strongroom_free(block);
    block = strongroom_aligned_alloc(4096, 1);
    CHECK(block != NULL && (size_t)block % 4096 == 0);
    strongroom_free(block);
    strongroom_free(NULL);
    CHECK(strongroom_usable_size(NULL) == 0);
}

static void region(const strongroom_policy *policy)
{
    strongroom_region *region = strongroom_region_new(policy, 10000);
    CHECK(region != NULL && strongroom_region_length(region) == 12288);
    unsigned char *at = strongroom_region_address(region);
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
    strongroom_region_free(region);
}

int main(void)
{
    static const uint32_t levels[] = {SR_LOCKED, SR_HIDDEN};
    for (int i = 0; i < 2; i++) {
        strongroom_policy policy = SR_PREFER(levels[i]);
        region(&policy);
        strongroom_heap *heap = strongroom_heap_new(&policy);
        CHECK(heap != NULL);
        blocks(heap);
        CHECK(strongroom_heap_delete(heap) == SR_OK);
    }
    blocks(strongroom_process_heap());
    same_by_the_short_names();
    unsigned char plain[100];
    memset(plain, 1, sizeof plain);
    strongroom_wipe(plain + 10, 50);
    CHECK(all(plain, 1, 10) && all(plain + 10, 0, 50) && all(plain + 60, 1, 40));
    puts("all as it was");
    return 0;
}
