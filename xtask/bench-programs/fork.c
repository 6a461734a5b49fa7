// fork MIB COUNT: with so much of the heap in use, forks COUNT times; prints the median of the
// milliseconds from fork until the child, which ends at once, has been waited for.

#include "common.h"
#include <sys/wait.h>

enum { BLOCK = 4096 };

int main(int argc, char **argv) {
    size_t blocks = ((size_t)argument(argc, argv, 1, "MIB") << 20) / BLOCK;
    long count = argument(argc, argv, 2, "COUNT");
    for (size_t i = 0; i < blocks; i++) {
        char *block = checked(malloc(BLOCK), "malloc");
        memset(block, 1, BLOCK);
        escape(block);
    }
    double *times = checked(calloc((size_t)count, sizeof *times), "calloc");
    for (long i = 0; i < count; i++) {
        uint64_t start = now();
        pid_t child = fork();
        if (child == 0) _exit(0);
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
            perror("fork");
            return 1;
        }
        times[i] = (double)(now() - start) / 1e6;
    }
    printf("%.4f\n", median(times, (size_t)count));
    return 0;
}
