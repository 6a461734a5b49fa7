/* Tries to take a secret descriptor out of process PID with pidfd_getfd(2), ROUNDS times over the
 * descriptors 3 to 15. Prints "stolen" or "nothing", and how often it was let in at all. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	int process = syscall(SYS_pidfd_open, atoi(argv[1]), 0);
	if (process < 0) {
		perror("pidfd_open");
		return 2;
	}
	long rounds = atol(argv[2]), refused = 0, stolen = 0;
	for (long round = 0; round < rounds && !stolen; round++) {
		for (int fd = 3; fd < 16; fd++) {
			int copy = syscall(SYS_pidfd_getfd, process, fd, 0);
			if (copy < 0) {
				refused += errno == EPERM;
				continue;
			}
			char link[32], path[64] = "";
			snprintf(link, sizeof link, "/proc/self/fd/%d", copy);
			if (readlink(link, path, sizeof path - 1) > 0 && strstr(path, "secretmem"))
				stolen++;
			close(copy);
		}
	}
	puts(stolen ? "stolen" : "nothing");
	fprintf(stderr, "refused %ld of %ld\n", refused, rounds * 13);
	return 0;
}
