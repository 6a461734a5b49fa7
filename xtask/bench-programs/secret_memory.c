// secret_memory MIB: takes so much of memfd_secret, touches all of it and gives it back. Prints what
// of the kernel's direct map is in entries of 4 KiB, 2 MiB and 1 GiB, in KiB: before, while it is
// there, and after. What it splits stays so until the next boot.

#include "common.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum { PAGE = 4096 };

static void print_direct_map(void) {
    static char text[8192];
    int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
    ssize_t len = read(fd, text, sizeof text - 1);
    close(fd);
    text[len > 0 ? len : 0] = 0;
    const char *names[] = {"DirectMap4k:", "DirectMap2M:", "DirectMap1G:"};
    for (int i = 0; i < 3; i++) {
        const char *line = strstr(text, names[i]);
        printf("%ld ", line ? strtol(line + 12, NULL, 10) : 0);
    }
}

int main(int argc, char **argv) {
    size_t size = (size_t)argument(argc, argv, 1, "MIB") << 20;
    int fd = (int)syscall(SYS_memfd_secret, 0);
    if (fd < 0 || ftruncate(fd, (off_t)size) != 0) {
        perror("memfd_secret");
        return 1;
    }
    print_direct_map();
    char *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    for (size_t at = 0; at < size; at += PAGE) bytes[at] = 1;
    print_direct_map();
    munmap(bytes, size);
    close(fd);
    print_direct_map();
    printf("\n");
    return 0;
}
