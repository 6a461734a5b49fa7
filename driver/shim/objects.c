// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
/*
 * Descriptors of /dev/strongroom: open, ioctl, mmap, the end. ABI.md says what each does.
 */
#include "strongroom.h"

#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/huge_mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/user_namespace.h>
#include <asm/pgtable.h>

#define HOLDERS 65536

LIST_HEAD(sr_holders);

static int sr_file_open(struct inode *inode, struct file *file)
{
	struct sr_object *object = kzalloc(sizeof(*object), GFP_KERNEL_ACCOUNT);

	if (!object)
		return -ENOMEM;
	object->rust = strongroom_object_new();
	if (!object->rust) {
		kfree(object);
		return -ENOMEM;
	}
	mutex_init(&object->lock);
	INIT_LIST_HEAD(&object->mappings);
	INIT_LIST_HEAD(&object->holder);
	object->file = file;
	file->private_data = object;
	return nonseekable_open(inode, file);
}

/* Every mapping holds the file: there is none left. */
static int sr_file_release(struct inode *inode, struct file *file)
{
	struct sr_object *object = file->private_data;

	strongroom_object_free(object->rust);
	if (object->mm)
		mmdrop(object->mm);
	mutex_destroy(&object->lock);
	kfree(object);
	return 0;
}

/* The one address space that may, once there is one. Under the object's lock. */
static int owner(const struct sr_object *object, const struct mm_struct *mm)
{
	if (!object->mm || object->mm == mm)
		return 0;
	atomic64_inc(&sr_counters.refused_owner);
	return -EPERM;
}

static long set_mode(struct sr_object *object, const struct strongroom_mode_request __user *from)
{
	struct strongroom_mode_request request;
	int error;

	if (copy_from_user(&request, from, sizeof(request)))
		return -EFAULT;
	if (!current->mm)
		return -EPERM;
	mutex_lock(&object->lock);
	error = owner(object, current->mm);
	if (!error)
		error = strongroom_set_mode(object->rust, &request, sr_modes_served());
	if (!error) {
		mmgrab(current->mm);
		object->mm = current->mm;
		WRITE_ONCE(object->mode, strongroom_mode(object->rust));
	}
	mutex_unlock(&object->lock);
	return error;
}

static long seal(struct sr_object *object)
{
	int error;

	mutex_lock(&object->lock);
	error = owner(object, current->mm);
	if (!error)
		error = strongroom_seal(object->rust);
	mutex_unlock(&object->lock);
	return error;
}

static long change_view(struct sr_object *object, const struct strongroom_range_request __user *from, bool hiding)
{
	int error;

	mutex_lock(&object->lock);
	error = object->mm ? owner(object, current->mm) : -EINVAL;
	mutex_unlock(&object->lock);
	/* Whose it is never changes again; the lock of the address space comes before the object's. */
	return error ?: sr_change_view(object, from, hiding);
}

static long get_abi(struct strongroom_abi __user *to)
{
	struct strongroom_abi abi;

	if (copy_from_user(&abi, to, sizeof(abi)))
		return -EFAULT;
	if (abi.size != sizeof(abi) || abi.version != STRONGROOM_VERSION)
		return -EINVAL;
	sr_fill_abi(&abi);
	return copy_to_user(to, &abi, sizeof(abi)) ? -EFAULT : 0;
}

static long get_info(struct strongroom_info __user *to)
{
	struct strongroom_info info;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (copy_from_user(&info, to, sizeof(info)))
		return -EFAULT;
	if (info.size != sizeof(info) || info.version != STRONGROOM_VERSION)
		return -EINVAL;
	sr_fill_info(&info);
	return copy_to_user(to, &info, sizeof(info)) ? -EFAULT : 0;
}

static long get_holders(struct strongroom_holders_request __user *to)
{
	struct strongroom_holders_request request;
	struct strongroom_holder *holders;
	const struct sr_object *object;
	u32 count = 0, kept;
	long error = 0;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (copy_from_user(&request, to, sizeof(request)))
		return -EFAULT;
	if (request.size != sizeof(request) || request.version != STRONGROOM_VERSION || request.capacity > HOLDERS)
		return -EINVAL;
	holders = kvcalloc(request.capacity ?: 1, sizeof(*holders), GFP_KERNEL_ACCOUNT);
	if (!holders)
		return -ENOMEM;
	sr_room_lock();
	list_for_each_entry(object, &sr_holders, holder) {
		if (count < request.capacity)
			holders[count] = (struct strongroom_holder){
				.pid = object->pid,
				.uid = object->uid,
				.bytes = strongroom_held(object->runs) << PAGE_SHIFT,
				.mode = object->mode,
			};
		count++;
	}
	sr_room_unlock();
	kept = min(count, request.capacity);
	request.count = count;
	if (copy_to_user(u64_to_user_ptr(request.buffer), holders, kept * sizeof(*holders)) ||
	    copy_to_user(to, &request, sizeof(request)))
		error = -EFAULT;
	kvfree(holders);
	return error;
}

static long sr_file_ioctl(struct file *file, unsigned int number, unsigned long argument)
{
	struct sr_object *object = file->private_data;
	void __user *user = (void __user *)argument;

	switch (number) {
	case STRONGROOM_GET_ABI:
		return get_abi(user);
	case STRONGROOM_SET_MODE:
		return set_mode(object, user);
	case STRONGROOM_SEAL:
		return seal(object);
	case STRONGROOM_HIDE:
		return change_view(object, user, true);
	case STRONGROOM_SHOW:
		return change_view(object, user, false);
	case STRONGROOM_GET_INFO:
		return get_info(user);
	case STRONGROOM_GET_HOLDERS:
		return get_holders(user);
	default:
		return -ENOTTY;
	}
}

