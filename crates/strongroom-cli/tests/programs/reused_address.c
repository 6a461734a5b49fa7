/* Locks a block that glibc has mapped for malloc, frees it (glibc unmaps it by itself), and maps a
 * file at the very same address: whatever happens to that mapping later concerns the file. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define LEN 409600

static int file;

static int intact(void)
{
	char byte;
	for (int at = 0; at < LEN; at += 4096)
		if (pread(file, &byte, 1, at) != 1 || byte != 'f')
			return 0;
	return 1;
}

int main(void)
{
	char name[] = "file-XXXXXX", contents[4096];
	memset(contents, 'f', sizeof contents);
	file = mkstemp(name);
	unlink(name);
	for (int at = 0; at < LEN; at += sizeof contents)
		if (write(file, contents, sizeof contents) != sizeof contents)
			return 1;

	char *block = malloc(LEN);
	memset(block, 's', LEN);
	if (mlock(block, LEN))
		return 2;
	char *page = (char *)((unsigned long)block & ~4095ul);
	free(block);
	char *again = mmap(page, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	printf("same address: %d\n", again == page);
	pid_t child = fork();
	if (child == 0) {
		again[5] = 'F';
		again[5] = 'f';
		_exit(again[4096] == 'f' ? 0 : 1);
	}
	int status;
	waitpid(child, &status, 0);
	printf("child: %d\n", status);
	printf("advice: %d\n", madvise(again, 4096, MADV_DONTNEED));
	printf("intact: %d\n", intact());
	printf("unmapped: %d\n", munmap(again, LEN));
	printf("intact: %d\n", intact());
	return 0;
}
