/* What a child sees of its parent's memory, and the parent of its child's.
 * Usage: fork CASE heap|locked SECRET */
#include "common.h"

#include <dirent.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <spawn.h>
#include <sys/time.h>

#define LENGTH 64
#define BUFFER 10000

extern char **environ;
static const char *kind, *secret;
static unsigned char *buffer;

static void *obtain(size_t size)
{
    void *memory;
    if (strcmp(kind, "heap") == 0) {
        memory = malloc(size);
        CHECK(memory);
    } else {
        size_t whole = (size + page() - 1) & ~(page() - 1);
        memory = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(memory != MAP_FAILED);
        CHECK(mlock(memory, whole) == 0);
    }
    return memory;
}

static pid_t checked_fork(void)
{
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    return child;
}

static int holds(void)
{
    return holds_secret(secret, buffer, LENGTH);
}

/* Neither sees the other's later writes. */
static void snapshot(void)
{
    int to_child[2], to_parent[2];
    char c = 'x';
    CHECK(pipe(to_child) == 0 && pipe(to_parent) == 0);
    pid_t child = checked_fork();
    if (child == 0) {
        CHECK(read(to_child[0], &c, 1) == 1);
        CHECK(holds());
        CHECK(all(buffer + LENGTH, 'P', BUFFER - LENGTH));
        stage("child", buffer, LENGTH);
        memset(buffer, 'C', BUFFER);
        CHECK(write(to_parent[1], &c, 1) == 1);
        CHECK(read(to_child[0], &c, 1) == 1);
        CHECK(all(buffer, 'C', BUFFER));
        puts("the child saw its own");
        fflush(stdout);
        _exit(3);
    }
    memset(buffer, 'N', BUFFER);
    CHECK(write(to_child[1], &c, 1) == 1);
    CHECK(read(to_parent[0], &c, 1) == 1);
    CHECK(all(buffer, 'N', BUFFER));
    read_secret(secret, buffer + 5000, LENGTH);
    stage("parent", buffer + 5000, LENGTH);
    CHECK(write(to_child[1], &c, 1) == 1);
    printf("the child ended with %d\n", reap(child));
    CHECK(all(buffer, 'N', 5000));
}

/* In the background nothing is lost. */
static void background(void)
{
    CHECK(daemon(1, 1) == 0);
    CHECK(holds());
    stage("daemon", buffer, LENGTH);
    free(malloc(100000));
    CHECK(holds());
    puts("the daemon has it");
}

static void nested(int depth)
{
    if (depth == 5) {
        CHECK(holds());
        stage("deepest", buffer, LENGTH);
        return;
    }
    buffer[LENGTH + depth] = (unsigned char)depth;
    pid_t child = checked_fork();
    if (child == 0) {
        for (int i = 0; i <= depth; i++)
            CHECK(buffer[LENGTH + i] == i);
        CHECK(holds());
        nested(depth + 1);
        memset(buffer, 'x', BUFFER);
        _exit(depth);
    }
    CHECK(reap(child) == depth);
    CHECK(holds());
    CHECK(buffer[LENGTH + depth] == depth);
    CHECK(buffer[LENGTH + depth + 1] == 'P');
    if (depth == 0)
        puts("five deep");
}

static void descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory);
    int count = 0;
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        char path[300], target[300] = "";
        if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(directory))
            continue;
        snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
        ssize_t got = readlink(path, target, sizeof target - 1);
        CHECK(got > 0 && strstr(target, "secretmem") == NULL);
        count++;
    }
    closedir(directory);
    CHECK(count >= 3);
}

static void fork_exec(void)
{
    pid_t child = checked_fork();
    if (child == 0) {
        execl("/proc/self/exe", "fork", "execed", kind, secret, (char *)NULL);
        _exit(98);
    }
    printf("the program ended with %d\n", reap(child));
    CHECK(holds());
}

static void execed(void)
{
    descriptors();
    stage("execed", buffer, LENGTH);
    puts("another program has its own");
    fflush(stdout);
    _exit(4);
}

