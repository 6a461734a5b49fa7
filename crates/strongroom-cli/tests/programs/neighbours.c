/* Runs out of memory again and again, and has mappings of its own meanwhile: they go
 * wherever the kernel finds room, and nobody may take them away. */
#include "common.h"

#define ROUNDS 8
#define MAPPINGS 64
/* A protected program may lock 8 MiB; a plain one stops at so many blocks. */
#define BLOCKS 256
#define PIECE (256 * 1024)

int main(void)
{
    static unsigned char *mappings[ROUNDS][MAPPINGS];
    static void *blocks[BLOCKS];
    for (int round = 0; round < ROUNDS; round++) {
        /* Until there is no more, in ever smaller pieces. */
        size_t count = 0;
        for (size_t size = PIECE; size >= 4096; size /= 2)
            while (count < BLOCKS && (blocks[count] = malloc(size)))
                memset(blocks[count++], 0xb5, size);
        for (int i = 0; i < MAPPINGS; i++) {
            unsigned char *memory =
                mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            CHECK(memory != MAP_FAILED);
            memset(memory, round * MAPPINGS + i + 1, PIECE);
            mappings[round][i] = memory;
        }
        while (count > 0)
            free(blocks[--count]);
        for (int other = 0; other <= round; other++)
            for (int i = 0; i < MAPPINGS; i++)
                CHECK(all(mappings[other][i], (unsigned char)(other * MAPPINGS + i + 1), PIECE));
    }
    puts("all there");
    return 0;
}
