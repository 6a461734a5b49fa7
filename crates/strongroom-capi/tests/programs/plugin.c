/* Opens the library at run time, as interpreters do, and closes it while it is in use. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static void *(*allocate)(size_t);

static void *use(void *unused)
{
    char *block = allocate(100);
    (void)unused;
    if (block != NULL)
        strcpy(block, "a cache of this thread's is given back when it ends");
    return block;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    void *block;
    int status;
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (library == NULL) {
        puts(dlerror());
        return 1;
    }
    *(void **)&allocate = dlsym(library, "strongroom_malloc");
    if (allocate == NULL || dlclose(library) != 0)
        return 2;
    if (pthread_create(&thread, NULL, use, NULL) != 0 || pthread_join(thread, &block) != 0)
        return 3;
    if (block == NULL || strncmp(block, "a cache", 7) != 0)
        return 4;
    pid_t child = fork();
    if (child == 0)
        _exit(strncmp(block, "a cache", 7) == 0 ? 0 : 1);
    if (waitpid(child, &status, 0) != child || status != 0)
        return 5;
    puts("still there");
    return 0;
}
