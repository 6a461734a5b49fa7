/* Holds a secret on its heap until it is told to go on. Usage: heap_secret SECRET */
#include "common.h"

#define LENGTH 64

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    unsigned char *block = malloc(LENGTH);
    CHECK(block);
    read_secret(argv[1], block, LENGTH);
    stage("ready", block, LENGTH);
    CHECK(holds_secret(argv[1], block, LENGTH));
    return 0;
}
