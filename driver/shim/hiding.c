// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
/*
 * Hiding pages in one mapping: the kernel's own poison markers in its page table (PTE_MARKER_POISONED, as
 * UFFDIO_POISON has them for memory that it knows). A fault that meets one raises SIGBUS before the driver is
 * asked (handle_pte_marker in mm/memory.c, 6.12); they move with the mapping, stay where mprotect changes it, and
 * go with its entries.
 */
#include "strongroom.h"

#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/uaccess.h>

/* Under the locks that keep faults out: nobody makes an entry meanwhile, and revocation only takes some away. */
static bool is_large(struct mm_struct *mm, unsigned long address)
{
	pgd_t *pgd = pgd_offset(mm, address);
	p4d_t *p4d;
	pud_t *pud;

	if (!pgd_present(*pgd))
		return false;
	p4d = p4d_offset(pgd, address);
	if (!p4d_present(*p4d))
		return false;
	pud = pud_offset(p4d, address);
	return pud_present(*pud) && pmd_leaf(READ_ONCE(*pmd_offset(pud, address)));
}

/* Entries of 2 MiB hold no markers: they go, and small ones come instead. */
static void drop_large(struct vm_area_struct *vma, unsigned long start, unsigned long end)
{
	unsigned long at, next, from = end;

	for (at = start; at < end; at = next) {
		bool large = is_large(vma->vm_mm, at);

		next = pmd_addr_end(at, end);
		if (large && from == end)
			from = at;
		if (!large && from != end) {
			zap_vma_ptes(vma, from, at - from);
			from = end;
		}
	}
	if (from != end)
		zap_vma_ptes(vma, from, end - from);
}

static int mark(pte_t *place, unsigned long address, void *mm)
{
	set_pte_at((struct mm_struct *)mm, address, place, swp_entry_to_pte(make_poisoned_swp_entry()));
	return 0;
}

static int hide(struct vm_area_struct *vma, unsigned long start, unsigned long end)
{
	struct mm_struct *mm = vma->vm_mm;
	unsigned long at, next;
	int error;

	drop_large(vma, start, end);
	/* Tables for all of it: what can fail comes first, and changes nothing. */
	for (at = start; at < end; at = next) {
		next = pmd_addr_end(at, end);
		error = apply_to_page_range(mm, at, next - at, NULL, NULL);
		if (error)
			return error;
		cond_resched();
	}
	/* Nobody has a translation after this. */
	zap_vma_ptes(vma, start, end - start);
	for (at = start; at < end; at = next) {
		next = pmd_addr_end(at, end);
		apply_to_page_range(mm, at, next - at, mark, mm);
		cond_resched();
	}
	return 0;
}

long sr_change_view(struct sr_object *object, const struct strongroom_range_request __user *from, bool hiding)
{
	struct strongroom_range_request request;
	struct mm_struct *mm = current->mm;
	struct vm_area_struct *vma;
	u64 start, end;
	long error;

	if (copy_from_user(&request, from, sizeof(request)))
		return -EFAULT;
	start = request.address;
	if (request.size != sizeof(request) || request.version != STRONGROOM_VERSION || request.reserved ||
	    !request.bytes || !PAGE_ALIGNED(start | request.bytes) || check_add_overflow(start, request.bytes, &end) ||
	    READ_ONCE(object->mode) & STRONGROOM_HUGE)
		return -EINVAL;
	if (mmap_write_lock_killable(mm))
		return -EINTR;
	error = -ENOMEM;
	vma = vma_lookup(mm, start);
	if (vma && vma->vm_ops == &sr_vm_operations && end <= vma->vm_end &&
	    ((struct sr_mapping *)vma->vm_private_data)->object == object) {
		/* With it, no fault is under way in this mapping. */
		vma_start_write(vma);
		error = 0;
		if (hiding)
			error = hide(vma, start, end);
		else
			zap_vma_ptes(vma, start, end - start);
	}
	mmap_write_unlock(mm);
	return error;
}
