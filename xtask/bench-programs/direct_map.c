// direct_map MIB ROUNDS: takes so much in blocks of 32 KiB to 1 MiB, touches all of it and frees
// all of it, ROUNDS times. Prints what of the kernel's direct map is in 4 KiB pages, in KiB: before,
// and after each round with its blocks still there.

#include "common.h"
#include <fcntl.h>

enum { SMALLEST = 32 << 10, LARGEST = 1 << 20, PAGE = 4096 };

static long small_pages(void) {
    static char text[8192];
    int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
    ssize_t len = read(fd, text, sizeof text - 1);
    close(fd);
    if (len <= 0) return -1;
    text[len] = 0;
    const char *line = strstr(text, "DirectMap4k:");
    return line ? strtol(line + 12, NULL, 10) : -1;
}

int main(int argc, char **argv) {
    size_t total = (size_t)argument(argc, argv, 1, "MIB") << 20;
    long rounds = argument(argc, argv, 2, "ROUNDS");
    char **blocks = checked(malloc(total / SMALLEST * sizeof *blocks), "malloc");
    uint64_t random = 88172645463325252u;
    printf("%ld", small_pages());
    for (long round = 0; round < rounds; round++) {
        size_t count = 0;
        for (size_t left = total; left >= SMALLEST; count++) {
            size_t size = SMALLEST + next_random(&random) % (LARGEST - SMALLEST + 1);
            if (size > left) size = left;
            left -= size;
            blocks[count] = checked(malloc(size), "malloc");
            for (size_t at = 0; at < size; at += PAGE) blocks[count][at] = 1;
        }
        printf(" %ld", small_pages());
        while (count > 0) free(blocks[--count]);
    }
    printf("\n");
    return 0;
}
