/* Breaks a heap in the way that is named. */
#include "check.h"

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    unsigned char *block = strongroom_malloc(100), *large = strongroom_malloc(100000);
    static unsigned char foreign[100];
    CHECK(block && large);
    if (strcmp(argv[1], "twice") == 0) {
        strongroom_free(block);
        strongroom_free(block);
    } else if (strcmp(argv[1], "large-twice") == 0) {
        strongroom_free(large);
        strongroom_free(large);
    } else if (strcmp(argv[1], "inside") == 0)
        strongroom_free(block + 16);
    else if (strcmp(argv[1], "foreign") == 0)
        strongroom_free(foreign);
    else if (strcmp(argv[1], "foreign-size") == 0)
        strongroom_usable_size(foreign);
    else if (strcmp(argv[1], "foreign-realloc") == 0)
        strongroom_realloc(foreign, 200);
    else {
        strongroom_free(block);
        strongroom_free(large);
    }
    puts("survived");
    return 0;
}
