// What the benchmark programs share.
#pragma once
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

// The compiler must believe that the memory is looked at here.
static inline void escape(void *p) { __asm__ volatile("" : : "r"(p) : "memory"); }

// xorshift64: Marsaglia, "Xorshift RNGs", 2003.
static inline uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double median(double *values, size_t count) {
    qsort(values, count, sizeof *values, ascending);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static inline void *checked(void *p, const char *what) {
    if (p == NULL || p == (void *)-1) {
        perror(what);
        exit(1);
    }
    return p;
}

static inline long argument(int argc, char **argv, int at, const char *name) {
    if (at >= argc) {
        fprintf(stderr, "missing argument: %s\n", name);
        exit(2);
    }
    return strtol(argv[at], NULL, 10);
}
