/* The peers of `strongroom scan`: glibc's memmem for one pattern, and a search for AES-128 schedules
 * that looks at every word by itself, as aeskeyfind does. Usage: scan memmem|aes FILE [PATTERN] */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STEP (512 << 10)
#define LOOK 4096

static uint8_t box[256];

/* FIPS 197, 5.1.1. */
static void make_box(void)
{
    uint8_t p = 1, q = 1;
    do {
        p = (uint8_t)(p ^ (p << 1) ^ (p & 0x80 ? 0x1b : 0));
        q = (uint8_t)(q ^ (q << 1));
        q = (uint8_t)(q ^ (q << 2));
        q = (uint8_t)(q ^ (q << 4));
        if (q & 0x80)
            q ^= 0x09;
        uint8_t x = 0;
        for (int turn = 0; turn < 5; turn++)
            x ^= (uint8_t)(q << turn | q >> (8 - turn));
        box[p] = x ^ 0x63;
    } while (p != 1);
    box[0] = 0x63;
}

static uint32_t word(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* Whether the first round of AES-128 starts here, but for a few bits; the others are tried then. */
static int is_schedule(const uint8_t *at)
{
    static const uint8_t rcon[] = {1, 2, 4, 8, 16, 32, 64, 128, 0x1b, 0x36};
    int wrong = 0;
    for (int round = 1; round <= 10; round++) {
        const uint8_t *here = at + 16 * round;
        uint32_t last = word(here - 4);
        uint32_t fed = (uint32_t)box[last >> 16 & 255] << 24 | (uint32_t)box[last >> 8 & 255] << 16 |
                       (uint32_t)box[last & 255] << 8 | box[last >> 24];
        fed ^= (uint32_t)rcon[round - 1] << 24;
        for (int i = 0; i < 4; i++) {
            wrong += __builtin_popcount(word(here + 4 * i) ^ word(here + 4 * i - 16) ^ fed);
            if (wrong > 90)
                return 0;
            fed = word(here + 4 * i);
        }
    }
    return 1;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    int fd = open(argv[2], O_RDONLY);
    uint8_t *buffer = malloc(STEP + LOOK);
    if (fd < 0 || !buffer)
        return 2;
    make_box();
    size_t kept = 0, found = 0;
    for (;;) {
        ssize_t got = read(fd, buffer + kept, STEP);
        if (got <= 0)
            break;
        size_t filled = kept + (size_t)got;
        if (strcmp(argv[1], "memmem") == 0) {
            size_t length = strlen(argv[3]);
            const uint8_t *at = buffer;
            while ((at = memmem(at, filled - (size_t)(at - buffer), argv[3], length))) {
                found++;
                at++;
            }
        } else {
            for (size_t at = 0; at + 176 <= filled; at += 4)
                found += (size_t)is_schedule(buffer + at);
        }
        kept = filled < LOOK ? filled : LOOK;
        memmove(buffer, buffer + filled - kept, kept);
    }
    printf("%zu\n", found);
    return 0;
}
