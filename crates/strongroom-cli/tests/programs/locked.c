/* Memory that a program locks itself, and what it may do with it afterwards.
 * Everything printed must be the same protected as plain.
 * Usage: locked CASE SECRET */
#include "common.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/resource.h>

#define LENGTH 64
#define PAGES 4

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

static const char *secret;
static size_t P; /* the page size */

static void say(const char *what, long result)
{
    int error = errno;
    if (result == -1)
        printf("%s: %s\n", what, strerror(error));
    else
        printf("%s: %ld\n", what, result);
}
#define SAY(call) (errno = 0, say(#call, (long)(call)))

static unsigned char *anonymous(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

/* A pattern that tells every page and place apart, with the secret in the middle of the first page. */
static void fill(unsigned char *memory, size_t size)
{
    for (size_t i = 0; i < size; i++)
        memory[i] = (unsigned char)(i * 7 + i / P + 1);
    read_secret(secret, memory + 1000, LENGTH);
}

static int intact(const unsigned char *memory, size_t offset, size_t size)
{
    for (size_t i = offset; i < offset + size; i++)
        if ((i < 1000 || i >= 1000 + LENGTH) && memory[i - offset] != (unsigned char)(i * 7 + i / P + 1))
            return 0;
    return offset > 1000 || size < 1000 + LENGTH || holds_secret(secret, memory + 1000 - offset, LENGTH);
}

static sigjmp_buf out;
static volatile sig_atomic_t expected;
static void fault(int number)
{
    if (expected)
        siglongjmp(out, number);
    /* Not one that was asked for: the program dies of it when it is raised again. */
    signal(number, SIG_DFL);
}

/* What touching does: 0, or the signal it raises. */
static int reads(volatile unsigned char *at)
{
    int signal = sigsetjmp(out, 1);
    expected = 1;
    if (signal == 0)
        (void)*at;
    expected = 0;
    return signal;
}
static int writes(volatile unsigned char *at)
{
    int signal = sigsetjmp(out, 1);
    expected = 1;
    if (signal == 0)
        *at = *at;
    expected = 0;
    return signal;
}

/* Locked and concealed, ready to be worked on. */
static unsigned char *concealed(size_t size)
{
    unsigned char *memory = anonymous(size);
    fill(memory, size);
    SAY(mlock(memory, size));
    CHECK(intact(memory, 0, size));
    stage("secret", memory + 1000, LENGTH);
    return memory;
}

/* --- ways to lock --- */

static void way_mlock(void)
{
    unsigned char *memory = concealed(PAGES * P);
    SAY(mlock(memory, PAGES * P));
    SAY(mlock(memory + P, P));
    CHECK(intact(memory, 0, PAGES * P));
    memory[5] = 'x';
    CHECK(memory[5] == 'x');
}

static void way_mlock2(void)
{
    unsigned char *memory = anonymous(PAGES * P);
    fill(memory, PAGES * P);
    SAY(mlock2(memory, PAGES * P, 0));
    stage("secret", memory + 1000, LENGTH);
    CHECK(intact(memory, 0, PAGES * P));

    unsigned char *later = anonymous(PAGES * P);
    SAY(mlock2(later, PAGES * P, MLOCK_ONFAULT));
    fill(later, PAGES * P);
    stage("secret", later + 1000, LENGTH);
    CHECK(intact(later, 0, PAGES * P));
    SAY(mlock2(later, PAGES * P, 0x100));
}

static void way_syscall(void)
{
    unsigned char *memory = anonymous(PAGES * P);
    fill(memory, PAGES * P);
    SAY(syscall(SYS_mlock2, memory, PAGES * P, MLOCK_ONFAULT));
    stage("secret", memory + 1000, LENGTH);
    CHECK(intact(memory, 0, PAGES * P));
    SAY(syscall(SYS_munlock, memory, PAGES * P));
    CHECK(intact(memory, 0, PAGES * P));

    unsigned char *other = anonymous(PAGES * P);
    fill(other, PAGES * P);
    SAY(syscall(SYS_mlock, other, PAGES * P));
    stage("secret", other + 1000, LENGTH);
    CHECK(intact(other, 0, PAGES * P));
    SAY(syscall(SYS_mlock2, (void *)P, P, 0));
    SAY(syscall(-1));
    CHECK(syscall(SYS_getpid) == getpid());
}

static void way_map_locked(void)
{
    unsigned char *memory =
        mmap(NULL, PAGES * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
    CHECK(memory != MAP_FAILED);
    CHECK(all(memory, 0, PAGES * P));
    fill(memory, PAGES * P);
    stage("secret", memory + 1000, LENGTH);
    CHECK(intact(memory, 0, PAGES * P));
    SAY(munmap(memory, PAGES * P));
    CHECK(reads(memory) == SIGSEGV);
}

static void way_mlockall(void)
{
    /* What lies in the program break's heap; other mappings may be anything, a stack too. */
    unsigned char *before = malloc(3000);
    CHECK(before);
    fill(before, 3000);
    SAY(mlockall(MCL_CURRENT | MCL_FUTURE));
    stage("secret", before + 1000, LENGTH);
    unsigned char *after = anonymous(PAGES * P);
    fill(after, PAGES * P);
    stage("secret", after + 1000, LENGTH);
    unsigned char *big = malloc(300000), *small = malloc(2000);
    CHECK(big && small);
    fill(big, 300000);
    read_secret(secret, small, LENGTH);
    /* glibc's malloc takes these from the kernel behind everybody's back: secret in the heap
     * scope, locked in the other. */
    CHECK(intact(big, 0, 300000) && holds_secret(secret, small, LENGTH));
    free(big);
    free(small);
    SAY(munlockall());
    CHECK(intact(before, 0, 3000) && intact(after, 0, PAGES * P));
    free(before);
    SAY(munmap(after, PAGES * P));
    SAY(mlockall(0));
    SAY(mlockall(64));
}

static void way_unaligned(void)
{
    unsigned char *memory = anonymous(PAGES * P);
    fill(memory, PAGES * P);
    SAY(mlock(memory + 900, 300));
    stage("secret", memory + 1000, LENGTH);
    /* From the middle of the second page to the middle of the third. */
    SAY(mlock(memory + P + 2000, P));
    CHECK(intact(memory, 0, PAGES * P));
    SAY(munlock(memory + 10, 1));
    SAY(mlock(memory, 0));
    SAY(munlock(memory + PAGES * P - 1, 1));
    CHECK(intact(memory, 0, PAGES * P));
}

/* The buffer is glibc's: its neighbours go on living in the same pages. */
static void way_heap(void)
{
    enum { COUNT = 200 };
    unsigned char *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = malloc(500);
        CHECK(blocks[i]);
        memset(blocks[i], i, 500);
    }
    read_secret(secret, blocks[100], LENGTH);
    SAY(mlock(blocks[100], 500));
    stage("secret", blocks[100], LENGTH);
    CHECK(holds_secret(secret, blocks[100], LENGTH));
    for (int i = 0; i < COUNT; i++) {
        CHECK(i == 100 || all(blocks[i], (unsigned char)i, 500));
        blocks[i] = realloc(blocks[i], 700);
        CHECK(blocks[i]);
        CHECK(i == 100 || all(blocks[i], (unsigned char)i, 500));
    }
    for (int i = 0; i < COUNT; i++)
        free(blocks[i]);
    void *big = malloc(1 << 20);
    CHECK(big);
    memset(big, 1, 1 << 20);
    free(big);
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = calloc(1, 3000);
        CHECK(blocks[i] && all(blocks[i], 0, 3000));
    }
    for (int i = 0; i < COUNT; i++)
        free(blocks[i]);
    puts("the heap is sound");
}

