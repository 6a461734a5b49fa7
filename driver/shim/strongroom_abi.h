/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note OR MIT OR Apache-2.0 */
/*
 * /dev/strongroom for C: the types and numbers of strongroom-core's driver.rs. ABI.md says what each
 * call does. A test compares both.
 */
#ifndef STRONGROOM_ABI_H
#define STRONGROOM_ABI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define STRONGROOM_VERSION 1
#define STRONGROOM_PAGE 4096ULL
#define STRONGROOM_HUGE_PAGE (2ULL << 20)
#define STRONGROOM_MAX_BYTES (1ULL << 46)

/* Modes */
#define STRONGROOM_EXCLUSIVE (1ULL << 0)
#define STRONGROOM_UNCACHED (1ULL << 1)
#define STRONGROOM_WRITE_COMBINING (1ULL << 2)
#define STRONGROOM_HUGE (1ULL << 3)
#define STRONGROOM_SEALED (1ULL << 4)

/* Properties */
#define STRONGROOM_DEV_MEM_CLOSED (1ULL << 0)
#define STRONGROOM_WRITE_BACK_RESERVED (1ULL << 1)
#define STRONGROOM_DYNAMIC_POOL (1ULL << 2)

struct strongroom_abi {
	__u32 size;
	__u32 version;
	__u64 modes;
	__u64 properties;
	__u32 page;
	__u32 huge_page;
	__u64 total;
	__u64 user_limit;
};

struct strongroom_mode_request {
	__u32 size;
	__u32 version;
	__u64 bytes;
	__u64 mode;
	__u64 reserved;
};

struct strongroom_range_request {
	__u32 size;
	__u32 version;
	__u64 address;
	__u64 bytes;
	__u64 reserved;
};

struct strongroom_info {
	__u32 size;
	__u32 version;
	__u64 total;
	__u64 free;
	__u64 largest_free;
	__u64 held;
	__u64 metadata;
	__u64 objects;
	__u64 small_entries;
	__u64 huge_entries;
	__u64 faults;
	__u64 wiped;
	__u64 refused_full;
	__u64 refused_limit;
	__u64 refused_owner;
};

struct strongroom_holders_request {
	__u32 size;
	__u32 version;
	__u64 buffer;
	__u32 capacity;
	__u32 count;
};

struct strongroom_holder {
	__u32 pid;
	__u32 uid;
	__u64 bytes;
	__u64 mode;
};

#define STRONGROOM_GET_ABI _IOWR(0xd6, 0x40, struct strongroom_abi)
#define STRONGROOM_SET_MODE _IOW(0xd6, 0x41, struct strongroom_mode_request)
#define STRONGROOM_SEAL _IO(0xd6, 0x42)
#define STRONGROOM_GET_INFO _IOWR(0xd6, 0x43, struct strongroom_info)
#define STRONGROOM_GET_HOLDERS _IOWR(0xd6, 0x44, struct strongroom_holders_request)
#define STRONGROOM_HIDE _IOW(0xd6, 0x45, struct strongroom_range_request)
#define STRONGROOM_SHOW _IOW(0xd6, 0x46, struct strongroom_range_request)

#endif
