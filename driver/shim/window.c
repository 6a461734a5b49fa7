// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
/*
 * Wiping and flushing pages that the kernel has no mapping of, without giving it one.
 *
 * Each processor has a page table of its own: the kernel's half of the one at work, and in an unused
 * place of it (the guard hole, Documentation/arch/x86/x86_64/mm.rst) up to 64 pages. It is loaded with
 * interrupts off, for microseconds, and never by another processor: no other one can have the
 * translation, not by speculation either, so nobody has to be told to drop it. With PCID it is 0, which
 * Linux gives to no address space (arch/x86/mm/tlb.c, 6.12): loading it drops what was left of the
 * last time, and the address space at work keeps its translations.
 *
 * The place is in the kernel's half so that nothing that reads user memory in an NMI can name it.
 */
#include "strongroom.h"

#include <linux/percpu.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <asm/cpufeature.h>
#include <asm/processor.h>
#include <asm/special_insns.h>
#include <asm/tlbflush.h>

/* Pages at a time: 256 KiB, some 25 microseconds without interrupts. */
#define SLICE 64
/* The guard hole has 16 entries of the top level, with 4 levels and with 5. */
#define HOLE_FIRST 256
#define HOLE_ENTRIES 16
#define KERNEL_FIRST 256

struct window {
	/* Two pages, so that its address has bit 12 clear: entry code with page-table isolation reads that bit. */
	pgd_t *pgd;
	p4d_t *p4d;
	pud_t *pud;
	pmd_t *pmd;
	/* 64 entries of this one are used. */
	pte_t *pte;
	pte_t *ptes;
	unsigned int slot;
	unsigned long address;
};

static struct window __percpu *windows;

static void *table(unsigned int order)
{
	return (void *)__get_free_pages(GFP_KERNEL | __GFP_ZERO, order);
}

static void free_tables(struct window *w)
{
	free_pages((unsigned long)w->pgd, 1);
	free_page((unsigned long)w->p4d);
	free_page((unsigned long)w->pud);
	free_page((unsigned long)w->pmd);
	free_page((unsigned long)w->pte);
	memset(w, 0, sizeof(*w));
}

static u64 entry(const void *table)
{
	return __sme_pa(table) | _PAGE_PRESENT | _PAGE_RW | _PAGE_ACCESSED | _PAGE_DIRTY;
}

static int prepare(struct window *w)
{
	unsigned int p4d, pud, pmd, pte;

	w->pgd = table(1);
	w->p4d = pgtable_l5_enabled() ? table(0) : NULL;
	w->pud = table(0);
	w->pmd = table(0);
	w->pte = table(0);
	if (!w->pgd || !w->pud || !w->pmd || !w->pte || (pgtable_l5_enabled() && !w->p4d)) {
		free_tables(w);
		return -ENOMEM;
	}
	/* Anywhere, so that nobody can wait there. */
	w->slot = HOLE_FIRST + get_random_u32_below(HOLE_ENTRIES);
	p4d = pgtable_l5_enabled() ? get_random_u32_below(512) : 0;
	pud = get_random_u32_below(512);
	pmd = get_random_u32_below(512);
	pte = get_random_u32_below(512 - SLICE);
	if (pgtable_l5_enabled())
		((u64 *)w->p4d)[p4d] = entry(w->pud);
	((u64 *)w->pud)[pud] = entry(w->pmd);
	((u64 *)w->pmd)[pmd] = entry(w->pte);
	w->ptes = w->pte + pte;
	w->address = -1UL << (pgtable_l5_enabled() ? 56 : 47);
	w->address |= (unsigned long)(w->slot - KERNEL_FIRST) << PGDIR_SHIFT;
	if (pgtable_l5_enabled())
		w->address |= (unsigned long)p4d << P4D_SHIFT;
	w->address |= (unsigned long)pud << PUD_SHIFT;
	w->address |= (unsigned long)pmd << PMD_SHIFT;
	w->address |= (unsigned long)pte << PAGE_SHIFT;
	return 0;
}

