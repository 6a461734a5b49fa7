/* Uses up every file descriptor, then allocates, forks and locks memory as if nothing were. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	struct rlimit limit;
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = 40;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		return 1;
	while (open("/dev/null", O_RDONLY) >= 0)
		;
	if (errno != EMFILE)
		return 2;
	enum { LEN = 1 << 20 };
	char *block = malloc(LEN);
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!block || page == MAP_FAILED || mlock(page, 4096))
		return 3;
	memset(block, 5, LEN);
	memset(page, 6, 4096);
	pid_t child = fork();
	if (child < 0)
		return 4;
	if (child == 0)
		_exit(block[LEN - 1] == 5 && page[77] == 6 ? 0 : 1);
	int status;
	waitpid(child, &status, 0);
	getrlimit(RLIMIT_NOFILE, &limit);
	printf("child %d, limit %ld, open %d\n", status, (long)limit.rlim_cur, open("/dev/null", O_RDONLY));
	return 0;
}
