/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * The boundary between the shim and the Rust part: src/boundary.rs and src/shim.rs say the same with
 * the locks that each function needs, and the shim's own parts.
 *
 * Order of locks: mmap_lock, then an object's lock, then that of lent blocks, then the room's. User memory is copied under none
 * of the latter two.
 */
#ifndef STRONGROOM_H
#define STRONGROOM_H

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/percpu-rwsem.h>
#include <linux/types.h>
#include "strongroom_abi.h"

/* ---- src/boundary.rs ---- */

struct sr_rust_object;
struct sr_rust_runs;

struct sr_room_state {
	u64 total;
	u64 free;
	u64 largest_free;
	u64 metadata;
	u64 objects;
	u64 user_limit;
	u64 lent;
	u64 lent_limit;
};

struct sr_run {
	u64 first;
	u64 end;
	u64 pfn;
};

int strongroom_add(u64 pfn, size_t pages, int node);
int strongroom_lend(u64 end, size_t limit);
size_t strongroom_lacking(const struct sr_rust_object *object);
bool strongroom_add_block(u64 pfn);
bool strongroom_spare_block(u64 *pfn);
void strongroom_limit_users(u32 percent);
void strongroom_clear(void);
void strongroom_state(struct sr_room_state *state);
u64 strongroom_node(int node, u64 *free);
struct sr_rust_object *strongroom_object_new(void);
void strongroom_object_free(struct sr_rust_object *object);
int strongroom_set_mode(struct sr_rust_object *object,
			const struct strongroom_mode_request *request, u64 served);
u64 strongroom_mode(const struct sr_rust_object *object);
int strongroom_seal(struct sr_rust_object *object);
int strongroom_may_map(const struct sr_rust_object *object, const void *mappings, u64 first, u64 end);
int strongroom_fill(struct sr_rust_object *object, u32 uid, bool unlimited, int node);
const struct sr_rust_runs *strongroom_runs(const struct sr_rust_object *object);
u64 strongroom_held(const struct sr_rust_runs *runs);
bool strongroom_run_at(const struct sr_rust_runs *runs, u64 page, struct sr_run *run);
u64 strongroom_unmapped(struct sr_rust_object *object, const void *mappings, u64 first, u64 end);

/* ---- src/shim.rs ---- */

void *sr_alloc(size_t bytes);
void sr_free(void *memory);
void sr_wipe(u64 pfn, size_t pages);
void sr_room_lock(void);
void sr_room_unlock(void);
const void *sr_next_mapping(const void *mappings, const void *cursor, u64 *first, u64 *end);
void __noreturn sr_bug(void);

/* ---- objects.c ---- */

/* What an open descriptor stands for; it lives as long as the struct file. */
struct sr_object {
	/* Guards rust, mm, sealed things and the list. */
	struct mutex lock;
	struct sr_rust_object *rust;
	/* The owner; its address space is held (mmgrab), not its pages. */
	struct mm_struct *mm;
	/* struct sr_mapping of every VMA. */
	struct list_head mappings;
	unsigned int pieces;
	/* From the first mapping on; what it points to lives as long as the object. */
	const struct sr_rust_runs *runs;
	u64 mode;
	/* In sr_holders while it holds pages; under the room's lock. */
	struct list_head holder;
	struct file *file;
	pid_t pid;
	u32 uid;
};

extern struct list_head sr_holders;
extern const struct file_operations sr_file_operations;

/* ---- mappings.c ---- */

/* One VMA. It is asked for its bounds when they are needed: a split changes them without a word. */
struct sr_mapping {
	struct list_head list;
	struct vm_area_struct *vma;
	struct sr_object *object;
};

extern const struct vm_operations_struct sr_vm_operations;
struct sr_mapping *sr_mapping_add(struct sr_object *object, struct vm_area_struct *vma, gfp_t gfp);
void sr_mapping_span(const struct sr_mapping *mapping, u64 *first, u64 *end);

/* ---- hiding.c ---- */

/* HIDE or SHOW, by the owner. */
long sr_change_view(struct sr_object *object, const struct strongroom_range_request __user *from, bool hiding);

/* ---- window.c ---- */

int sr_windows_prepare(void);
void sr_windows_release(void);
/* Writes the pages' cache lines back and drops them. */
void sr_flush(u64 pfn, size_t pages);

/* ---- carve_outs.c ---- */

int sr_carve_outs_claim(const char *ranges);
void sr_carve_outs_wipe(void);
void sr_carve_outs_release(void);
ssize_t sr_carve_outs_show(char *page);
/* The first address from `start` on that a kernel mapping at `offset` from it has, or `end`. */
u64 sr_first_mapped(u64 start, u64 end, unsigned long offset);

/* ---- blocks.c ---- */

/* Has the kernel lend at most this much. */
int sr_blocks_allow(const char *size);
/* Has it lend as many blocks as it can of those wanted. */
void sr_blocks_take(size_t wanted, int node);
/* Gives it back those that nobody holds a page of. Not under the room's lock. */
void sr_blocks_return(void);
void sr_blocks_wipe(void);

/* ---- state.c ---- */

struct sr_counters {
	atomic64_t faults, small_entries, huge_entries, wiped;
	atomic64_t refused_full, refused_limit, refused_owner;
	/* Blocks whose direct map was in 4 KiB entries and is no more. */
	atomic64_t joined;
};

extern struct sr_counters sr_counters;
extern const struct attribute_group *sr_attribute_groups[];
void sr_fill_abi(struct strongroom_abi *abi);
void sr_fill_info(struct strongroom_info *info);
u64 sr_modes_served(void);

/* ---- main.c ---- */

/* Set when memory is to be given out no more: reboot, hibernation. Faults read it under the semaphore. */
extern bool sr_revoked;
extern bool sr_paused;
extern struct percpu_rw_semaphore sr_revocation;

/* Kbuild found the symbols that blocks.c needs. */
#if defined(SR_HAS_DIRECT_MAP_SYMBOLS) && defined(CONFIG_ARCH_HAS_SET_DIRECT_MAP)
#define SR_LENDING 1
#else
#define SR_LENDING 0
#endif

/* 2 MiB entries without a struct page need the special bit in them (6.12, x86). */
#if defined(CONFIG_TRANSPARENT_HUGEPAGE) && defined(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP)
#define SR_HUGE_ENTRIES 1
#else
#define SR_HUGE_ENTRIES 0
#endif

#endif
