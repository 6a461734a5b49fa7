/*
 * strongroom.h - secret memory for Linux
 *
 * SYNOPSIS
 *     #include <strongroom.h>
 *     cc program.c $(pkg-config --cflags --libs strongroom)
 *
 *     strongroom_policy policy = SR_PREFER(SR_HIDDEN);
 *     if (strongroom_start(&policy) != SR_OK) { strongroom_error_message(text, sizeof text); ... }
 *     unsigned char *key = strongroom_malloc(32);
 *     ...
 *     strongroom_free(key);
 *
 * DESCRIPTION
 *     Say what the memory is; a keeper decides how it is kept. The library keeps memory out of the
 *     reach of other processes, swap, core dumps and, at the level SR_HIDDEN, of root's ordinary ways
 *     and of the kernel's own direct map. What it protects from and what not is in the project's
 *     threat model. Sizes are in bytes.
 *
 * ERRORS
 *     A function that returns int returns SR_OK, which is 0, or one of the SR_E_ codes. One that
 *     returns a pointer returns NULL where it fails. Either way strongroom_last_error() is the code and
 *     strongroom_error_message() the text, with cause and fix, of the thread's last failure, and errno is set
 *     as malloc(3) and mlock(2) would: EINVAL for a bad argument, EPERM, EBUSY, otherwise ENOMEM.
 *     A function that failed has changed nothing, but where its description says so.
 *
 *     What breaks a heap (a second strongroom_free, a pointer that no heap handed out) ends the process with a
 *     message on standard error: going on would hand memory to two owners.
 *
 * THREADS
 *     Every function may be called from any thread at any time; what a function frees, resizes, wipes
 *     or conceals must be in no other thread's use meanwhile. None may be called from a signal handler.
 *
 * PROCESS
 *     A program that is linked with the library and calls nothing has nothing of it: no thread, no
 *     signal handler, no memory. From the first region, heap or strongroom_conceal on, forks are followed
 *     (pthread_atfork(3)); during a fork, and then only, SIGSYS is taken in the forking thread.
 *     The library allocates by the program's malloc, and no secret that way. It cannot be unloaded.
 *
 * This header is C99 and C++.
 */
#ifndef STRONGROOM_H
#define STRONGROOM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Version ----------------------------------------------------------------------------- */

#define SR_VERSION "0.1.0"

/* The interface's number, as in libstrongroom.so.0. */
#define SR_ABI 0

/* SR_VERSION of the library that runs. It is never freed. */
const char *strongroom_version(void);

/* SR_ABI of the library that runs. */
uint32_t strongroom_abi(void);

/* ---- Errors ------------------------------------------------------------------------------ */

enum {
    SR_OK = 0,
    SR_E_ARGUMENT = 1,              /* a NULL, a size, a constant or a policy that makes no sense */
    SR_E_STARTED = 2,               /* the process-wide heap runs already, under another policy */
    SR_E_UNMAPPED = 3,              /* strongroom_conceal: part of the range is not mapped */
    SR_E_NOT_CONCEALABLE = 4,       /* strongroom_conceal: stacks, shared and executable mappings */
    SR_E_OUT_OF_MEMORY = 5,         /* the machine or the control group has none left */
    SR_E_LOCK_LIMIT = 6,            /* RLIMIT_MEMLOCK leaves too little */
    SR_E_TOO_MANY_FILES = 7,        /* no descriptor is free */
    SR_E_TOO_MANY_MAPPINGS = 8,     /* vm.max_map_count is reached */
    SR_E_RESERVATION_FULL = 9,      /* the heap's range of addresses is used up */
    SR_E_NO_SECRET_MEMORY = 10,     /* the kernel has no memfd_secret */
    SR_E_NOT_PERMITTED = 11,        /* memfd_secret is forbidden, as by a seccomp filter */
    SR_E_KEEPER_LACKS = 12,         /* no keeper here offers it */
    SR_E_NOT_ARRANGED = 13,         /* nothing in this version offers it */
    SR_E_NO_DRIVER = 14,            /* it takes the kernel driver, which is not loaded */
    SR_E_DRIVER_NOT_PERMITTED = 15, /* /dev/strongroom may not be opened */
    SR_E_DRIVER_DIFFERS = 16,       /* the driver that is loaded is of another version */
    SR_E_DRIVER_EXPOSED = 17,       /* /dev/mem would show the driver's memory */
    SR_E_POOL_FULL = 18,            /* the driver's pool is full */
    SR_E_POOL_LIMIT = 19,           /* the driver gives this user no more */
    SR_E_KERNEL = 20,               /* another answer of the kernel: see the text */
    SR_E_OTHER = 21                 /* another reason: see the text */
};

