/* Has mappings that are known, and stops at each: mappings FILE, or very many of them: mappings many. */
#include "common.h"
#include <sys/prctl.h>

static unsigned char *map(size_t size, int access, int flags)
{
    unsigned char *memory = mmap(NULL, size, access, flags | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

static unsigned char *secret(size_t size, int open)
{
    int fd = (int)syscall(447 /* memfd_secret */, O_CLOEXEC);
    if (fd < 0)
        return NULL;
    CHECK(ftruncate(fd, (off_t)size) == 0);
    unsigned char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED);
    memset(memory, 1, size);
    if (!open)
        CHECK(close(fd) == 0);
    return memory;
}

/* 10 GiB with a page here and there, and thousands of mappings. */
static void many(void)
{
    const size_t giant = (size_t)10 << 30, step = (size_t)16 << 20, count = 20000;
    int access = PROT_READ | PROT_WRITE;
    unsigned char *sparse = map(giant, access, MAP_NORESERVE);
    CHECK(madvise(sparse, giant, MADV_NOHUGEPAGE) == 0);
    for (size_t at = 0; at < giant; at += step)
        sparse[at] = 1;
    stage("sparse", sparse, giant);
    unsigned char *pages = map(count * page(), access, 0);
    memset(pages, 1, count * page());
    for (size_t at = 0; at < count; at += 2)
        CHECK(mprotect(pages + at * page(), page(), PROT_READ) == 0);
    stage("pages", pages, count * page());
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    if (strcmp(argv[1], "many") == 0) {
        many();
        return 0;
    }
    size_t size = 16 * page();
    int access = PROT_READ | PROT_WRITE;
    unsigned char *heap = malloc(64);
    CHECK(heap != NULL);
    memset(heap, 1, 64);
    stage("heap", heap, 64);
    unsigned char *anonymous = map(size, access, 0);
    memset(anonymous, 1, size / 2);
    CHECK(madvise(anonymous, size, MADV_DONTDUMP) == 0);
    stage("anonymous", anonymous, size);
    unsigned char *reserved = map((size_t)64 << 30, PROT_NONE, MAP_NORESERVE);
    stage("reserved", reserved, (size_t)64 << 30);
    stage("stack", &access, sizeof access);
    stage("secret", secret(size, 0), size);
    stage("open", secret(page(), 1), page());
    int fd = open(argv[1], O_RDONLY);
    CHECK(fd >= 0);
    unsigned char *file = mmap(NULL, page(), PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(file != MAP_FAILED && file[0] != 0);
    stage("file", file, page());
    return 0;
}
