// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
/*
 * Mappings of objects: faults, and what becomes of them when they are cut, moved and removed.
 */
#include "strongroom.h"

#include <linux/huge_mm.h>
#include <linux/slab.h>
#include <asm/pgalloc.h>

/* Looking for what nothing maps any more is quadratic in this. */
#define PIECES 4096

void sr_mapping_span(const struct sr_mapping *mapping, u64 *first, u64 *end)
{
	*first = mapping->vma->vm_pgoff;
	*end = *first + vma_pages(mapping->vma);
}

const void *sr_next_mapping(const void *mappings, const void *cursor, u64 *first, u64 *end)
{
	const struct list_head *head = mappings;
	const struct list_head *next = cursor ? ((const struct sr_mapping *)cursor)->list.next : head->next;
	const struct sr_mapping *mapping;

	if (next == head)
		return NULL;
	mapping = list_entry(next, struct sr_mapping, list);
	sr_mapping_span(mapping, first, end);
	return mapping;
}

struct sr_mapping *sr_mapping_add(struct sr_object *object, struct vm_area_struct *vma, gfp_t gfp)
{
	struct sr_mapping *mapping = kmalloc(sizeof(*mapping), gfp);

	if (!mapping)
		return NULL;
	mapping->vma = vma;
	mapping->object = object;
	list_add(&mapping->list, &object->mappings);
	object->pieces++;
	vma->vm_private_data = mapping;
	return mapping;
}

/* A copy of a mapping: one part of two after a split, or the new place of one that is moved. */
static void sr_open(struct vm_area_struct *vma)
{
	struct sr_object *object = ((struct sr_mapping *)vma->vm_private_data)->object;

	mutex_lock(&object->lock);
	/* It cannot fail, and is small. */
	sr_mapping_add(object, vma, GFP_KERNEL | __GFP_NOFAIL);
	mutex_unlock(&object->lock);
}

static void sr_close(struct vm_area_struct *vma)
{
	struct sr_mapping *mapping = vma->vm_private_data;
	struct sr_object *object = mapping->object;
	u64 first, end, pages;

	sr_mapping_span(mapping, &first, &end);
	mutex_lock(&object->lock);
	list_del(&mapping->list);
	object->pieces--;
	/* Its entries and their translations are gone: mm/vma.c and mm/mmap.c call close after tlb_finish_mmu. */
	pages = strongroom_unmapped(object->rust, &object->mappings, first, end);
	atomic64_sub(pages, &object->mm->pinned_vm);
	if (pages && !strongroom_held(object->runs)) {
		sr_room_lock();
		list_del_init(&object->holder);
		sr_room_unlock();
	}
	mutex_unlock(&object->lock);
	kfree(mapping);
	if (pages)
		sr_blocks_return();
}

static int sr_may_split(struct vm_area_struct *vma, unsigned long address)
{
	struct sr_object *object = ((struct sr_mapping *)vma->vm_private_data)->object;

	if (object->mode & STRONGROOM_HUGE && address & ~PMD_MASK)
		return -EINVAL;
	return READ_ONCE(object->pieces) < PIECES ? 0 : -ENOMEM;
}

struct entries {
	u64 pfn;
	unsigned long made;
	struct vm_area_struct *vma;
};

static int make_entry(pte_t *place, unsigned long address, void *data)
{
	struct entries *e = data;
	u64 pfn = e->pfn++;
	pte_t pte;

	if (!pte_none(ptep_get(place)))
		return 0;
	pte = pte_mkyoung(pte_mkspecial(pfn_pte(pfn, e->vma->vm_page_prot)));
	/* Said here: vm_page_prot says it not where /proc/PID/clear_refs asked to be told of writes. */
	if (e->vma->vm_flags & VM_WRITE)
		pte = pte_mkwrite_novma(pte_mkdirty(pte));
	set_pte_at(e->vma->vm_mm, address, place, pte);
	e->made++;
	return 0;
}

