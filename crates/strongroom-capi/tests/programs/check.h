/* What the test programs share: checks, stages. */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strongroom.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))

/* A check that must hold; says which did not, with the library's last error, and ends the program. */
#define CHECK(what)                                                                          \
    do {                                                                                     \
        if (!(what)) {                                                                       \
            char text_[500];                                                                 \
            strongroom_error_message(text_, sizeof text_);                                   \
            fprintf(stderr, "%s:%d: failed: %s (%s)\n", __FILE__, __LINE__, #what, text_);   \
            _exit(99);                                                                       \
        }                                                                                    \
    } while (0)

#define SECRET 64

/* Puts the secret into memory. It is nowhere else: each byte is computed. */
UNUSED static void put_secret(void *into, unsigned seed)
{
    volatile unsigned char *at = into;
    for (unsigned i = 0; i < SECRET; i++)
        at[i] = (unsigned char)((i + seed) * 151 + (i * i) * 7 + 43);
}

UNUSED static int has_secret(const void *memory, unsigned seed)
{
    const volatile unsigned char *at = memory;
    for (unsigned i = 0; i < SECRET; i++)
        if (at[i] != (unsigned char)((i + seed) * 151 + (i * i) * 7 + 43))
            return 0;
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

/* Says where something is. */
UNUSED static void place(const char *name, const void *address)
{
    printf("%s 0x%lx\n", name, (unsigned long)address);
}

/* Says that all was said, and waits until the test says go. */
UNUSED static void stage(void)
{
    char c;
    puts("go?");
    fflush(stdout);
    do
        CHECK(read(0, &c, 1) == 1);
    while (c != '\n');
}

/* The exit status of a child. */
UNUSED static int reap(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

#endif
