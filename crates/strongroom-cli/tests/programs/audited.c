/* Mappings that the audit is asked about, at addresses that it says, until it is ended. Usage: audited FILE COUNT
 * FILE is mapped privately; COUNT single pages beside each other do not merge. */
#include "common.h"

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    size_t size = 10UL << 30, touched = 64UL << 20, single = page();
    /* 10 GiB, of which every page of the first 64 MiB and one of the last are there. */
    unsigned char *large =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(large != MAP_FAILED);
    CHECK(madvise(large, size, MADV_NOHUGEPAGE) == 0);
    memset(large, 1, touched);
    large[size - 1] = 1;
    int fd = open(argv[1], O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    unsigned char *file = mmap(NULL, single, PROT_READ, MAP_PRIVATE, fd, 0);
    CHECK(file != MAP_FAILED);
    CHECK(*(volatile unsigned char *)file == 'x');
    /* Every other page has another access, so that none merges with its neighbours. */
    size_t count = (size_t)atoi(argv[2]);
    if (count > 0) {
        unsigned char *many =
            mmap(NULL, count * single, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(many != MAP_FAILED);
        memset(many, 1, count * single);
        for (size_t i = 0; i < count; i += 2)
            CHECK(mprotect(many + i * single, single, PROT_READ) == 0);
    }
    unsigned char *heap = malloc(1000);
    CHECK(heap != NULL);
    memset(heap, 1, 1000);
    stage("heap", heap, 1000);
    stage("large", large, size);
    stage("file", file, single);
    return 0;
}