static int stop;

static void *busy(void *number)
{
    unsigned seed = (unsigned)(uintptr_t)number;
    unsigned char *blocks[64] = {0};
    size_t sizes[64] = {0};
    unsigned long rounds = 0;
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        unsigned i = (unsigned)rand_r(&seed) % 64;
        if (blocks[i]) {
            CHECK(all(blocks[i], (unsigned char)i, sizes[i]));
            free(blocks[i]);
        }
        sizes[i] = (unsigned)rand_r(&seed) % 2000;
        blocks[i] = malloc(sizes[i]);
        CHECK(blocks[i]);
        memset(blocks[i], (int)i, sizes[i]);
        rounds++;
    }
    for (int i = 0; i < 64; i++)
        free(blocks[i]);
    return (void *)(uintptr_t)(rounds > 0);
}

static void allocate_and_print(void)
{
    void *blocks[500];
    for (int i = 0; i < 500; i++) {
        blocks[i] = malloc((size_t)i * 10);
        CHECK(blocks[i]);
        memset(blocks[i], i, (size_t)i * 10);
    }
    char text[100];
    snprintf(text, sizeof text, "%s %d %f", "text", 42, 0.5);
    CHECK(strcmp(text, "text 42 0.500000") == 0);
    for (int i = 0; i < 500; i++) {
        CHECK(all(blocks[i], (unsigned char)i, (size_t)i * 10));
        free(blocks[i]);
    }
}

static void threads(void)
{
    pthread_t busy_ones[4];
    for (uintptr_t i = 0; i < 4; i++)
        CHECK(pthread_create(&busy_ones[i], NULL, busy, (void *)(i + 1)) == 0);
    for (int i = 0; i < 20; i++) {
        pid_t child = checked_fork();
        if (child == 0) {
            CHECK(holds());
            allocate_and_print();
            printf("child %d\n", i);
            fflush(stdout);
            _exit(i);
        }
        CHECK(reap(child) == i);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 4; i++) {
        void *worked;
        CHECK(pthread_join(busy_ones[i], &worked) == 0 && worked);
    }
    CHECK(holds());
}

static void *fork_here(void *unused)
{
    pid_t child = checked_fork();
    if (child == 0) {
        CHECK(holds());
        allocate_and_print();
        pthread_t thread;
        stop = 1;
        CHECK(pthread_create(&thread, NULL, busy, (void *)1) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
        _exit(6);
    }
    printf("the child ended with %d\n", reap(child));
    return unused;
}

/* The child is the thread that forked. */
static void from_a_thread(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, fork_here, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

/* Ways to start a program that need no copy. */
static void spawns(void)
{
    pid_t child = vfork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", "exit 5", (char *)NULL);
        _exit(97);
    }
    CHECK(child > 0);
    printf("vfork %d\n", reap(child));

    char *arguments[] = {"sh", "-c", "exit 6", NULL};
    CHECK(posix_spawn(&child, "/bin/sh", NULL, NULL, arguments, environ) == 0);
    printf("posix_spawn %d\n", reap(child));
    CHECK(posix_spawnp(&child, "sh", NULL, NULL, arguments, environ) == 0);
    printf("posix_spawnp %d\n", reap(child));

    int status = system("exit 7");
    printf("system %d\n", WEXITSTATUS(status));

    FILE *pipe = popen("echo eight", "r");
    CHECK(pipe);
    char line[20];
    CHECK(fgets(line, sizeof line, pipe));
    printf("popen %s", line);
    printf("pclose %d\n", pclose(pipe));
    CHECK(holds());
}

static void bare(void)
{
    fflush(stdout);
    pid_t child = _Fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(holds());
        memset(buffer, 'C', BUFFER);
        _exit(8);
    }
    printf("_Fork %d\n", reap(child));
    CHECK(holds());
}