/* The code of this thread's last failure, or SR_OK. What succeeds leaves it. */
int strongroom_last_error(void);

/*
 * Writes the text of this thread's last failure into the buffer, as snprintf(3) would: at most len
 * bytes with the terminating zero. Returns the length of the whole text without the zero; 0 where
 * nothing failed yet. The buffer may be NULL.
 */
size_t strongroom_error_message(char *buffer, size_t len);

/* A code's word, such as "lock-limit", or NULL for what is no code. It is never freed. */
const char *strongroom_error_name(int code);

/* ---- Protections and levels -------------------------------------------------------------- */

/* What an adversary cannot do. A set of them is a uint32_t. */
enum {
    SR_NO_SWAP = 1 << 0,          /* find it on a swap device */
    SR_NO_CORE_DUMP = 1 << 1,     /* find it in a core dump */
    SR_NO_FORK_SHARE = 1 << 2,    /* as a child, see what is written later */
    SR_NO_FD_SPILL = 1 << 3,      /* reach it by a descriptor */
    SR_WIPED_ON_FREE = 1 << 4,    /* find it in memory that was freed */
    SR_NO_PEEK = 1 << 5,          /* read it by ptrace, /proc/PID/mem or process_vm_readv */
    SR_NO_PIN = 1 << 6,           /* have a device or another process pin its pages */
    SR_NO_DIRECT_MAP = 1 << 7,    /* read it through the kernel's direct map */
    SR_NO_INJECT = 1 << 8,        /* attach and make the owner hand it over */
    SR_BOUNDED = 1 << 9,          /* read or write past either end unnoticed */
    SR_CLOSED_WHEN_IDLE = 1 << 10, /* read it between uses, as its owner */
    SR_SHIELDED = 1 << 11,        /* read it in clear between uses */
    SR_UNCACHED = 1 << 12,        /* find it in the processor's caches */
    SR_NO_VMM = 1 << 13           /* read it as the program that runs the guest */
};

/* Named sets of protections; each has all of the one before. */
enum {
    SR_LOCKED = 1, /* never swapped, dumped, shared with a child or left behind */
    SR_HIDDEN = 2, /* and out of the direct map, unreadable and unpinnable from outside */
    SR_CLOSED = 3  /* the most there could be; no keeper of this version has all of it */
};

/* The protections that a level stands for; 0 for what is no level. */
uint32_t strongroom_level_protections(uint32_t level);

/* The highest level whose protections are all in the set; 0 for none. */
uint32_t strongroom_level_reached(uint32_t held);

/* The name of the one protection in a set, such as "NoSwap"; NULL for any other set. Never freed. */
const char *strongroom_protection_name(uint32_t protection);

/* ---- Policies ---------------------------------------------------------------------------- */

/* What a child made by fork(2) sees of the memory. posix_spawn(3) and exec(2) give it none. */
enum {
    SR_FORK_COPY = 1, /* a snapshot of its own, at the same addresses */
    SR_FORK_DROP = 2, /* zeros */
    SR_FORK_DENY = 3  /* there is none: fork fails with EPERM while such memory is there */
};

