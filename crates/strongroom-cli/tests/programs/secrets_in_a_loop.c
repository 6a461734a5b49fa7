/* Makes and drops secret memory without end: by its own memfd_secret ("raw"), or by locking
 * ordinary memory ("lock"). Prints "#going" once it is at it; ends when its standard input does. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LEN 4096

static int once(int raw)
{
	void *start;
	if (raw) {
		int fd = syscall(SYS_memfd_secret, O_CLOEXEC);
		if (fd < 0 || ftruncate(fd, LEN))
			return 1;
		start = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
	} else {
		start = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (start != MAP_FAILED && mlock(start, LEN))
			return 1;
	}
	if (start == MAP_FAILED)
		return 1;
	return munmap(start, LEN);
}

int main(int argc, char **argv)
{
	int raw = argc > 1 && !strcmp(argv[1], "raw");
	struct pollfd input = { .fd = 0, .events = POLLIN };
	for (long round = 0;; round++) {
		if (once(raw)) {
			perror("secret memory");
			return 1;
		}
		if (round == 100) {
			puts("#going");
			fflush(stdout);
		}
		if (round % 1000 == 0 && poll(&input, 1, 0) > 0)
			return 0;
	}
}