int sr_windows_prepare(void)
{
	int cpu;

	/* A hypervisor that has the page tables to itself. */
	if (boot_cpu_has(X86_FEATURE_XENPV))
		return -EOPNOTSUPP;
	windows = alloc_percpu(struct window);
	if (!windows)
		return -ENOMEM;
	for_each_possible_cpu(cpu) {
		int error = prepare(per_cpu_ptr(windows, cpu));

		if (error) {
			sr_windows_release();
			return error;
		}
	}
	return 0;
}

void sr_windows_release(void)
{
	int cpu;

	if (!windows)
		return;
	for_each_possible_cpu(cpu)
		free_tables(per_cpu_ptr(windows, cpu));
	free_percpu(windows);
	windows = NULL;
}

/* Zeros past the caches: what they had of these lines goes, and nothing of the program's is displaced. */
static __always_inline void wipe(unsigned long at, unsigned long bytes)
{
	unsigned long end = at + bytes;

	asm volatile("1:\n"
		     "movnti %[zero], 0(%[at])\n"
		     "movnti %[zero], 8(%[at])\n"
		     "movnti %[zero], 16(%[at])\n"
		     "movnti %[zero], 24(%[at])\n"
		     "movnti %[zero], 32(%[at])\n"
		     "movnti %[zero], 40(%[at])\n"
		     "movnti %[zero], 48(%[at])\n"
		     "movnti %[zero], 56(%[at])\n"
		     "addq $64, %[at]\n"
		     "cmpq %[end], %[at]\n"
		     "jb 1b\n"
		     "sfence\n"
		     : [at] "+r"(at)
		     : [end] "r"(end), [zero] "r"(0UL)
		     : "memory", "cc");
}

static __always_inline void flush(unsigned long at, unsigned long bytes, unsigned long line)
{
	unsigned long end = at + bytes;

	asm volatile("mfence\n"
		     "1:\n"
		     "clflush (%[at])\n"
		     "addq %[line], %[at]\n"
		     "cmpq %[end], %[at]\n"
		     "jb 1b\n"
		     "mfence\n"
		     : [at] "+r"(at)
		     : [end] "r"(end), [line] "r"(line)
		     : "memory", "cc");
}

static __always_inline void slice(u64 pfn, size_t pages, bool flushing)
{
	const u64 flags = _PAGE_PRESENT | _PAGE_RW | _PAGE_ACCESSED | _PAGE_DIRTY | _PAGE_NX | sme_me_mask;
	unsigned long interrupts, old, line = boot_cpu_data.x86_clflush_size;
	struct window *w;
	size_t i;

	local_irq_save(interrupts);
	w = this_cpu_ptr(windows);
	for (i = 0; i < pages; i++)
		WRITE_ONCE(*(u64 *)&w->ptes[i], ((pfn + i) << PAGE_SHIFT) | (flags & __supported_pte_mask));
	old = __native_read_cr3();
	/* The kernel's half as the address space at work has it. */
	memcpy(w->pgd + KERNEL_FIRST, (pgd_t *)__va(old & CR3_ADDR_MASK) + KERNEL_FIRST,
	       (PTRS_PER_PGD - KERNEL_FIRST) * sizeof(pgd_t));
	*(u64 *)&w->pgd[w->slot] = entry(pgtable_l5_enabled() ? (void *)w->p4d : (void *)w->pud);
	barrier();
	native_write_cr3(__sme_pa(w->pgd));
	if (flushing)
		flush(w->address, pages << PAGE_SHIFT, line);
	else
		wipe(w->address, pages << PAGE_SHIFT);
	native_write_cr3(old | (native_read_cr4() & X86_CR4_PCIDE ? X86_CR3_PCID_NOFLUSH : 0));
	for (i = 0; i < pages; i++)
		WRITE_ONCE(*(u64 *)&w->ptes[i], 0);
	local_irq_restore(interrupts);
}

static __always_inline void run(u64 pfn, size_t pages, bool flushing)
{
	while (pages) {
		size_t now = min_t(size_t, pages, SLICE);

		slice(pfn, now, flushing);
		pfn += now;
		pages -= now;
		cond_resched();
	}
}

void sr_wipe(u64 pfn, size_t pages)
{
	run(pfn, pages, false);
	atomic64_add(pages << PAGE_SHIFT, &sr_counters.wiped);
}

void sr_flush(u64 pfn, size_t pages)
{
	run(pfn, pages, true);
}
