/* Every edge of the allocation functions that the C standard and POSIX name, and what
 * glibc makes of the rest. Everything printed must be the same protected as plain.
 * Usage: edges CASE [SECRET] */
#include "common.h"

#include <malloc.h>
#include <stdint.h>
#include <wchar.h>

/* The compiler must not know what these are. */
static void *(*volatile malloc_)(size_t) = malloc;
static void *(*volatile calloc_)(size_t, size_t) = calloc;
static void *(*volatile realloc_)(void *, size_t) = realloc;
static void *(*volatile reallocarray_)(void *, size_t, size_t) = reallocarray;
static void (*volatile free_)(void *) = free;
static void *(*volatile aligned_alloc_)(size_t, size_t) = aligned_alloc;
static void *(*volatile memalign_)(size_t, size_t) = memalign;
static int (*volatile posix_memalign_)(void **, size_t, size_t) = posix_memalign;

static const size_t huge[] = {SIZE_MAX, SIZE_MAX - 1, SIZE_MAX - 4096, SIZE_MAX / 2 + 1, PTRDIFF_MAX,
                              (size_t)PTRDIFF_MAX - 4096, (size_t)1 << 62, (size_t)1 << 48};
#define EACH(index, array) for (size_t index = 0; index < sizeof(array) / sizeof *(array); index++)

static void none(const char *what, size_t i, void *p)
{
    int error = errno;
    printf("%s %zu: %s, %s\n", what, i, p ? "memory" : "none", strerror(error));
}

static void zero_sizes(void)
{
    void *blocks[100];
    EACH(i, blocks) {
        blocks[i] = i % 3 == 0 ? malloc_(0) : i % 3 == 1 ? calloc_(0, 5) : calloc_(5, 0);
        CHECK(blocks[i]);
        for (size_t k = 0; k < i; k++)
            CHECK(blocks[k] != blocks[i]);
    }
    EACH(i, blocks) free_(blocks[i]);
    void *p = NULL;
    CHECK(posix_memalign_(&p, 64, 0) == 0 && p && (uintptr_t)p % 64 == 0);
    free_(p);
    p = memalign_(64, 0);
    CHECK(p && (uintptr_t)p % 64 == 0);
    free_(p);
    p = aligned_alloc_(64, 0);
    CHECK(p && (uintptr_t)p % 64 == 0);
    free_(p);
    p = realloc_(NULL, 0);
    CHECK(p);
    free_(p);
    free_(NULL);
    /* glibc: size 0 frees, and returns none. */
    errno = 0;
    p = realloc_(malloc_(10), 0);
    none("realloc to 0", 0, p);
    p = reallocarray_(malloc_(10), 0, 5);
    none("reallocarray to 0", 0, p);
    CHECK(malloc_usable_size(NULL) == 0);
}

static void too_large(void)
{
    EACH(i, huge) {
        errno = 0;
        none("malloc", i, malloc_(huge[i]));
        errno = 0;
        none("calloc", i, calloc_(huge[i], 1));
        errno = 0;
        none("aligned_alloc", i, aligned_alloc_(64, huge[i]));
        errno = 0;
        none("memalign", i, memalign_(4096, huge[i]));
        errno = 0;
        none("valloc", i, valloc(huge[i]));
        errno = 0;
        none("pvalloc", i, pvalloc(huge[i]));
        /* POSIX says nothing of errno here: glibc changes it. */
        void *p = &p;
        int error = posix_memalign_(&p, 64, huge[i]);
        printf("posix_memalign %zu: %s, pointer %s\n", i, strerror(error), p == &p ? "untouched" : "changed");
        /* What was there stays there. */
        char *old = malloc_(100);
        memset(old, 'o', 100);
        errno = 0;
        none("realloc", i, realloc_(old, huge[i]));
        CHECK(all(old, 'o', 100));
        free_(old);
    }
}

static void overflows(void)
{
    static const struct {
        size_t count, size;
    } products[] = {{SIZE_MAX, 2}, {2, SIZE_MAX}, {(size_t)1 << 32, (size_t)1 << 32},
                    {SIZE_MAX / 2 + 1, 2}, {SIZE_MAX / 8 + 2, 8}, {SIZE_MAX, SIZE_MAX},
                    {((size_t)1 << 32) + 1, (size_t)1 << 32}};
    EACH(i, products) {
        errno = 0;
        none("calloc", i, calloc_(products[i].count, products[i].size));
        errno = 0;
        none("reallocarray", i, reallocarray_(NULL, products[i].count, products[i].size));
        char *old = malloc_(100);
        memset(old, 'o', 100);
        errno = 0;
        none("reallocarray", i, reallocarray_(old, products[i].count, products[i].size));
        CHECK(all(old, 'o', 100));
        free_(old);
    }
}