static unsigned long sr_file_area(struct file *file, unsigned long address, unsigned long length,
				  unsigned long pgoff, unsigned long flags)
{
	const struct sr_object *object = file->private_data;
	unsigned long found = thp_get_unmapped_area(file, address, length, pgoff, flags);

	if (!(READ_ONCE(object->mode) & STRONGROOM_HUGE) || IS_ERR_VALUE(found) ||
	    !((found - (pgoff << PAGE_SHIFT)) & ~PMD_MASK))
		return found;
	/* Whose it is comes first, as with all else. */
	return READ_ONCE(object->mm) == current->mm ? -EINVAL : -EPERM;
}

/* RLIMIT_MEMLOCK, over what is locked and what is pinned. close() gives back without the lock of the former. */
static int charge(struct mm_struct *mm, u64 pages)
{
	u64 limit = rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;

	if (READ_ONCE(mm->locked_vm) + atomic64_add_return(pages, &mm->pinned_vm) <= limit || capable(CAP_IPC_LOCK))
		return 0;
	atomic64_sub(pages, &mm->pinned_vm);
	return -EAGAIN;
}

/* The first mapping takes the object's pages. Under its lock. */
static int fill(struct sr_object *object, u64 pages)
{
	kuid_t user = current_uid();
	struct sr_room_state state;
	bool unlimited = false;
	struct sr_run run;
	size_t lacking;
	u64 page;
	int error;

	error = charge(object->mm, pages);
	if (error) {
		atomic64_inc(&sr_counters.refused_limit);
		return error;
	}
	object->uid = from_kuid(&init_user_ns, user);
	object->pid = task_tgid_nr(current);
	sr_room_lock();
	lacking = sr_revoked || sr_paused ? 0 : strongroom_lacking(object->rust);
	sr_room_unlock();
	sr_blocks_take(lacking, numa_mem_id());
again:
	sr_room_lock();
	error = -ENXIO;
	if (!sr_revoked && !sr_paused)
		error = strongroom_fill(object->rust, object->uid, unlimited, numa_mem_id());
	if (!error) {
		object->runs = strongroom_runs(object->rust);
		list_add_tail(&object->holder, &sr_holders);
	}
	strongroom_state(&state);
	sr_room_unlock();
	if (error == -EDQUOT && !unlimited && capable(CAP_SYS_RESOURCE)) {
		unlimited = true;
		goto again;
	}
	if (error) {
		atomic64_sub(pages, &object->mm->pinned_vm);
		sr_blocks_return();
		if (error == -EDQUOT)
			atomic64_inc(&sr_counters.refused_limit);
		else if (error == -ENOMEM)
			atomic64_inc(&sr_counters.refused_full);
		return error;
	}
	/* No line of it may be in a cache when it is used past them. */
	if (object->mode & (STRONGROOM_UNCACHED | STRONGROOM_WRITE_COMBINING))
		for (page = 0; strongroom_run_at(object->runs, page, &run); page = run.end)
			sr_flush(run.pfn, run.end - run.first);
	return 0;
}

static enum page_cache_mode caching(u64 mode)
{
	if (mode & STRONGROOM_UNCACHED)
		return _PAGE_CACHE_MODE_UC;
	if (mode & STRONGROOM_WRITE_COMBINING)
		return _PAGE_CACHE_MODE_WC;
	return _PAGE_CACHE_MODE_WB;
}

static int sr_file_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct sr_object *object = file->private_data;
	u64 first = vma->vm_pgoff, pages = vma_pages(vma);
	struct sr_mapping *mapping;
	int error, further;

	/* VM_SHARED is not set where the descriptor was opened to be read. */
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (vma->vm_flags & VM_EXEC)
		return -EPERM;
	mutex_lock(&object->lock);
	error = owner(object, vma->vm_mm);
	if (error)
		goto out;
	further = strongroom_may_map(object->rust, &object->mappings, first, first + pages);
	error = min(further, 0);
	if (error)
		goto out;
	error = -EINVAL;
	if (object->mode & STRONGROOM_HUGE && (vma->vm_start - (first << PAGE_SHIFT)) & ~PMD_MASK)
		goto out;
	error = -ENOMEM;
	mapping = sr_mapping_add(object, vma, GFP_KERNEL_ACCOUNT);
	if (!mapping)
		goto out;
	error = further ? 0 : fill(object, pages);
	if (error) {
		list_del(&mapping->list);
		object->pieces--;
		vma->vm_private_data = NULL;
		kfree(mapping);
		goto out;
	}
	vm_flags_mod(vma, VM_IO | VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP | VM_DONTCOPY, VM_MAYEXEC);
	/* mprotect keeps these bits (pgprot_modify). */
	vma->vm_page_prot = __pgprot(pgprot_val(vma->vm_page_prot) | cachemode2protval(caching(object->mode)));
	vma->vm_ops = &sr_vm_operations;
out:
	mutex_unlock(&object->lock);
	return error;
}

const struct file_operations sr_file_operations = {
	.owner = THIS_MODULE,
	.open = sr_file_open,
	.release = sr_file_release,
	.unlocked_ioctl = sr_file_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = sr_file_mmap,
	.get_unmapped_area = sr_file_area,
};
