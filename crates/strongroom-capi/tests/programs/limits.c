/* As an ordinary user with 64 KiB of locked memory: what is beyond is refused with its cause, and what
 * was had stays. */
#include "check.h"
#include <grp.h>
#include <sys/resource.h>

/* Says what the last error is. */
static void say(const char *of)
{
    char text[300];
    size_t length = strongroom_error_message(text, sizeof text);
    CHECK(length > 0 && length < sizeof text);
    printf("%s: %s: %s\n", of, strongroom_error_name(strongroom_last_error()), text);
}

int main(void)
{
    struct rlimit limit = {65536, 65536};
    CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    if (geteuid() == 0)
        CHECK(setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0);
    strongroom_policy policy = SR_PREFER(SR_HIDDEN);

    strongroom_region *kept = strongroom_region_new(&policy, 4096);
    CHECK(kept != NULL);
    memset(strongroom_region_address(kept), 5, 4096);
    errno = 0;
    CHECK(strongroom_region_new(&policy, 1 << 20) == NULL && strongroom_last_error() == SR_E_LOCK_LIMIT);
    CHECK(errno == ENOMEM);
    say("region");

    /* As many blocks as there are, and each is whole. */
    static unsigned char *block[100000];
    size_t count = 0;
    while (count < 100000 && (block[count] = strongroom_malloc(1000)) != NULL) {
        CHECK(all(block[count], 0, 1000));
        memset(block[count], (int)(count % 251), 1000);
        count++;
    }
    CHECK(count > 10 && count < 64 && errno == ENOMEM && strongroom_last_error() == SR_E_LOCK_LIMIT);
    say("malloc");
    CHECK(strongroom_realloc(block[0], 100000) == NULL && strongroom_calloc(1000, 100) == NULL);
    CHECK(strongroom_aligned_alloc(4096, 100000) == NULL);
    static unsigned char plain[100000];
    memset(plain, 6, sizeof plain);
    CHECK(strongroom_conceal(plain, sizeof plain, &policy, NULL) == SR_E_LOCK_LIMIT);
    say("conceal");
    CHECK(all(plain, 6, sizeof plain));
    for (size_t i = 0; i < count; i++) {
        CHECK(all(block[i], (unsigned char)(i % 251), 1000));
        strongroom_free(block[i]);
    }
    CHECK(all(strongroom_region_address(kept), 5, 4096));
    /* What was freed is there again. */
    void *again = strongroom_malloc(1000);
    CHECK(again != NULL && all(again, 0, 1000));
    strongroom_region_free(kept);
    return 0;
}