/* All pages around that one table of entries has, as far as mapping and run reach. */
static vm_fault_t map_small(struct vm_fault *vmf, const struct sr_run *run)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long address = vmf->address & PAGE_MASK;
	unsigned long block = address & PMD_MASK;
	u64 before = vmf->pgoff - run->first, after = run->end - vmf->pgoff;
	unsigned long start = max(block, vma->vm_start), end = min(block + PMD_SIZE, vma->vm_end);
	struct entries e = { .vma = vma };

	if ((address - start) >> PAGE_SHIFT > before)
		start = address - (before << PAGE_SHIFT);
	if ((end - address) >> PAGE_SHIFT > after)
		end = address + (after << PAGE_SHIFT);
	e.pfn = run->pfn + before - ((address - start) >> PAGE_SHIFT);
	if (apply_to_page_range(vma->vm_mm, start, end - start, make_entry, &e))
		return VM_FAULT_OOM;
	atomic64_add(e.made, &sr_counters.small_entries);
	return VM_FAULT_NOPAGE;
}

#if SR_HUGE_ENTRIES
/*
 * As insert_pfn_pmd of mm/huge_memory.c, with the memory type of the mapping: vmf_insert_pfn_pmd
 * would take the one of the kernel's list, which cannot tell objects apart.
 */
static bool map_huge(struct vm_fault *vmf, const struct sr_run *run)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long block = vmf->address & PMD_MASK;
	u64 page, pfn;
	spinlock_t *lock;
	bool made = false;
	pmd_t pmd;

	if (block < vma->vm_start || block + PMD_SIZE > vma->vm_end)
		return false;
	page = vma->vm_pgoff + ((block - vma->vm_start) >> PAGE_SHIFT);
	if (page < run->first || page + PTRS_PER_PMD > run->end)
		return false;
	pfn = run->pfn + page - run->first;
	if (pfn & (PTRS_PER_PMD - 1))
		return false;
	pmd = pmd_mkyoung(pmd_mkspecial(pmd_mkhuge(pfn_pmd(pfn, vma->vm_page_prot))));
	if (vma->vm_flags & VM_WRITE)
		pmd = pmd_mkwrite_novma(pmd_mkdirty(pmd));
	lock = pmd_lock(vma->vm_mm, vmf->pmd);
	if (pmd_none(*vmf->pmd)) {
		set_pmd_at(vma->vm_mm, block, vmf->pmd, pmd);
		made = true;
	}
	spin_unlock(lock);
	if (made)
		atomic64_inc(&sr_counters.huge_entries);
	/* Another thread was first: the same entry, as what fits is fixed. */
	return made || pmd_leaf(*vmf->pmd);
}
#endif

static vm_fault_t serve(struct vm_fault *vmf, bool huge_only)
{
	struct sr_mapping *mapping = vmf->vma->vm_private_data;
	vm_fault_t result = VM_FAULT_SIGBUS;
	struct sr_run run;

	percpu_down_read(&sr_revocation);
	if (!sr_revoked && strongroom_run_at(mapping->object->runs, vmf->pgoff, &run)) {
#if SR_HUGE_ENTRIES
		if (pmd_none(*vmf->pmd) && map_huge(vmf, &run))
			result = VM_FAULT_NOPAGE;
		else
#endif
		if (huge_only)
			result = VM_FAULT_FALLBACK;
		else if (pmd_leaf(*vmf->pmd))
			result = VM_FAULT_NOPAGE;
		else
			result = map_small(vmf, &run);
	}
	percpu_up_read(&sr_revocation);
	if (result == VM_FAULT_NOPAGE)
		atomic64_inc(&sr_counters.faults);
	return result;
}

static vm_fault_t sr_fault(struct vm_fault *vmf)
{
	return serve(vmf, false);
}

static vm_fault_t sr_huge_fault(struct vm_fault *vmf, unsigned int order)
{
	return order == PMD_ORDER ? serve(vmf, true) : VM_FAULT_FALLBACK;
}

/* No access(): ptrace and /proc/PID/mem have no way in. */
const struct vm_operations_struct sr_vm_operations = {
	.open = sr_open,
	.close = sr_close,
	.may_split = sr_may_split,
	.fault = sr_fault,
	.huge_fault = sr_huge_fault,
};