static void alignments(void)
{
    static const size_t bad[] = {0, 1, 2, 3, 4, 7, 9, 12, 24, 48, 100, 4097, SIZE_MAX, SIZE_MAX - 7};
    EACH(i, bad) {
        void *p = &p;
        errno = 7;
        int error = posix_memalign_(&p, bad[i], 100);
        printf("posix_memalign %zu: %s, errno %d, pointer %s\n", bad[i], strerror(error), errno,
               p == &p ? "untouched" : "changed");
    }
    for (size_t alignment = sizeof(void *); alignment <= 1 << 20; alignment *= 2)
        for (size_t size = 1; size < 300000; size = size * 7 + 1) {
            void *p = NULL, *q, *r;
            CHECK(posix_memalign_(&p, alignment, size) == 0 && (uintptr_t)p % alignment == 0);
            q = memalign_(alignment, size);
            CHECK(q && (uintptr_t)q % alignment == 0);
            r = aligned_alloc_(alignment, size);
            CHECK(r && (uintptr_t)r % alignment == 0);
            memset(p, 1, size);
            memset(q, 2, size);
            memset(r, 3, size);
            CHECK(malloc_usable_size(p) >= size);
            memset(p, 4, malloc_usable_size(p));
            CHECK(all(q, 2, size) && all(r, 3, size));
            q = realloc_(q, size * 2);
            CHECK(q && all(q, 2, size));
            free_(p);
            free_(q);
            free_(r);
        }
    /* glibc rounds memalign's odd alignments up. */
    for (size_t alignment = 1; alignment < 5000; alignment = alignment * 3 + 1) {
        void *p = memalign_(alignment, 50);
        size_t up = 1;
        while (up < alignment)
            up *= 2;
        CHECK(p && (uintptr_t)p % up == 0);
        free_(p);
    }
    for (size_t size = 0; size < 20000; size = size * 3 + 1) {
        char *v = valloc(size), *pv = pvalloc(size);
        CHECK(v && (uintptr_t)v % page() == 0);
        CHECK(pv && (uintptr_t)pv % page() == 0);
        CHECK(malloc_usable_size(pv) >= (size + page() - 1) / page() * page());
        memset(v, 1, size);
        memset(pv, 2, (size + page() - 1) / page() * page());
        free_(v);
        free_(pv);
    }
    for (size_t size = 1; size < 100000; size += size / 3 + 1) {
        void *p = malloc_(size), *q = calloc_(1, size), *r = realloc_(NULL, size);
        CHECK(p && q && r);
        CHECK((uintptr_t)p % _Alignof(max_align_t) == 0);
        CHECK((uintptr_t)q % _Alignof(max_align_t) == 0);
        CHECK((uintptr_t)r % _Alignof(max_align_t) == 0);
        free_(p);
        free_(q);
        free_(r);
    }
    puts("aligned");
}

static void usable(void)
{
    for (size_t size = 0; size < 2000000; size += size / 5 + 1) {
        unsigned char *p = malloc_(size), *q = malloc_(size);
        CHECK(p && q);
        size_t have = malloc_usable_size(p);
        CHECK(have >= size);
        memset(q, 'q', malloc_usable_size(q));
        memset(p, 'p', have);
        CHECK(all(q, 'q', malloc_usable_size(q)) && all(p, 'p', have));
        free_(p);
        free_(q);
    }
    puts("usable");
}

static void resizing(void)
{
    unsigned char *p = NULL;
    size_t had = 0;
    static const size_t sizes[] = {1, 2, 15, 16, 17, 100, 1000, 999, 5000, 4096, 4097, 100000, 99999, 70000,
                                   1 << 20, 3 << 20, 2 << 20, 1000, 10, 1, 65536, 32, 200000, 1};
    EACH(i, sizes) {
        p = realloc_(p, sizes[i]);
        CHECK(p);
        size_t keep = had < sizes[i] ? had : sizes[i];
        for (size_t k = 0; k < keep; k++)
            CHECK(p[k] == (unsigned char)(k * 13));
        for (size_t k = 0; k < sizes[i]; k++)
            p[k] = (unsigned char)(k * 13);
        had = sizes[i];
    }
    free_(p);
    int *numbers = reallocarray_(NULL, 10, sizeof *numbers);
    CHECK(numbers);
    for (int i = 0; i < 10; i++)
        numbers[i] = i;
    numbers = reallocarray_(numbers, 10000, sizeof *numbers);
    CHECK(numbers);
    for (int i = 0; i < 10; i++)
        CHECK(numbers[i] == i);
    free_(numbers);
    /* An aligned block may be resized like any other. */
    CHECK(posix_memalign_((void **)&p, 4096, 100) == 0);
    memset(p, 'a', 100);
    p = realloc_(p, 50000);
    CHECK(p && all(p, 'a', 100));
    free_(p);
    puts("resized");
}