static unsigned char in_data[3 * 4096] = {1, 2, 3};
static unsigned char in_bss[3 * 4096];
static int neighbour = 42;

static void way_static(void)
{
    read_secret(secret, in_data + 4096, LENGTH);
    SAY(mlock(in_data + 4096, LENGTH));
    stage("secret", in_data + 4096, LENGTH);
    CHECK(holds_secret(secret, in_data + 4096, LENGTH));
    CHECK(in_data[0] == 1 && in_data[2] == 3 && neighbour == 42);
    memset(in_data + 4096, 0, LENGTH);
    read_secret(secret, in_bss + 5000, LENGTH);
    SAY(mlock(in_bss, sizeof in_bss));
    stage("secret", in_bss + 5000, LENGTH);
    CHECK(holds_secret(secret, in_bss + 5000, LENGTH));
    neighbour++;
    CHECK(neighbour == 43);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        _exit(neighbour == 43 && holds_secret(secret, in_bss + 5000, LENGTH) ? 3 : 4);
    printf("child %d\n", reap(child));
}

/* A stack cannot become secret in place; the program must not notice. */
static int deep(int depth)
{
    volatile unsigned char frame[3000];
    memset((void *)frame, depth, sizeof frame);
    int below = depth ? deep(depth - 1) : 0;
    return below + all((void *)frame, (unsigned char)depth, sizeof frame);
}
static void *on_a_thread(void *unused)
{
    unsigned char buffer[LENGTH * 100];
    read_secret(secret, buffer, LENGTH);
    SAY(mlock(buffer, sizeof buffer));
    CHECK(deep(100) == 101);
    CHECK(holds_secret(secret, buffer, LENGTH));
    SAY(munlock(buffer, sizeof buffer));
    return unused;
}
static void way_stack(void)
{
    unsigned char buffer[LENGTH * 100];
    read_secret(secret, buffer, LENGTH);
    SAY(mlock(buffer, sizeof buffer));
    CHECK(deep(200) == 201);
    CHECK(holds_secret(secret, buffer, LENGTH));
    SAY(munlock(buffer, sizeof buffer));
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, on_a_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

/* Shared memory stays shared, code stays code, a file stays a file. */
static void way_others(void)
{
    unsigned char *shared = mmap(NULL, P, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    shared[0] = 1;
    SAY(mlock(shared, P));
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        shared[0] = 2;
        _exit(0);
    }
    CHECK(reap(child) == 0);
    printf("shared: %d\n", shared[0]);

    SAY(mlock((void *)((uintptr_t)way_others & ~(P - 1)), P));
    CHECK(deep(3) == 4);

    int fd = open("file", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && write(fd, "contents", 8) == 8);
    unsigned char *file = mmap(NULL, P, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(file != MAP_FAILED);
    SAY(mlock(file, P));
    memcpy(file, "CONT", 4);
    char back[9] = "";
    CHECK(pread(fd, back, 8, 0) == 8);
    printf("file: %s\n", back);

    unsigned char *readable = mmap(NULL, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(readable != MAP_FAILED);
    SAY(mlock(readable, P));
    CHECK(reads(readable) == 0 && writes(readable) == SIGSEGV);
}

static void way_wrong(void)
{
    unsigned char *memory = anonymous(PAGES * P);
    fill(memory, PAGES * P);
    SAY(munmap(memory + 2 * P, P));
    SAY(mlock(memory + 2 * P, P));
    SAY(mlock(memory, PAGES * P));
    CHECK(intact(memory, 0, 2 * P) && intact(memory + 3 * P, 3 * P, P));
    SAY(mlock((void *)-4096L, 8192));
    SAY(munlock(memory + 2 * P, P));
    SAY(munlock(memory, PAGES * P));
    CHECK(intact(memory, 0, 2 * P) && intact(memory + 3 * P, 3 * P, P));
}

/* --- what may be done afterwards --- */

static void after_munlock(void)
{
    unsigned char *memory = concealed(PAGES * P);
    SAY(munlock(memory, PAGES * P));
    CHECK(intact(memory, 0, PAGES * P));
    SAY(mlock(memory, PAGES * P));
    stage("secret", memory + 1000, LENGTH);
    SAY(munlock(memory + P, P));
    SAY(munlockall());
    CHECK(intact(memory, 0, PAGES * P));
}

static void after_munmap(void)
{
    unsigned char *memory = concealed(PAGES * P);
    SAY(munmap(memory, PAGES * P));
    for (int i = 0; i < PAGES; i++)
        printf("page %d: %d\n", i, reads(memory + (size_t)i * P));
    for (int gone = 0; gone < PAGES; gone++) {
        memory = concealed(PAGES * P);
        SAY(munmap(memory + (size_t)gone * P, P));
        for (size_t i = 0; i < PAGES; i++) {
            printf("page %zu without %d: %d\n", i, gone, reads(memory + i * P));
            if (i != (size_t)gone)
                CHECK(intact(memory + i * P, i * P, P));
        }
        SAY(munmap(memory, PAGES * P));
    }
    /* Over and over: what is unmapped is given back. */
    for (int i = 0; i < 300; i++) {
        memory = anonymous(64 * P);
        CHECK(mlock(memory, 64 * P) == 0);
        memory[0] = memory[63 * P] = 1;
        CHECK(munmap(memory, 64 * P) == 0);
    }
    puts("given back");
}

static void after_mmap_over(void)
{
    unsigned char *memory = concealed(PAGES * P);
    CHECK(mmap(memory + P, P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory + P);
    CHECK(all(memory + P, 0, P));
    CHECK(intact(memory, 0, P) && intact(memory + 2 * P, 2 * P, 2 * P));
    SAY(mlock(memory, PAGES * P));
    CHECK(all(memory + P, 0, P));
    CHECK(intact(memory, 0, P) && intact(memory + 2 * P, 2 * P, 2 * P));
}

static void after_mprotect(void)
{
    unsigned char *memory = concealed(PAGES * P);
    SAY(mprotect(memory, PAGES * P, PROT_NONE));
    printf("none: %d %d\n", reads(memory), writes(memory));
    SAY(mprotect(memory, PAGES * P, PROT_READ));
    printf("read: %d %d\n", reads(memory), writes(memory));
    CHECK(intact(memory, 0, PAGES * P));
    SAY(mprotect(memory, PAGES * P, PROT_READ | PROT_WRITE));
    printf("write: %d %d\n", reads(memory), writes(memory));
    stage("secret", memory + 1000, LENGTH);
    SAY(mprotect(memory + P, P, PROT_NONE));
    printf("part: %d %d %d %d\n", reads(memory), reads(memory + P), writes(memory + 2 * P), reads(memory + 3 * P));
    /* Locking what may not be touched and what may only be read. */
    SAY(mprotect(memory + P, P, PROT_READ));
    SAY(mlock(memory, PAGES * P));
    printf("locked again: %d %d\n", reads(memory + P), writes(memory + P));
    /* A child finds the same permissions. */
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        _exit(reads(memory + P) == 0 && writes(memory + P) == SIGSEGV && intact(memory, 0, PAGES * P) ? 3 : 4);
    printf("child %d\n", reap(child));
    SAY(mprotect(memory, PAGES * P, PROT_READ | PROT_WRITE));
    CHECK(intact(memory, 0, PAGES * P));
}

/* Read-only memory that is locked stays so, and becomes writable when the program says so. */
static void after_read_only(void)
{
    unsigned char *memory = anonymous(PAGES * P);
    fill(memory, PAGES * P);
    SAY(mprotect(memory, PAGES * P, PROT_READ));
    SAY(mlock(memory, PAGES * P));
    stage("secret", memory + 1000, LENGTH);
    printf("read: %d %d\n", reads(memory), writes(memory));
    CHECK(intact(memory, 0, PAGES * P));
    SAY(mprotect(memory, PAGES * P, PROT_READ | PROT_WRITE));
    printf("write: %d %d\n", reads(memory), writes(memory));
    CHECK(intact(memory, 0, PAGES * P));
}

/* What a child makes of it: 1 the secret, 2 zeros, 3 something else, 1011 a fault. */
static int child_sees(unsigned char *memory)
{
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
        _exit(holds_secret(secret, memory + 1000, LENGTH) ? 1 : all(memory, 0, P) ? 2 : 3);
    }
    return reap(child);
}

static void after_madvise_fork(void)
{
    unsigned char *memory = concealed(PAGES * P);
    printf("child: %d\n", child_sees(memory));
    SAY(madvise(memory, PAGES * P, MADV_WIPEONFORK));
    printf("child: %d\n", child_sees(memory));
    CHECK(intact(memory, 0, PAGES * P));
    SAY(madvise(memory, PAGES * P, MADV_KEEPONFORK));
    printf("child: %d\n", child_sees(memory));
    SAY(madvise(memory, PAGES * P, MADV_DONTFORK));
    printf("child: %d\n", child_sees(memory));
    CHECK(intact(memory, 0, PAGES * P));
    SAY(madvise(memory, PAGES * P, MADV_DOFORK));
    printf("child: %d\n", child_sees(memory));
    /* For a part of it. */
    SAY(madvise(memory + P, P, MADV_WIPEONFORK));
    printf("child: %d\n", child_sees(memory));
    SAY(madvise(memory, P, MADV_DONTFORK));
    printf("child: %d\n", child_sees(memory));
    CHECK(intact(memory, 0, PAGES * P));

    /* Said before it is locked, it holds afterwards. */
    unsigned char *early = anonymous(PAGES * P);
    fill(early, PAGES * P);
    SAY(madvise(early, PAGES * P, MADV_WIPEONFORK));
    SAY(mlock(early, PAGES * P));
    printf("child: %d\n", child_sees(early));
    unsigned char *none = anonymous(PAGES * P);
    fill(none, PAGES * P);
    SAY(madvise(none, PAGES * P, MADV_DONTFORK));
    SAY(mlock(none, PAGES * P));
    printf("child: %d\n", child_sees(none));
}

static void after_madvise_dump(void)
{
    unsigned char *memory = concealed(PAGES * P);
    SAY(madvise(memory, PAGES * P, MADV_DONTDUMP));
    stage("secret", memory + 1000, LENGTH);
    SAY(madvise(memory, PAGES * P, MADV_DODUMP));
    stage("secret", memory + 1000, LENGTH);
    CHECK(intact(memory, 0, PAGES * P));
    SAY(madvise(memory, PAGES * P, MADV_NORMAL));
    SAY(madvise(memory, PAGES * P, MADV_NOHUGEPAGE) == 0 || errno == EINVAL);
    SAY(madvise(memory, PAGES * P, 12345));
    CHECK(intact(memory, 0, PAGES * P));
}

static void after_madvise_need(void)
{
    unsigned char *memory = concealed(PAGES * P);
    /* Locked memory is refused and keeps what it has; memory that is secret for good
     * may be emptied. Nothing in between. */
    int advice[] = {MADV_DONTNEED, MADV_FREE};
    for (int i = 0; i < 2; i++) {
        if (madvise(memory, PAGES * P, advice[i]) == 0) {
            CHECK(all(memory, 0, PAGES * P));
            fill(memory, PAGES * P);
        } else {
            CHECK(errno == EINVAL);
        }
        CHECK(intact(memory, 0, PAGES * P));
    }
    SAY(madvise(memory + P, P, MADV_DONTNEED_LOCKED));
    CHECK(intact(memory, 0, P) && all(memory + P, 0, P) && intact(memory + 2 * P, 2 * P, 2 * P));
    SAY(munlock(memory, PAGES * P));
    SAY(madvise(memory + 2 * P, P, MADV_DONTNEED));
    CHECK(intact(memory, 0, P) && all(memory + P, 0, 2 * P) && intact(memory + 3 * P, 3 * P, P));
    SAY(madvise(memory, PAGES * P, MADV_DONTNEED));
    CHECK(all(memory, 0, PAGES * P));
    fill(memory, PAGES * P);
    SAY(mlock(memory, PAGES * P));
    CHECK(intact(memory, 0, PAGES * P));
    stage("secret", memory + 1000, LENGTH);
    SAY(munlock(memory, PAGES * P));
    SAY(madvise(memory, PAGES * P, MADV_FREE));
    fill(memory, PAGES * P);
    CHECK(intact(memory, 0, PAGES * P));
}

static void after_mremap(void)
{
    /* Shrink. */
    unsigned char *memory = concealed(PAGES * P), *to;
    CHECK(mremap(memory, PAGES * P, 2 * P, 0) == memory);
    CHECK(intact(memory, 0, 2 * P));
    printf("shrunk: %d %d\n", reads(memory + P), reads(memory + 2 * P));
    SAY(munmap(memory, 2 * P));

    /* Grow where there is room; mremap(2) need not use it. */
    memory = anonymous(2 * PAGES * P);
    SAY(munmap(memory + PAGES * P, PAGES * P));
    fill(memory, PAGES * P);
    SAY(mlock(memory, PAGES * P));
    to = mremap(memory, PAGES * P, 2 * PAGES * P, 0);
    if (to == MAP_FAILED) {
        CHECK(errno == ENOMEM);
        to = mremap(memory, PAGES * P, 2 * PAGES * P, MREMAP_MAYMOVE);
        CHECK(to != MAP_FAILED && reads(memory) == SIGSEGV);
        memory = to;
    }
    CHECK(to == memory);
    CHECK(intact(memory, 0, PAGES * P) && all(memory + PAGES * P, 0, PAGES * P));
    fill(memory, 2 * PAGES * P);
    CHECK(intact(memory, 0, 2 * PAGES * P));
    stage("secret", memory + 1000, LENGTH);
    memset(memory, 0, LENGTH + 1000);
    read_secret(secret, memory + 7 * P, LENGTH);
    stage("secret", memory + 7 * P, LENGTH);
    SAY(munmap(memory, 2 * PAGES * P));

    /* Grow where there is none. */
    memory = anonymous(2 * PAGES * P);
    fill(memory, PAGES * P);
    SAY(mlock(memory, PAGES * P));
    errno = 0;
    SAY(mremap(memory, PAGES * P, 3 * PAGES * P, 0) == MAP_FAILED ? -1 : 0);
    CHECK(intact(memory, 0, PAGES * P));
    to = mremap(memory, PAGES * P, 3 * PAGES * P, MREMAP_MAYMOVE);
    CHECK(to != MAP_FAILED && to != memory);
    CHECK(intact(to, 0, PAGES * P) && all(to + PAGES * P, 0, 2 * PAGES * P));
    printf("moved: %d\n", reads(memory));
    stage("secret", to + 1000, LENGTH);

    /* Grow again and again. */
    size_t size = 3 * PAGES * P;
    for (int i = 0; i < 5; i++) {
        unsigned char *next = mremap(to, size, size * 2, MREMAP_MAYMOVE);
        CHECK(next != MAP_FAILED);
        CHECK(intact(next, 0, PAGES * P) && all(next + PAGES * P, 0, size * 2 - PAGES * P));
        to = next;
        size *= 2;
    }
    SAY(munmap(to, size));

    /* To a given place, whole and in part. */
    memory = concealed(PAGES * P);
    to = anonymous(PAGES * P);
    CHECK(mremap(memory, PAGES * P, PAGES * P, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
    CHECK(intact(to, 0, PAGES * P));
    printf("fixed: %d\n", reads(memory));
    stage("secret", to + 1000, LENGTH);
    memory = anonymous(PAGES * P);
    CHECK(mremap(to, P, P, MREMAP_MAYMOVE | MREMAP_FIXED, memory + P) == memory + P);
    CHECK(intact(memory + P, 0, P) && intact(to + P, P, 3 * P));
    CHECK(all(memory, 0, P) && all(memory + 2 * P, 0, 2 * P));
    printf("part: %d\n", reads(to));
    stage("secret", memory + P + 1000, LENGTH);
    printf("child: %d\n", child_sees(memory + P));
}

/* More than may be locked is refused, and the program goes on. */
static void after_limit(void)
{
    unsigned char *memory = anonymous(6 << 20), *more = anonymous(4 << 20);
    fill(memory, 6 << 20);
    fill(more, 4 << 20);
    SAY(mlock(memory, 6 << 20));
    CHECK(intact(memory, 0, 6 << 20));
    SAY(mlock(more, 4 << 20));
    CHECK(intact(more, 0, 4 << 20));
    SAY(munmap(memory, 6 << 20));
    SAY(mlock(more, 4 << 20));
    CHECK(intact(more, 0, 4 << 20));
}

/* Others write to a page while it is being concealed: nothing is lost. */
enum { COUNTERS = 3, ROUNDS = 200 };
static unsigned long *volatile shared_page;
static int turn, finished;
static unsigned long counted[COUNTERS][ROUNDS];

static void *counting(void *number)
{
    uintptr_t me = (uintptr_t)number;
    int now = 0;
    while (!__atomic_load_n(&finished, __ATOMIC_ACQUIRE)) {
        int current = __atomic_load_n(&turn, __ATOMIC_ACQUIRE);
        if (current == 0)
            continue;
        now = current;
        unsigned long *page_now = shared_page;
        for (int i = 0; i < 100; i++) {
            __atomic_fetch_add(&page_now[me * 50], 1, __ATOMIC_RELAXED);
            counted[me][now - 1]++;
        }
        while (__atomic_load_n(&turn, __ATOMIC_ACQUIRE) == now && now == current) {
            __atomic_fetch_add(&page_now[me * 50], 1, __ATOMIC_RELAXED);
            counted[me][now - 1]++;
        }
    }
    return NULL;
}

static void way_busy(void)
{
    pthread_t threads[COUNTERS];
    unsigned long *pages[ROUNDS];
    for (uintptr_t i = 0; i < COUNTERS; i++)
        CHECK(pthread_create(&threads[i], NULL, counting, (void *)i) == 0);
    for (int round = 0; round < ROUNDS; round++) {
        pages[round] = (unsigned long *)anonymous(P);
        shared_page = pages[round];
        __atomic_store_n(&turn, round + 1, __ATOMIC_RELEASE);
        /* Until all are at it. */
        for (uintptr_t i = 0; i < COUNTERS; i++)
            while (__atomic_load_n(&pages[round][i * 50], __ATOMIC_RELAXED) < 100)
                sched_yield();
        CHECK(mlock(pages[round], P) == 0);
    }
    __atomic_store_n(&turn, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&finished, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < COUNTERS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    int lost = 0;
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < COUNTERS; i++)
            lost += pages[round][i * 50] != counted[i][round];
    printf("lost counts: %d\n", lost);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {
        {"mlock", way_mlock},           {"mlock2", way_mlock2},
        {"syscall", way_syscall},       {"map-locked", way_map_locked},
        {"mlockall", way_mlockall},     {"unaligned", way_unaligned},
        {"heap", way_heap},             {"static", way_static},
        {"stack", way_stack},           {"others", way_others},
        {"wrong", way_wrong},           {"munlock", after_munlock},
        {"munmap", after_munmap},       {"mmap-over", after_mmap_over},
        {"mprotect", after_mprotect},   {"read-only", after_read_only},
        {"madvise-fork", after_madvise_fork}, {"madvise-dump", after_madvise_dump},
        {"madvise-need", after_madvise_need}, {"mremap", after_mremap},
        {"limit", after_limit},         {"busy", way_busy},
    };
    CHECK(argc == 3);
    secret = argv[2];
    P = page();
    struct sigaction action = {.sa_handler = fault};
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0 && sigaction(SIGBUS, &action, NULL) == 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (strcmp(cases[i].name, argv[1]) == 0) {
            cases[i].run();
            fflush(stdout);
            return 0;
        }
    return 91;
}
