/* Holds a secret by itself, in ways that are known to leak or not to leak:
 * the test's own eyes are tested on it. Usage: victim plain|open|hidden SECRET */
#include "common.h"

#define LENGTH 64

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    size_t size = page();
    unsigned char *memory;
    if (strcmp(argv[1], "plain") == 0) {
        memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(memory != MAP_FAILED);
    } else {
        int fd = (int)syscall(447 /* memfd_secret */, O_CLOEXEC);
        CHECK(fd >= 0);
        CHECK(ftruncate(fd, (off_t)size) == 0);
        memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(memory != MAP_FAILED);
        if (strcmp(argv[1], "hidden") == 0)
            CHECK(close(fd) == 0);
    }
    read_secret(argv[2], memory + 100, LENGTH);
    /* Looked at in a system call that is interrupted and must go on unharmed, ten times. */
    for (int i = 0; i < 10; i++)
        stage("ready", memory + 100, LENGTH);
    CHECK(holds_secret(argv[2], memory + 100, LENGTH));
    puts("unharmed");
    return 7;
}
