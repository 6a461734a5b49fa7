/* Breaks a heap in the way that is named. */
#include "check.h"

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    unsigned char *block = sr_malloc(100), *large = sr_malloc(100000);
    static unsigned char foreign[100];
    CHECK(block && large);
    if (strcmp(argv[1], "twice") == 0) {
        sr_free(block);
        sr_free(block);
    } else if (strcmp(argv[1], "large-twice") == 0) {
        sr_free(large);
        sr_free(large);
    } else if (strcmp(argv[1], "inside") == 0)
        sr_free(block + 16);
    else if (strcmp(argv[1], "foreign") == 0)
        sr_free(foreign);
    else if (strcmp(argv[1], "foreign-size") == 0)
        sr_usable_size(foreign);
    else if (strcmp(argv[1], "foreign-realloc") == 0)
        sr_realloc(foreign, 200);
    else {
        sr_free(block);
        sr_free(large);
    }
    puts("survived");
    return 0;
}
