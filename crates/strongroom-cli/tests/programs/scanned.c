/* Has a secret in places that a scan must find, or cannot read, and changes what it has mapped when it
 * is told to. Usage: scanned layout|change SECRET */
#include "common.h"

#define LENGTH 64
#define LARGE (8ul << 20)

static unsigned char *map(size_t size, int access, int flags)
{
    void *memory = mmap(NULL, size, access, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

static void layout(const char *path)
{
    size_t size = page();
    /* Across the border of two mappings. */
    unsigned char *two = map(2 * size, PROT_READ | PROT_WRITE, 0);
    read_secret(path, two + size - LENGTH / 2, LENGTH);
    CHECK(mprotect(two + size, size, PROT_READ) == 0);
    /* Where the program itself may not read it. */
    unsigned char *shut = map(size, PROT_READ | PROT_WRITE, 0);
    read_secret(path, shut + 8, LENGTH);
    CHECK(mprotect(shut, size, PROT_NONE) == 0);
    /* Far too much to walk. */
    map(70ul << 30, PROT_NONE, MAP_NORESERVE);
    /* Where only the program itself may read it. */
    int fd = (int)syscall(447 /* memfd_secret */, O_CLOEXEC);
    if (fd >= 0) {
        CHECK(ftruncate(fd, (off_t)size) == 0);
        unsigned char *hidden = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        CHECK(hidden != MAP_FAILED);
        CHECK(close(fd) == 0);
        read_secret(path, hidden, LENGTH);
    }
    stage("ready", two + size - LENGTH / 2, LENGTH);
    stage("shut", shut + 8, LENGTH);
}

static void change(const char *path)
{
    unsigned char *old = map(LARGE, PROT_READ | PROT_WRITE, 0);
    memset(old, 7, LARGE);
    stage("ready", old, LARGE);
    /* First the new one, so that it cannot be where the old one was. */
    unsigned char *new = map(LARGE, PROT_READ | PROT_WRITE, 0);
    read_secret(path, new + LARGE / 2, LENGTH);
    CHECK(munmap(old, LARGE) == 0);
    stage("changed", new + LARGE / 2, LENGTH);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    if (strcmp(argv[1], "layout") == 0)
        layout(argv[2]);
    else
        change(argv[2]);
    return 0;
}