static void terminal(void)
{
    int terminal_fd;
    fflush(stdout);
    pid_t child = forkpty(&terminal_fd, NULL, NULL, NULL);
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(holds());
        memset(buffer, 'C', BUFFER);
        _exit(9);
    }
    printf("forkpty %d\n", reap(child));
    CHECK(holds());
}

static int prepared, in_parent, in_child;
static void prepare(void) { prepared += holds(); free(malloc(50)); }
static void after_in_parent(void) { in_parent += holds(); free(malloc(50)); }
static void after_in_child(void) { in_child += holds(); free(malloc(50)); }

static void handlers(void)
{
    CHECK(pthread_atfork(prepare, after_in_parent, after_in_child) == 0);
    pid_t child = checked_fork();
    if (child == 0)
        _exit(prepared == 1 && in_child == 1 && in_parent == 0 ? 10 : 96);
    printf("atfork %d %d %d %d\n", prepared, in_parent, in_child, reap(child));
}

static volatile sig_atomic_t seen, torn;

static void look(int signal)
{
    (void)signal;
    seen++;
    for (int i = LENGTH; i < BUFFER; i += 100)
        if (buffer[i] != 'P')
            torn++;
}

/* A handler that runs in the middle of fork finds its memory. */
static void signals(void)
{
    struct sigaction action = {.sa_handler = look, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    struct itimerval often = {{0, 300}, {0, 300}}, never = {{0, 0}, {0, 0}};
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    for (int i = 0; i < 100; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            raise(SIGALRM);
            CHECK(torn == 0 && holds());
            _exit(11);
        }
        CHECK(reap(child) == 11);
    }
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    raise(SIGALRM);
    CHECK(seen > 0 && torn == 0);
    CHECK(holds());
    puts("undisturbed");
}

static long mappings(void)
{
    char piece[4096];
    long lines = 0;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    ssize_t got;
    while ((got = read(fd, piece, sizeof piece)) > 0)
        for (ssize_t i = 0; i < got; i++)
            lines += piece[i] == '\n';
    close(fd);
    return lines;
}

static long status(const char *field)
{
    char text[8192];
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    ssize_t got = read(fd, text, sizeof text - 1);
    CHECK(got > 0);
    text[got] = 0;
    close(fd);
    char *at = strstr(text, field);
    CHECK(at);
    return strtol(at + strlen(field), NULL, 10);
}

/* Two hundred forks leave nothing behind, in the parent and down a line of children. */
static void many(void)
{
    long before_maps = 0, before_rss = 0, before_locked = 0;
    for (int i = 0; i < 220; i++) {
        if (i == 20) {
            before_maps = mappings();
            before_rss = status("VmRSS:");
            before_locked = status("VmLck:");
        }
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            CHECK(holds());
            free(malloc(5000));
            _exit(12);
        }
        CHECK(reap(child) == 12);
    }
    long maps = mappings() - before_maps, rss = status("VmRSS:") - before_rss,
         locked = status("VmLck:") - before_locked;
    if (maps > 4 || rss > 1024 || locked > 256) {
        dprintf(2, "grown by %ld mappings, %ld KiB resident, %ld KiB locked\n", maps, rss, locked);
        _exit(95);
    }
    before_maps = mappings();
    before_rss = status("VmRSS:");
    for (int i = 0; i < 30; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child != 0)
            _exit(reap(child));
        CHECK(holds());
    }
    maps = mappings() - before_maps;
    rss = status("VmRSS:") - before_rss;
    if (maps > 8 || rss > 2048) {
        dprintf(2, "thirty deep: grown by %ld mappings, %ld KiB resident\n", maps, rss);
        _exit(94);
    }
    puts("nothing left behind");
}

