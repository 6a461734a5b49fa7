/* Says what the process has, before the library is used and after; without USE it is not even linked. */
#ifdef USE
#include <strongroom.h>
#endif
#include <stdio.h>
#include <string.h>

static void say(const char *when)
{
    static const char *const fields[] = {"Threads:", "SigCgt:", "SigIgn:", "SigBlk:", "VmLck:"};
    static char line[4096];
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        for (int i = 0; i < 5; i++)
            if (strncmp(line, fields[i], strlen(fields[i])) == 0)
                printf("%s %s", when, line);
    fclose(file);
    /* Memory of the program's own: writable, of no file. */
    int own = 0;
    file = fopen("/proc/self/maps", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        char access[8] = "", name[256] = "";
        sscanf(line, "%*s %7s %*s %*s %*s %255s", access, name);
        if (access[1] == 'w' && name[0] == '/' && strstr(name, "secretmem") == NULL)
            continue;
        own += access[1] == 'w' && name[0] != '[';
    }
    fclose(file);
    printf("%s mappings %d\n", when, own);
}

int main(void)
{
    say("before");
#ifdef USE
    if (strongroom_abi() != SR_ABI)
        return 1;
    strongroom_last_error();
    say("asked");
    if (strongroom_malloc(100) == NULL)
        return 2;
    say("used");
#endif
    return 0;
}
