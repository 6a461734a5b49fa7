/* Holds a secret in each kind of memory while the test looks, then gives it up. */
#include "check.h"
#include <sys/mman.h>

/* The compiler is not to see what it is: memory that was freed is read below. */
static void (*volatile plain_free)(void *) = free;

int main(void)
{
    strongroom_policy policy = SR_REQUIRE(SR_HIDDEN);
    CHECK(strongroom_start(&policy) == SR_OK);
    strongroom_region *region = strongroom_region_new(&policy, SECRET);
    strongroom_heap *heap = strongroom_heap_new(&policy);
    unsigned char *small = strongroom_malloc(SECRET), *large = strongroom_malloc(100000);
    unsigned char *own = strongroom_heap_malloc(heap, SECRET), *moved = strongroom_malloc(SECRET);
    CHECK(region && heap && small && large && own && moved);
    unsigned char *concealed =
        mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned char *plain = malloc(SECRET), *freed = malloc(1000);
    CHECK(concealed != MAP_FAILED && plain && freed);

    /* Before it is concealed the memory is as plain as any. */
    put_secret(concealed + 100, 0);
    put_secret(plain, 1);
    place("plain", plain);
    place("plain", concealed + 100);
    stage();

    strongroom_concealed outcome;
    CHECK(strongroom_conceal(concealed, 8192, &policy, &outcome) == SR_OK);
    CHECK(outcome.secret == 8192 && outcome.locked == 0);
    CHECK(has_secret(concealed + 100, 0));
    unsigned char *all_kept[] = {strongroom_region_address(region), small, large + 70000, own, moved};
    for (int i = 0; i < 5; i++) {
        put_secret(all_kept[i], 0);
        place("secret", all_kept[i]);
    }
    place("secret", concealed + 100);
    place("plain", plain);
    stage();

    /* Moved, freed: what was there is zero, and stays out of reach. */
    unsigned char *elsewhere = strongroom_realloc(moved, 50000);
    CHECK(elsewhere != NULL && elsewhere != moved && has_secret(elsewhere, 0));
    strongroom_free(small);
    strongroom_free(large);
    strongroom_heap_free(heap, own);
    /* The pages are the heaps' still: read through addresses that are no blocks any more. */
    unsigned char *gone[] = {small, large + 70000, own, moved};
    for (int i = 0; i < 4; i++)
        CHECK(all(gone[i], 0, SECRET));
    /* The control: malloc's own free leaves it. */
    put_secret(freed + 100, 2);
    plain_free(freed);
    CHECK(has_secret(freed + 100, 2));
    strongroom_free(elsewhere);
    strongroom_region_free(region);
    CHECK(strongroom_heap_delete(heap) == SR_OK);
    CHECK(munmap(concealed, 8192) == 0);
    strongroom_wipe(plain, SECRET);
    stage();
    return 0;
}
