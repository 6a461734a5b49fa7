// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
/*
 * The pool's ranges: checked against what the kernel knows, claimed, stripped of every mapping.
 */
#include "strongroom.h"

#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/nodemask.h>
#include <linux/numa.h>
#include <linux/smp.h>
#include <asm/e820/api.h>
#include <asm/pgtable.h>
#include <asm/tlbflush.h>

#define RANGES 16
#define BLOCK (2UL << 20)

struct carve_out {
	u64 start;
	u64 size;
	/*
	 * What /dev/mem refuses even where iomem=relaxed lifts its other checks (resource_is_exclusive): exclusive
	 * system RAM. Not busy, so that nothing that looks for system RAM to use it finds any (as virtio_mem's).
	 */
	struct resource *cover;
	/* In it: no other driver's. */
	struct resource *claim;
	/* An address range without entries: with it the kernel remembers that the memory is write-back. */
	void __iomem *place;
	/* All checks passed: it may be written. */
	bool ours;
};

static struct carve_out carve_outs[RANGES];
static unsigned int count;

u64 sr_first_mapped(u64 start, u64 end, unsigned long offset)
{
	u64 at = start;

	while (at < end) {
		unsigned int level;
		pte_t *pte = lookup_address(at + offset, &level);

		if (pte && pte_present(*pte))
			return at;
		/* Nothing at this level: nothing as far as one of its entries reaches. */
		at = ALIGN_DOWN(at, page_level_size(level)) + page_level_size(level);
		cond_resched();
	}
	return end;
}

/* Takes every entry of a kernel address range out. */
static void strip(unsigned long start, u64 size)
{
	unsigned long at = start;

	while (at < start + size) {
		unsigned int level;
		pte_t *pte = lookup_address(at, &level);

		if (pte && pte_present(*pte)) {
			if (level == PG_LEVEL_4K)
				set_pte(pte, __pte(0));
			else if (level == PG_LEVEL_2M)
				set_pmd((pmd_t *)pte, __pmd(0));
			else if (level == PG_LEVEL_1G)
				set_pud((pud_t *)pte, __pud(0));
			else
				return;
		}
		at = ALIGN_DOWN(at, page_level_size(level)) + page_level_size(level);
	}
}

static void forget_translations(void *unused)
{
	__flush_tlb_all();
}

/* Memory of the machine that its firmware calls RAM and the kernel was told to leave alone. */
static int check(const struct carve_out *c)
{
	u64 end = c->start + c->size, at;

	if (region_intersects(c->start, c->size, IORESOURCE_SYSTEM_RAM, IORES_DESC_NONE) != REGION_DISJOINT) {
		pr_err("%#llx-%#llx is the kernel's own memory: set it aside with memmap=%lluM$%lluM\n",
		       c->start, end, c->size >> 20, c->start >> 20);
		return -EBUSY;
	}
	for (at = c->start; at < end; at += PAGE_SIZE) {
		if (!e820__mapped_raw_any(at, at + PAGE_SIZE, E820_TYPE_RAM)) {
			pr_err("%#llx is no RAM in the firmware's map\n", at);
			return -ENXIO;
		}
		if (!(at & (BLOCK - 1)))
			cond_resched();
	}
	at = sr_first_mapped(c->start, end, PAGE_OFFSET);
	if (at < end) {
		pr_err("%#llx is in the direct map\n", at);
		return -EBUSY;
	}
	return 0;
}

/* The room's ranges are of one node each: a carve-out may lie on several. */
static int add(const struct carve_out *c)
{
	u64 at = c->start, end = c->start + c->size;
	int error = 0;

	sr_room_lock();
	while (!error && at < end) {
		int node = phys_to_target_node(at);
		u64 from = at;

		do
			at += BLOCK;
		while (at < end && phys_to_target_node(at) == node);
		error = strongroom_add(from >> PAGE_SHIFT, (at - from) >> PAGE_SHIFT, node);
	}
	sr_room_unlock();
	if (error == -EINVAL)
		pr_err("the pool is in more than %u ranges\n", RANGES);
	return error;
}

