// lock PAGES COUNT: maps so many pages, fills them and locks them, COUNT times; prints the median of the
// microseconds a page that mlock took.

#include "common.h"
#include <sys/mman.h>

enum { PAGE = 4096 };

int main(int argc, char **argv) {
    size_t pages = (size_t)argument(argc, argv, 1, "PAGES");
    long count = argument(argc, argv, 2, "COUNT");
    double *times = checked(calloc((size_t)count, sizeof *times), "calloc");
    for (long i = 0; i < count; i++) {
        size_t len = pages * PAGE;
        char *start = checked(
            mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "mmap");
        memset(start, 1, len);
        uint64_t begin = now();
        if (mlock(start, len) != 0) {
            perror("mlock");
            return 1;
        }
        times[i] = (double)(now() - begin) / 1e3 / (double)pages;
        munmap(start, len);
    }
    printf("%.4f\n", median(times, (size_t)count));
    return 0;
}
