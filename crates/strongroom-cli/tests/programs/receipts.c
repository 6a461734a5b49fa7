/* Processes that end in every way, each with some memory. Prints `NAME PID` for each.
 * Usage: receipts [execed] */
#include "common.h"

static char *block;

static pid_t begin(const char *name)
{
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(all(block, 'b', 100000));
        printf("%s %d\n", name, (int)getpid());
        fflush(stdout);
    }
    return child;
}

int main(int argc, char **argv)
{
    block = malloc(100000);
    CHECK(block);
    memset(block, 'b', 100000);
    if (argc == 2) {
        printf("%s %d\n", argv[1], (int)getpid());
        return 5;
    }
    printf("main %d\n", (int)getpid());
    pid_t child = begin("exits");
    if (child == 0)
        exit(3);
    CHECK(reap(child) == 3);
    child = begin("_exits");
    if (child == 0)
        _exit(4);
    CHECK(reap(child) == 4);
    fflush(stdout);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        execv("/proc/self/exe", (char *[]){argv[0], "execed", NULL});
        _exit(98);
    }
    CHECK(reap(child) == 5);
    child = vfork();
    if (child == 0) {
        execv("/proc/self/exe", (char *[]){argv[0], "vforked", NULL});
        _exit(98);
    }
    CHECK(reap(child) == 5);
    child = begin("outer");
    if (child == 0) {
        pid_t inner = begin("inner");
        if (inner == 0)
            return 6;
        CHECK(reap(inner) == 6);
        return 7;
    }
    CHECK(reap(child) == 7);
    return 0;
}