static int claim(struct carve_out *c)
{
	const struct carve_out *other;
	int error;

	for (other = carve_outs; other < c; other++)
		if (c->start < other->start + other->size && other->start < c->start + c->size) {
			pr_err("%#llx-%#llx overlaps another range of pool\n", c->start, c->start + c->size);
			return -EINVAL;
		}
	error = check(c);
	if (error)
		return error;
	c->cover = __request_region(&iomem_resource, c->start, c->size, "strongroom", IORESOURCE_EXCLUSIVE);
	if (c->cover)
		c->claim = __request_region(c->cover, c->start, c->size, "strongroom", IORESOURCE_EXCLUSIVE);
	if (!c->claim) {
		pr_err("%#llx-%#llx is claimed by another driver\n", c->start, c->start + c->size);
		return -EBUSY;
	}
	/*
	 * For KVM the memory type of an address is what the kernel's list says (pat_pfn_immune_to_uc_mtrr), and
	 * this is the one way for a module to put write-back into it.
	 */
	c->place = ioremap_cache(c->start, c->size);
	if (!c->place) {
		pr_err("%#llx-%#llx cannot be cached\n", c->start, c->start + c->size);
		return -EIO;
	}
	strip((unsigned long)c->place, c->size);
	on_each_cpu(forget_translations, NULL, 1);
	if (sr_first_mapped(c->start, c->start + c->size, (unsigned long)c->place - c->start) < c->start + c->size) {
		pr_err("%#llx-%#llx keeps a kernel mapping\n", c->start, c->start + c->size);
		return -EIO;
	}
	/* After ioremap_cache, which maps no system RAM. */
	c->cover->flags |= IORESOURCE_SYSTEM_RAM;
	c->cover->flags &= ~IORESOURCE_BUSY;
	c->ours = true;
	sr_wipe(c->start >> PAGE_SHIFT, c->size >> PAGE_SHIFT);
	return add(c);
}

/* start:size, with K, M, G; whole blocks of 2 MiB inside of it. */
static int parse(const char **text, struct carve_out *c)
{
	char *at;
	u64 start, end;

	start = memparse(*text, &at);
	if (at == *text || *at != ':')
		return -EINVAL;
	*text = at + 1;
	end = memparse(*text, &at);
	if (at == *text || check_add_overflow(start, end, &end) || end > (u64)PHYSICAL_PAGE_MASK)
		return -EINVAL;
	if (*at == ',')
		at++;
	else if (*at && *at != '\n')
		return -EINVAL;
	*text = at;
	start = ALIGN(start, BLOCK);
	end = ALIGN_DOWN(end, BLOCK);
	if (start >= end)
		return -EINVAL;
	c->start = start;
	c->size = end - start;
	return 0;
}

int sr_carve_outs_claim(const char *ranges)
{
	const char *at = ranges;

	while (*at && *at != '\n') {
		struct carve_out *c = &carve_outs[count];
		int error;

		if (count == RANGES) {
			pr_err("more than %u ranges\n", RANGES);
			return -EINVAL;
		}
		error = parse(&at, c);
		if (error) {
			pr_err("not understood in pool: \"%s\"\n", at);
			return error;
		}
		count++;
		error = claim(c);
		if (error)
			return error;
	}
	return 0;
}

void sr_carve_outs_wipe(void)
{
	unsigned int i;

	for (i = 0; i < count; i++)
		if (carve_outs[i].ours)
			sr_wipe(carve_outs[i].start >> PAGE_SHIFT,
				carve_outs[i].size >> PAGE_SHIFT);
}

void sr_carve_outs_release(void)
{
	while (count) {
		struct carve_out *c = &carve_outs[--count];

		if (c->place)
			iounmap(c->place);
		if (c->claim)
			__release_region(c->cover, c->start, c->size);
		if (c->cover) {
			/* As it was given: the search for it passes over what is not busy. */
			c->cover->flags &= ~IORESOURCE_SYSRAM;
			c->cover->flags |= IORESOURCE_BUSY;
			__release_region(&iomem_resource, c->start, c->size);
		}
		memset(c, 0, sizeof(*c));
	}
}

ssize_t sr_carve_outs_show(char *page)
{
	ssize_t length = 0;
	unsigned int i;

	for (i = 0; i < count; i++)
		length += sysfs_emit_at(page, length, "%#llx-%#llx\n", carve_outs[i].start,
					carve_outs[i].start + carve_outs[i].size);
	return length;
}
