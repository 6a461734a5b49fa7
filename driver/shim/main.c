// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
/*
 * strongroom.ko: parameters, the device, the beginning and the end.
 */
#include "strongroom.h"

#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/reboot.h>
#include <linux/slab.h>
#include <linux/suspend.h>

static char *pool = "";
module_param(pool, charp, 0400);
MODULE_PARM_DESC(pool, "memory set aside at boot by memmap=SIZE$START: START:SIZE[,START:SIZE], with K, M or G");
static char *lend = "";
module_param(lend, charp, 0400);
MODULE_PARM_DESC(lend, "the most memory that the kernel lends, in blocks of 2 MiB, with K, M or G (none); not on stock kernels");
static uint user_percent = 50;
module_param(user_percent, uint, 0400);
MODULE_PARM_DESC(user_percent, "the most of the pool that one user may hold, in percent (50)");
static ushort mode = 0600;
module_param(mode, ushort, 0400);
MODULE_PARM_DESC(mode, "of /dev/strongroom (0600)");

bool sr_revoked;
bool sr_paused;
DEFINE_PERCPU_RWSEM(sr_revocation);
static DEFINE_MUTEX(room_lock);

void *sr_alloc(size_t bytes)
{
	return kvzalloc(bytes ?: 1, GFP_KERNEL_ACCOUNT);
}

void sr_free(void *memory)
{
	kvfree(memory);
}

void sr_room_lock(void)
{
	mutex_lock(&room_lock);
}

void sr_room_unlock(void)
{
	mutex_unlock(&room_lock);
}

void __noreturn sr_bug(void)
{
	BUG();
}

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "strongroom",
	.fops = &sr_file_operations,
	.groups = sr_attribute_groups,
};

/*
 * The kernel will not run again, or another one after kexec: nothing may be left. Who still has
 * mappings loses them before they are wiped.
 */
static int at_reboot(struct notifier_block *block, unsigned long event, void *data)
{
	struct sr_object *object;

	percpu_down_write(&sr_revocation);
	WRITE_ONCE(sr_revoked, true);
	percpu_up_write(&sr_revocation);
	sr_room_lock();
	list_for_each_entry(object, &sr_holders, holder)
		unmap_mapping_range(object->file->f_mapping, 0, 0, 1);
	sr_room_unlock();
	sr_carve_outs_wipe();
	sr_blocks_wipe();
	return NOTIFY_DONE;
}

/* A hibernated machine forgets this memory, as it is not the kernel's: not while somebody needs it. */
static int at_sleep(struct notifier_block *block, unsigned long event, void *data)
{
	bool held;

	switch (event) {
	case PM_HIBERNATION_PREPARE:
	case PM_RESTORE_PREPARE:
		sr_room_lock();
		held = !list_empty(&sr_holders);
		WRITE_ONCE(sr_paused, !held);
		sr_room_unlock();
		return held ? notifier_from_errno(-EBUSY) : NOTIFY_OK;
	case PM_POST_HIBERNATION:
	case PM_POST_RESTORE:
		if (READ_ONCE(sr_paused)) {
			sr_carve_outs_wipe();
			WRITE_ONCE(sr_paused, false);
		}
		return NOTIFY_OK;
	default:
		return NOTIFY_DONE;
	}
}

static struct notifier_block reboot = { .notifier_call = at_reboot, .priority = INT_MIN };
static struct notifier_block sleep = { .notifier_call = at_sleep };

static void leave(void)
{
	sr_carve_outs_wipe();
	sr_room_lock();
	strongroom_clear();
	sr_room_unlock();
	sr_carve_outs_release();
	sr_windows_release();
}

static int __init enter(void)
{
	struct sr_room_state state;
	int error = sr_windows_prepare();

	if (error)
		return error;
	if (!*pool && !*lend) {
		pr_err("no pool: pool=START:SIZE[,START:SIZE]\n");
		error = -EINVAL;
		goto no_pool;
	}
	error = sr_carve_outs_claim(pool);
	if (!error && *lend)
		error = sr_blocks_allow(lend);
	if (error)
		goto no_pool;
	sr_room_lock();
	strongroom_limit_users(min(user_percent, 100u));
	strongroom_state(&state);
	sr_room_unlock();
	error = register_reboot_notifier(&reboot);
	if (error)
		goto no_pool;
	error = register_pm_notifier(&sleep);
	if (error)
		goto no_sleep;
	device.mode = mode & 0666;
	error = misc_register(&device);
	if (error)
		goto no_device;
	pr_info("%llu MiB, and up to %llu MiB that the kernel lends\n", state.total >> (20 - PAGE_SHIFT),
		state.lent_limit >> (20 - PAGE_SHIFT));
	return 0;

no_device:
	unregister_pm_notifier(&sleep);
no_sleep:
	unregister_reboot_notifier(&reboot);
no_pool:
	leave();
	return error;
}

static void __exit end(void)
{
	misc_deregister(&device);
	unregister_pm_notifier(&sleep);
	unregister_reboot_notifier(&reboot);
	leave();
}

module_init(enter);
module_exit(end);
MODULE_DESCRIPTION("Secret memory that the kernel has no mapping of");
/* That of the workspace: tests/version.rs. */
MODULE_VERSION("0.1.0");
MODULE_LICENSE("GPL");