/* Much memory, in blocks of every size, all of it the child's own. */
static void large(void)
{
    enum { BLOCKS = 300 };
    unsigned char *blocks[BLOCKS];
    size_t sizes[BLOCKS], total = 0;
    for (int i = 0; i < BLOCKS; i++) {
        sizes[i] = 1000 + (size_t)i * 373;
        total += sizes[i];
        blocks[i] = obtain(sizes[i]);
        memset(blocks[i], i, sizes[i]);
    }
    pid_t child = checked_fork();
    for (int i = 0; i < BLOCKS; i++) {
        CHECK(all(blocks[i], (unsigned char)i, sizes[i]));
        memset(blocks[i], child == 0 ? 1 : 2, sizes[i]);
    }
    for (int i = 0; i < BLOCKS; i++)
        CHECK(all(blocks[i], child == 0 ? 1 : 2, sizes[i]));
    if (child == 0)
        _exit(13);
    printf("%zu bytes: %d\n", total, reap(child));
    for (int i = 0; i < BLOCKS; i++)
        CHECK(all(blocks[i], 2, sizes[i]));
}

/* --fork drop: the child's memory is zero, and works. */
static void dropped(void)
{
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        int zero = all(buffer, 0, BUFFER);
        memset(buffer, 'C', BUFFER);
        _exit(zero && all(buffer, 'C', BUFFER) ? 14 : 93);
    }
    printf("the child ended with %d\n", reap(child));
    CHECK(holds());
}

/* --fork deny: no child. */
static void denied(void)
{
    errno = 0;
    pid_t child = fork();
    if (child == 0)
        _exit(92);
    printf("fork %d, %s\n", (int)child, strerror(errno));
    CHECK(holds());
    void *more = malloc(1000);
    CHECK(more);
    free(more);
    printf("system %d\n", WEXITSTATUS(system("exit 15")));
}

enum { OTHERS = 3, GIVEN = 600000, IDLERS = 4 };

/* Takes a processor's time, so that others are stopped in the middle of what they do. */
static void *idling(void *unused)
{
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
        continue;
    return unused;
}

static void *giving_up(void *number)
{
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        unsigned char *block = malloc(GIVEN);
        CHECK(block);
        memset(block, (int)(uintptr_t)number, GIVEN);
        free(block);
    }
    return NULL;
}

/* Other threads are giving up large blocks when the fork comes: what the child gets of
 * them is zero. */
static void given_up(void)
{
    pthread_t others[OTHERS], idlers[IDLERS];
    for (int i = 0; i < IDLERS; i++)
        CHECK(pthread_create(&idlers[i], NULL, idling, NULL) == 0);
    for (uintptr_t i = 0; i < OTHERS; i++)
        CHECK(pthread_create(&others[i], NULL, giving_up, (void *)(i + 1)) == 0);
    for (int i = 0; i < 40; i++) {
        /* The last fork made the others wait: let them get on. */
        usleep(10000);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            unsigned char *block;
            for (int k = 0; k < OTHERS && (block = calloc(1, GIVEN)) != NULL; k++)
                CHECK(all(block, 0, GIVEN));
            _exit(16);
        }
        CHECK(reap(child) == 16);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < OTHERS; i++)
        CHECK(pthread_join(others[i], NULL) == 0);
    for (int i = 0; i < IDLERS; i++)
        CHECK(pthread_join(idlers[i], NULL) == 0);
    puts("zero");
}

static void nested_from_0(void) { nested(0); }

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {
        {"snapshot", snapshot}, {"daemon", background},  {"nested", nested_from_0},
        {"exec", fork_exec},    {"execed", execed},      {"threads", threads},
        {"thread", from_a_thread}, {"spawns", spawns},   {"bare", bare},
        {"terminal", terminal}, {"handlers", handlers},  {"signals", signals},
        {"many", many},         {"large", large},        {"dropped", dropped},
        {"denied", denied},     {"given-up", given_up},
    };
    CHECK(argc == 4);
    kind = argv[2];
    secret = argv[3];
    buffer = obtain(BUFFER);
    memset(buffer, 'P', BUFFER);
    read_secret(secret, buffer, LENGTH);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (strcmp(cases[i].name, argv[1]) == 0) {
            cases[i].run();
            fflush(stdout);
            return 0;
        }
    return 91;
}
