// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
/*
 * The second kind of pool: blocks of 2 MiB that the kernel lends, taken out of its direct map whole and put
 * back whole. It needs symbols that no stock kernel exports (ABI.md, "Memory that the kernel lends"); Kbuild
 * looks whether they are there.
 */
#include "strongroom.h"

#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/slab.h>
#include <linux/string.h>

#define ORDER (PMD_SHIFT - PAGE_SHIFT)
#define BLOCK_PAGES (1U << ORDER)

#if SR_LENDING

#include <linux/io.h>
#include <linux/set_memory.h>
#include <asm/pgtable.h>

/* asm/tlbflush.h hides it from modules. */
void flush_tlb_kernel_range(unsigned long start, unsigned long end);

/* All that are lent, by the lru of their first pages, which is ours as the pages are. */
static LIST_HEAD(lent);
static DEFINE_MUTEX(lent_lock);

/* One flush for all of them. */
static void flush_blocks(const struct list_head *blocks)
{
	const struct page *page;
	unsigned long start = ULONG_MAX, end = 0;

	list_for_each_entry(page, blocks, lru) {
		unsigned long address = (unsigned long)page_address(page);

		start = min(start, address);
		end = max(end, address + PMD_SIZE);
	}
	if (start < end)
		flush_tlb_kernel_range(start, end);
}

/*
 * A block whose entries are 4 KiB ones that could be one of 2 MiB gets that: something had cut it, and
 * nothing in the kernel (6.12) ever joins what it cut. Returns the table that is no longer used; it is freed
 * after the flush. Nobody else changes entries of these addresses: all pages are ours.
 */
static struct page *collapse(const struct page *page)
{
	const pteval_t varying = _PAGE_ACCESSED | _PAGE_DIRTY;
	unsigned long address = (unsigned long)page_address(page);
	struct page *table = NULL;
	pteval_t flags = 0;
	unsigned int i;
	pte_t *ptes;
	pmd_t *pmd;

	/* There, small entries are wanted. */
	if (IS_ENABLED(CONFIG_DEBUG_PAGEALLOC))
		return NULL;
	pmd = pmd_offset(pud_offset(p4d_offset(pgd_offset(current->active_mm, address), address), address), address);
	spin_lock(&pgd_lock);
	if (!pmd_present(*pmd) || pmd_leaf(*pmd))
		goto out;
	ptes = (pte_t *)pmd_page_vaddr(*pmd);
	for (i = 0; i < BLOCK_PAGES; i++) {
		pte_t pte = READ_ONCE(ptes[i]);

		if (!pte_present(pte) || pte_pfn(pte) != page_to_pfn(page) + i)
			goto out;
		if (!i)
			flags = pte_flags(pte) & ~varying;
		if ((pte_flags(pte) & ~varying) != flags)
			goto out;
	}
	/* Not write-back, or read-only: somebody's doing. */
	if (flags & (_PAGE_PAT | _PAGE_PCD | _PAGE_PWT) || !(flags & _PAGE_RW))
		goto out;
	table = virt_to_page(ptes);
	set_pmd(pmd, __pmd((u64)page_to_phys(page) | flags | varying | _PAGE_PSE));
out:
	spin_unlock(&pgd_lock);
	if (table) {
		update_page_count(PG_LEVEL_4K, -(unsigned long)BLOCK_PAGES);
		update_page_count(PG_LEVEL_2M, 1);
	}
	return table;
}

static bool is_damaged(const struct page *page)
{
	unsigned int i;

	for (i = 0; i < BLOCK_PAGES; i++)
		if (PageHWPoison(page + i))
			return true;
	return false;
}

