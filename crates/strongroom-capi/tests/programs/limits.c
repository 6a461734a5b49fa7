/* As an ordinary user with 64 KiB of locked memory: what is beyond is refused with its cause, and what
 * was had stays. */
#include "check.h"
#include <grp.h>
#include <sys/resource.h>

/* Says what the last error is. */
static void say(const char *of)
{
    char text[300];
    size_t length = sr_error_message(text, sizeof text);
    CHECK(length > 0 && length < sizeof text);
    printf("%s: %s: %s\n", of, sr_error_name(sr_last_error()), text);
}

int main(void)
{
    struct rlimit limit = {65536, 65536};
    CHECK(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    if (geteuid() == 0)
        CHECK(setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0);
    sr_policy policy = SR_PREFER(SR_HIDDEN);

    sr_region *kept = sr_region_new(&policy, 4096);
    CHECK(kept != NULL);
    memset(sr_region_address(kept), 5, 4096);
    errno = 0;
    CHECK(sr_region_new(&policy, 1 << 20) == NULL && sr_last_error() == SR_E_LOCK_LIMIT);
    CHECK(errno == ENOMEM);
    say("region");

    /* As many blocks as there are, and each is whole. */
    static unsigned char *block[100000];
    size_t count = 0;
    while (count < 100000 && (block[count] = sr_malloc(1000)) != NULL) {
        CHECK(all(block[count], 0, 1000));
        memset(block[count], (int)(count % 251), 1000);
        count++;
    }
    CHECK(count > 10 && count < 64 && errno == ENOMEM && sr_last_error() == SR_E_LOCK_LIMIT);
    say("malloc");
    CHECK(sr_realloc(block[0], 100000) == NULL && sr_calloc(1000, 100) == NULL);
    CHECK(sr_aligned_alloc(4096, 100000) == NULL);
    static unsigned char plain[100000];
    memset(plain, 6, sizeof plain);
    CHECK(sr_conceal(plain, sizeof plain, &policy, NULL) == SR_E_LOCK_LIMIT);
    say("conceal");
    CHECK(all(plain, 6, sizeof plain));
    for (size_t i = 0; i < count; i++) {
        CHECK(all(block[i], (unsigned char)(i % 251), 1000));
        sr_free(block[i]);
    }
    CHECK(all(sr_region_address(kept), 5, 4096));
    /* What was freed is there again. */
    void *again = sr_malloc(1000);
    CHECK(again != NULL && all(again, 0, 1000));
    sr_region_free(kept);
    return 0;
}
