/* Takes memory until there is none, and goes on.
 * Usage: exhaust SIZE MOST SECRET: blocks of SIZE bytes, MOST of them at most */
#include "common.h"

#include <pthread.h>

struct block {
    struct block *before;
    unsigned char rest[];
};

static void *nothing(void *unused)
{
    return unused;
}

int main(int argc, char **argv)
{
    CHECK(argc == 4);
    size_t size = strtoul(argv[1], NULL, 10), most = strtoul(argv[2], NULL, 10), count = 0, again = 0;
    CHECK(size >= 16);
    struct block *last = NULL, *next;
    char *old = malloc(100);
    CHECK(old);
    memset(old, 'o', 100);
    errno = 0;
    while (count < most && (next = malloc(size)) != NULL) {
        next->before = last;
        memset(next->rest, (int)count, size - sizeof *next);
        last = next;
        count++;
    }
    int error = errno;
    printf("%s: %s\n", count < most ? "refused" : "enough", strerror(error));
    if (count < most) {
        void *p = &p;
        errno = 0;
        CHECK(calloc(1, size) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(realloc(old, 1 << 20) == NULL && errno == ENOMEM);
        CHECK(all(old, 'o', 100));
        CHECK(posix_memalign(&p, 64, 1 << 20) == ENOMEM && p == &p);
        errno = 0;
        CHECK(strdup("") == NULL ? errno == ENOMEM : 1);
        /* A thread starts or is refused; both are well. */
        pthread_t thread;
        int refused = pthread_create(&thread, NULL, nothing, NULL);
        CHECK(refused ? refused == EAGAIN || refused == ENOMEM : pthread_join(thread, NULL) == 0);
    }
    /* What was given is whole, and secret. */
    CHECK(last);
    if (size >= 16 + 64) {
        read_secret(argv[3], last->rest, 64);
        stage("full", last->rest, 64);
        CHECK(holds_secret(argv[3], last->rest, 64));
        memset(last->rest, (int)(count - 1), 64);
    }
    size_t left = count;
    for (struct block *b = last; b; b = b->before) {
        left--;
        CHECK(all(b->rest, (unsigned char)left, size - sizeof *b));
    }
    CHECK(left == 0);
    /* A child may go on for itself. */
    pid_t child = fork();
    if (child == 0)
        _exit(all(old, 'o', 100) ? 3 : 4);
    CHECK(child < 0 || reap(child) == 3);
    while (last) {
        next = last->before;
        free(last);
        last = next;
    }
    /* And all of it can be had again. */
    while (again < count && (next = malloc(size)) != NULL) {
        next->before = last;
        memset(next->rest, 'a', size - sizeof *next);
        last = next;
        again++;
    }
    while (last) {
        next = last->before;
        free(last);
        last = next;
    }
    free(old);
    CHECK(again == count);
    printf("%zu blocks, twice\n", count);
    return 0;
}