/*
 * What is required and what is preferred. Zeros are no policy: begin with one of the two below.
 * besides is a set of protections that are required whatever the level has: SR_UNCACHED for memory
 * that no processor caches, which the kernel driver alone has.
 */
typedef struct strongroom_policy {
    uint32_t size;      /* sizeof(strongroom_policy) */
    uint32_t required;  /* a level: the least that is acceptable */
    uint32_t preferred; /* a level, not below it: what is tried first */
    uint32_t fork;      /* SR_FORK_ */
    uint32_t besides;   /* a set of protections, or 0 */
} strongroom_policy;

/* Exactly this level or an error; children see zeros. strongroom_policy policy = SR_REQUIRE(SR_HIDDEN); */
#define SR_REQUIRE(level) {sizeof(strongroom_policy), (level), (level), SR_FORK_DROP, 0}

/* This level where it can be had, and SR_LOCKED at least; children see zeros. */
#define SR_PREFER(level) {sizeof(strongroom_policy), SR_LOCKED, (level), SR_FORK_DROP, 0}

/*
 * Whether the machine gives memory under the policy: SR_OK, or why not. The protections that it would
 * be held under go to *held, unless that is NULL. A page of memory is tried, and none is kept. A limit
 * can still refuse memory later.
 */
int strongroom_policy_check(const strongroom_policy *policy, uint32_t *held);

/* ---- Regions ----------------------------------------------------------------------------- */

/* Whole pages of secret memory, with a guard page on either side. */
typedef struct strongroom_region strongroom_region;

/*
 * A region of len bytes, rounded up to whole pages, zero at first. NULL where it cannot be had, or
 * len is 0.
 */
strongroom_region *strongroom_region_new(const strongroom_policy *policy, size_t len);

/*
 * The same in pages of 2 MiB, to which it is rounded up and aligned. The kernel driver alone has them:
 * NULL with SR_E_NO_DRIVER where it is not loaded.
 */
strongroom_region *strongroom_region_new_huge(const strongroom_policy *policy, size_t len);

/* Where the memory starts, and how long it is. NULL and 0, and SR_E_ARGUMENT, for NULL. */
void *strongroom_region_address(const strongroom_region *region);
size_t strongroom_region_length(const strongroom_region *region);

/* The protections that the region is held under. 0, and SR_E_ARGUMENT, for NULL. */
uint32_t strongroom_region_held(const strongroom_region *region);

/*
 * Writes the region's receipt into the buffer, one line of JSON, as snprintf(3) would: at most len
 * bytes with the terminating zero. Returns the length of all of it without the zero; 0, and
 * SR_E_ARGUMENT, for NULL. The buffer may be NULL. The fields: schema (1), keeper, kept (bytes by
 * keeper), asked, held, missing (each with reason, cause and fix), level (or null), bytes, chunks.
 */
size_t strongroom_region_receipt(const strongroom_region *region, char *buffer, size_t len);

/*
 * Wipes the region and unmaps it. Nothing for NULL. errno stays. Neither the handle nor the memory may
 * be used afterwards; that is not checked.
 */
void strongroom_region_free(strongroom_region *region);

/* ---- The process-wide heap --------------------------------------------------------------- */

/*
 * Starts it under a policy. Without this call the first allocation starts it: it prefers SR_HIDDEN,
 * requires SR_LOCKED, and children have a copy. SR_E_STARTED where it runs under another policy; the
 * same one again is SR_OK. Where starting failed, each later use of this heap fails alike: who would
 * take less asks strongroom_policy_check first, or prefers and looks at strongroom_heap_held.
 */
int strongroom_start(const strongroom_policy *policy);

/*
 * As malloc(3) and its kin, with these differences. Blocks are zero when they are handed out, and
 * wiped when they are freed or moved. A size of 0 is one of 1. strongroom_realloc(block, 0) does not free.
 * Every block is aligned to 16 bytes; an alignment is a power of two, and the size need be no multiple
 * of it. What strongroom_realloc returns is aligned to 16. Where strongroom_realloc fails the block stays as it was.
 */
