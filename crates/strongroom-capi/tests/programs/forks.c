/* What a child sees, by each fork policy. */
#include "check.h"
#include <sys/mman.h>

/* A child that sees the first bytes of a and b as said, and then writes there. */
static int child_sees(unsigned char *a, int of_a, unsigned char *b, int of_b)
{
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        int well = a[0] == of_a && b[0] == of_b;
        a[0] = b[0] = 99;
        /* The library goes on in the child. */
        unsigned char *more = strongroom_malloc(1000);
        _exit(well && more != NULL && all(more, 0, 1000) ? 0 : 1);
    }
    return reap(child) == 0 && a[0] != 99 && b[0] != 99;
}

int main(void)
{
    static const uint32_t levels[] = {SR_LOCKED, SR_HIDDEN};
    for (int i = 0; i < 2; i++) {
        strongroom_policy copy = SR_PREFER(levels[i]);
        copy.fork = SR_FORK_COPY;
        strongroom_policy drop = SR_PREFER(levels[i]);
        strongroom_policy deny = SR_PREFER(levels[i]);
        deny.fork = SR_FORK_DENY;

        strongroom_region *region_copy = strongroom_region_new(&copy, 1), *region_drop = strongroom_region_new(&drop, 1);
        CHECK(region_copy && region_drop);
        unsigned char *a = strongroom_region_address(region_copy), *b = strongroom_region_address(region_drop);
        a[0] = 5;
        b[0] = 6;
        CHECK(child_sees(a, 5, b, 0));
        puts("regions");

        strongroom_heap *heap_copy = strongroom_heap_new(&copy), *heap_drop = strongroom_heap_new(&drop);
        CHECK(heap_copy && heap_drop);
        unsigned char *c = strongroom_heap_malloc(heap_copy, 10), *d = strongroom_heap_malloc(heap_drop, 10);
        CHECK(c && d);
        c[0] = 7;
        d[0] = 8;
        CHECK(child_sees(c, 7, d, 0));
        puts("heaps");

        unsigned char *e = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(e != MAP_FAILED);
        unsigned char *f = e + 4096;
        e[0] = 9;
        f[0] = 10;
        CHECK(child_sees(e, 9, f, 10));
        CHECK(strongroom_conceal(e, 4096, &copy, NULL) == SR_OK);
        CHECK(strongroom_conceal(f, 4096, &drop, NULL) == SR_OK);
        CHECK(child_sees(e, 9, f, 0));
        CHECK(munmap(e, 8192) == 0);
        puts("concealed");

        strongroom_region *region_deny = strongroom_region_new(&deny, 1);
        CHECK(region_deny != NULL);
        CHECK(fork() == -1 && errno == EPERM);
        strongroom_region_free(region_deny);
        strongroom_heap *heap_deny = strongroom_heap_new(&deny);
        CHECK(heap_deny != NULL && strongroom_heap_malloc(heap_deny, 1) != NULL);
        CHECK(fork() == -1 && errno == EPERM);
        CHECK(strongroom_heap_delete(heap_deny) == SR_OK);
        puts("denied");
        CHECK(child_sees(a, 5, c, 7));

        CHECK(strongroom_heap_delete(heap_copy) == SR_OK && strongroom_heap_delete(heap_drop) == SR_OK);
        strongroom_region_free(region_copy);
        strongroom_region_free(region_drop);
    }
    return 0;
}
