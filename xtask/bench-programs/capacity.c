// capacity: how many secrets of 32 bytes there is room for; prints the number.
//
// malloc until NULL; each block is filled with its own bytes, and all are checked at the end.
// The table of blocks is an ordinary mapping, which is no secret. SODIUM: sodium_malloc, until it
// fails or hands out memory that is not locked (VmLck no longer grows).

#include "common.h"
#include <fcntl.h>
#include <sys/mman.h>
#ifdef SODIUM
#include <sodium.h>
#define ALLOCATE(size) sodium_malloc(size)
#else
#define ALLOCATE(size) malloc(size)
#endif

enum { SIZE = 32, MOST = 4 << 20 };

#ifdef SODIUM
static long locked(void) {
    static char text[8192];
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t len = read(fd, text, sizeof text - 1);
    close(fd);
    if (len <= 0) return -1;
    text[len] = 0;
    const char *line = strstr(text, "VmLck:");
    return line ? strtol(line + 6, NULL, 10) : -1;
}
#endif

int main(void) {
    unsigned char **blocks = checked(mmap(NULL, MOST * sizeof *blocks, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), "mmap");
    // Its buffer comes from the heap that is to be filled up.
    static char buffer[256];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
#ifdef SODIUM
    if (sodium_init() < 0) return 1;
#endif
    uint32_t count = 0;
    for (; count < MOST; count++) {
#ifdef SODIUM
        long before = locked();
#endif
        unsigned char *block = ALLOCATE(SIZE);
        if (!block) break;
#ifdef SODIUM
        if (locked() <= before) break;
#endif
        memset(block, (int)(count % 251), SIZE);
        memcpy(block, &count, sizeof count);
        blocks[count] = block;
    }
    for (uint32_t i = 0; i < count; i++) {
        unsigned char expected[SIZE];
        memset(expected, (int)(i % 251), SIZE);
        memcpy(expected, &i, sizeof i);
        if (memcmp(blocks[i], expected, SIZE) != 0) {
            fprintf(stderr, "secret %u of %u is not what was written\n", i, count);
            return 1;
        }
    }
    printf("%u\n", count);
    return 0;
}