void *strongroom_malloc(size_t size);
void *strongroom_calloc(size_t count, size_t size);
void *strongroom_realloc(void *block, size_t size);
void *strongroom_aligned_alloc(size_t alignment, size_t size);

/* Wipes a block and takes it back. Nothing for NULL. errno stays. */
void strongroom_free(void *block);

/* How many bytes a block holds, at least those that were asked for. 0 for NULL. */
size_t strongroom_usable_size(void *block);

/* ---- Heaps ------------------------------------------------------------------------------- */

/* Allocations inside secret memory. */
typedef struct strongroom_heap strongroom_heap;

/* The process-wide one, for the functions below. Never NULL, and starts nothing. */
strongroom_heap *strongroom_process_heap(void);

/* A heap of its own, under a policy of its own. It has no caches for threads: each call takes a lock. */
strongroom_heap *strongroom_heap_new(const strongroom_policy *policy);

/*
 * Unmaps a heap with all that is in it. Nothing for NULL; the process-wide heap is SR_E_ARGUMENT. Neither
 * the heap nor its blocks may be used afterwards; that is not checked. At SR_LOCKED, free the blocks
 * first: what is in use is unmapped and not wiped.
 */
int strongroom_heap_delete(strongroom_heap *heap);

/* As the functions of the process-wide heap; for a NULL heap they fail with SR_E_ARGUMENT. */
void *strongroom_heap_malloc(strongroom_heap *heap, size_t size);
void *strongroom_heap_calloc(strongroom_heap *heap, size_t count, size_t size);
void *strongroom_heap_realloc(strongroom_heap *heap, void *block, size_t size);
void *strongroom_heap_aligned_alloc(strongroom_heap *heap, size_t alignment, size_t size);
void strongroom_heap_free(strongroom_heap *heap, void *block);
size_t strongroom_heap_usable_size(strongroom_heap *heap, void *block);

/* Gives to the kernel what is free; up to 64 MiB are kept otherwise. */
void strongroom_heap_trim(strongroom_heap *heap);

/* As for regions. 0, and SR_E_ARGUMENT, for NULL and for the process-wide heap before its first use. */
uint32_t strongroom_heap_held(const strongroom_heap *heap);
size_t strongroom_heap_receipt(const strongroom_heap *heap, char *buffer, size_t len);

/* ---- Memory that exists already ---------------------------------------------------------- */

/* What became of a range, in bytes of whole pages. */
typedef struct strongroom_concealed {
    size_t secret; /* secret now, or before */
    size_t locked; /* locked and no more */
} strongroom_concealed;

/*
 * Makes the pages that hold a range secret, at the same addresses: like mlock(2), it takes whole pages,
 * with what else is in them. Their contents move into the keeper's memory, and the old pages are
 * wiped. Other threads that touch the range meanwhile wait, where userfaultfd(2) is to be had; where
 * it is not, a write at that instant may be lost. The memory stays secret until it is unmapped, and
 * is wiped by the kernel then; at SR_LOCKED, use strongroom_wipe first.
 *
 * The range must not be a heap's or a region's, and no device may hold it pinned (io_uring buffers).
 *
 * Stacks, shared and executable mappings can only be locked: SR_E_NOT_CONCEALABLE says that there
 * were some. What became of the range is in *outcome then, too, unless that is NULL. Any other
 * failure leaves *outcome, the mapping at which it failed and those after it as they were; mappings
 * before it in the range are secret.
 */
int strongroom_conceal(void *address, size_t len, const strongroom_policy *policy, strongroom_concealed *outcome);

/* Zeroes memory of any kind; no compiler leaves it out. Nothing for NULL. */
void strongroom_wipe(void *start, size_t len);

#ifdef __cplusplus
}
#endif

#endif