static void zeroed(void)
{
    /* Dirty memory, given back and taken again. */
    for (int round = 0; round < 50; round++) {
        void *blocks[60];
        EACH(i, blocks) {
            size_t size = i * i * 23 + 1;
            blocks[i] = malloc_(size);
            CHECK(blocks[i]);
            memset(blocks[i], 0xff, malloc_usable_size(blocks[i]));
        }
        EACH(i, blocks) free_(blocks[i]);
        EACH(i, blocks) {
            size_t size = i * i * 23 + 1;
            blocks[i] = calloc_(size, 1);
            CHECK(blocks[i] && all(blocks[i], 0, size));
            memset(blocks[i], 0xff, malloc_usable_size(blocks[i]));
        }
        EACH(i, blocks) free_(blocks[i]);
    }
    puts("zeroed");
}

static void errno_kept(void)
{
    static const size_t sizes[] = {0, 1, 100, 5000, 100000, 5 << 20};
    EACH(i, sizes) {
        void *p = malloc_(sizes[i]);
        errno = 1234;
        free_(p);
        CHECK(errno == 1234);
        p = malloc_(sizes[i]);
        CHECK(errno == 1234);
        p = realloc_(p, sizes[i] + 10);
        CHECK(errno == 1234);
        free_(p);
        CHECK(errno == 1234);
    }
    errno = 1234;
    free_(NULL);
    CHECK(errno == 1234);
    puts("errno kept");
}

static const char *secret;

/* Whatever libc allocates for the program is the program's heap too. */
static void family(void)
{
    char text[65] = "";
    read_secret(secret, text, 64);
    char *copies[6] = {strdup(text), strndup(text, 64), NULL, NULL, NULL, NULL};
    memset(text, 0, sizeof text);
    CHECK(asprintf(&copies[2], "%s", copies[0]) == 64);
    size_t room = 0;
    FILE *file = fopen(secret, "r");
    CHECK(file && getline(&copies[3], &room, file) >= 64);
    rewind(file);
    room = 0;
    CHECK(getdelim(&copies[4], &room, '\n', file) >= 64);
    size_t length;
    FILE *memory = open_memstream(&copies[5], &length);
    CHECK(memory && fputs(copies[0], memory) >= 0 && fclose(memory) == 0 && length == 64);
    for (int i = 0; i < 6; i++) {
        CHECK(copies[i] && memcmp(copies[i], copies[0], 64) == 0);
        stage("secret", copies[i], 64);
    }
    CHECK(fclose(file) == 0);
    wchar_t *wide = wcsdup(L"wide");
    CHECK(wide && wcscmp(wide, L"wide") == 0);
    free_(wide);
    char *path = realpath("/proc/self/../self/exe", NULL), *here = getcwd(NULL, 0);
    CHECK(path && here);
    free_(path);
    free_(here);
    for (int i = 0; i < 6; i++)
        free_(copies[i]);
    puts("all of the family");
}

/* Freed memory holds nothing of what was in it. */
static void wiped(void)
{
    static const size_t sizes[] = {64, 100, 1000, 5000, 70000, 1 << 20};
    unsigned char *blocks[6];
    EACH(i, sizes) {
        blocks[i] = malloc_(sizes[i]);
        CHECK(blocks[i]);
        read_secret(secret, blocks[i] + sizes[i] - 64, 64);
    }
    stage("secret", blocks[0], 64);
    /* Shrunk away, moved away, and freed. */
    blocks[5] = realloc_(blocks[5], 100);
    blocks[4] = realloc_(blocks[4], 3 << 20);
    CHECK(holds_secret(secret, blocks[4] + 70000 - 64, 64));
    for (int i = 0; i < 6; i++)
        free_(blocks[i]);
    stage("freed", blocks[0], 64);
    puts("freed");
}

static void double_free(void)
{
    char *p = malloc_(100);
    free_(p);
    free_(p);
    puts("went on");
}

static void double_free_large(void)
{
    char *p = malloc_(3 << 20);
    free_(p);
    free_(p);
    puts("went on");
}

static void invalid_free(void)
{
    char *p = malloc_(1000);
    free_(p + 16);
    puts("went on");
}

static void foreign_free(void)
{
    static char memory[1000] __attribute__((aligned(64)));
    free_(memory + 64);
    puts("went on");
}

static void foreign_realloc(void)
{
    static char memory[1000] __attribute__((aligned(64)));
    CHECK(realloc_(memory + 64, 10));
    puts("went on");
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {
        {"zero", zero_sizes},     {"large", too_large},      {"overflow", overflows},
        {"alignment", alignments}, {"usable", usable},       {"resize", resizing},
        {"calloc", zeroed},       {"errno", errno_kept},     {"family", family},
        {"wiped", wiped},         {"double", double_free},   {"double-large", double_free_large},
        {"invalid", invalid_free}, {"foreign", foreign_free}, {"foreign-realloc", foreign_realloc},
    };
    CHECK(argc >= 2);
    secret = argv[argc - 1];
    EACH(i, cases)
        if (strcmp(cases[i].name, argv[1]) == 0) {
            cases[i].run();
            fflush(stdout);
            return 0;
        }
    return 91;
}