/* Gives wiped blocks back to the kernel. */
static void put_back(struct list_head *blocks)
{
	size_t count = list_count_nodes(blocks), cut = 0;
	struct page **tables, *page, *next;

	if (!count)
		return;
	/* Without memory for it, entries stay small. */
	tables = kvcalloc(count, sizeof(*tables), GFP_KERNEL | __GFP_NOWARN);
	list_for_each_entry_safe(page, next, blocks, lru) {
		if (is_damaged(page) || set_direct_map_valid_noflush(page, BLOCK_PAGES, true)) {
			pr_err("2 MiB at %#llx are damaged, and not used again\n", (u64)page_to_phys(page));
			list_del(&page->lru);
			continue;
		}
		if (tables) {
			tables[cut] = collapse(page);
			cut += !!tables[cut];
		}
	}
	/* What was not there needs no flush; a table that goes does. */
	if (cut)
		flush_blocks(blocks);
	atomic64_add(cut, &sr_counters.joined);
	while (cut) {
		struct page *table = tables[--cut];

		/* Those of the boot are no pages of the allocator's. */
		if (!PageReserved(table))
			__free_page(table);
	}
	kvfree(tables);
	list_for_each_entry_safe(page, next, blocks, lru) {
		list_del(&page->lru);
		__free_pages(page, ORDER);
	}
}

/* Moves as many as there are into `taken`, out of the direct map and wiped. */
static void take(size_t wanted, int node, struct list_head *taken)
{
	const gfp_t how = GFP_KERNEL_ACCOUNT | __GFP_NORETRY | __GFP_NOWARN;
	struct page *page, *next;
	LIST_HEAD(failed);

	for (; wanted; wanted--) {
		page = alloc_pages_node(node, how, ORDER);
		if (!page)
			break;
		if (set_direct_map_valid_noflush(page, BLOCK_PAGES, false)) {
			/* A part may be out. */
			list_add(&page->lru, &failed);
			break;
		}
		list_add_tail(&page->lru, taken);
		cond_resched();
	}
	flush_blocks(taken);
	list_for_each_entry_safe(page, next, taken, lru) {
		u64 start = page_to_phys(page);

		if (sr_first_mapped(start, start + PMD_SIZE, PAGE_OFFSET) < start + PMD_SIZE)
			list_move(&page->lru, &failed);
		else
			sr_wipe(page_to_pfn(page), BLOCK_PAGES);
	}
	put_back(&failed);
}

void sr_blocks_take(size_t wanted, int node)
{
	struct page *page, *next;
	LIST_HEAD(taken);

	if (!wanted)
		return;
	take(wanted, node, &taken);
	mutex_lock(&lent_lock);
	sr_room_lock();
	/* Others took, too: the limit may be reached. */
	list_for_each_entry_safe(page, next, &taken, lru)
		if (!sr_revoked && strongroom_add_block(page_to_pfn(page)))
			list_move(&page->lru, &lent);
	sr_room_unlock();
	mutex_unlock(&lent_lock);
	put_back(&taken);
}

void sr_blocks_return(void)
{
	LIST_HEAD(spare);
	u64 pfn;

	mutex_lock(&lent_lock);
	sr_room_lock();
	while (strongroom_spare_block(&pfn))
		list_move(&pfn_to_page(pfn)->lru, &spare);
	sr_room_unlock();
	mutex_unlock(&lent_lock);
	put_back(&spare);
}

void sr_blocks_wipe(void)
{
	const struct page *page;

	mutex_lock(&lent_lock);
	list_for_each_entry(page, &lent, lru)
		sr_wipe(page_to_pfn(page), BLOCK_PAGES);
	mutex_unlock(&lent_lock);
}

int sr_blocks_allow(const char *size)
{
	char *end;
	u64 bytes = memparse(size, &end);
	int error;

	if (*end && *end != '\n') {
		pr_err("not understood in lend: \"%s\"\n", size);
		return -EINVAL;
	}
	sr_room_lock();
	/* high_memory is the end of the memory that the kernel maps; max_pfn is not exported. */
	error = strongroom_lend(PHYS_PFN((unsigned long)high_memory - PAGE_OFFSET), ALIGN_DOWN(bytes, PMD_SIZE) >> PAGE_SHIFT);
	sr_room_unlock();
	return error;
}

#else

void sr_blocks_take(size_t wanted, int node)
{
}

void sr_blocks_return(void)
{
}

void sr_blocks_wipe(void)
{
}

int sr_blocks_allow(const char *size)
{
	pr_err("lend: this kernel does not export what that needs (driver/ABI.md)\n");
	return -EOPNOTSUPP;
}

#endif
