/* A program that brings its own malloc, as those do that link jemalloc or tcmalloc into themselves. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static char room[1 << 20];
static size_t used;

void *malloc(size_t size)
{
	size = (size + 31) & ~(size_t)15;
	if (used + size > sizeof room)
		return NULL;
	char *block = room + used + 16;
	memcpy(block - sizeof size, &size, sizeof size);
	used += size;
	return block;
}

void free(void *block)
{
	(void)block;
}

void *calloc(size_t count, size_t size)
{
	return malloc(count * size);
}

void *realloc(void *block, size_t size)
{
	void *new = malloc(size);
	size_t old = 0;
	if (block)
		memcpy(&old, (char *)block - sizeof old, sizeof old);
	if (new && block)
		memcpy(new, block, old - 16 < size ? old - 16 : size);
	return new;
}

int main(void)
{
	char *block = malloc(100);
	strcpy(block, "own");
	puts(block);
	return 0;
}
