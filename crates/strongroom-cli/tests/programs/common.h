/* What the test programs share: stages, secrets from a file, checks. */
#ifndef COMMON_H
#define COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))

/* A check that must hold; says which did not and ends the program. */
#define CHECK(what)                                                              \
    do {                                                                         \
        if (!(what)) {                                                           \
            int error_ = errno;                                                  \
            dprintf(2, "%s:%d: failed: %s (errno %d: %s)\n", __FILE__, __LINE__, \
                    #what, error_, strerror(error_));                            \
            _exit(99);                                                           \
        }                                                                        \
    } while (0)

/* Stops until the test says go. Reads and writes without stdio. */
UNUSED static void stage(const char *name, const void *address, size_t length)
{
    char line[128];
    fflush(stdout);
    int n = snprintf(line, sizeof line, "#stage %s %d 0x%lx %zu\n", name, (int)getpid(),
                     (unsigned long)address, length);
    CHECK(write(1, line, (size_t)n) == n);
    char c;
    do {
        ssize_t got = read(0, &c, 1);
        if (got < 0 && errno == EINTR)
            continue;
        CHECK(got == 1);
    } while (c != '\n');
}

/* Puts the secret of a file into memory, with no copy on the way. */
UNUSED static void read_secret(const char *path, void *into, size_t length)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    CHECK(read(fd, into, length) == (ssize_t)length);
    CHECK(close(fd) == 0);
}

/* Whether memory holds the secret of a file. Compares in pieces of 4 bytes, so that no copy stays. */
UNUSED static int holds_secret(const char *path, const void *memory, size_t length)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    const unsigned char *at = memory;
    for (size_t done = 0; done < length; done += 4) {
        unsigned char piece[4];
        size_t want = length - done < 4 ? length - done : 4;
        CHECK(read(fd, piece, want) == (ssize_t)want);
        if (memcmp(piece, at + done, want) != 0) {
            close(fd);
            return 0;
        }
    }
    CHECK(close(fd) == 0);
    return 1;
}

/* Whether memory is all of one byte. */
UNUSED static int all(const void *memory, unsigned char byte, size_t length)
{
    const volatile unsigned char *at = memory;
    for (size_t i = 0; i < length; i++)
        if (at[i] != byte)
            return 0;
    return 1;
}

/* How a child ended, in words that compare. */
UNUSED static int reap(pid_t child)
{
    int status;
    pid_t got;
    do
        got = waitpid(child, &status, 0);
    while (got < 0 && errno == EINTR);
    CHECK(got == child);
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    return 1000 + WTERMSIG(status);
}

UNUSED static size_t page(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

#endif
