// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0
/*
 * What is told of the driver: /sys/class/misc/strongroom, GET_ABI and GET_INFO.
 */
#include "strongroom.h"

#include <linux/device.h>
#include <linux/sysfs.h>

struct sr_counters sr_counters;

u64 sr_modes_served(void)
{
	u64 modes = STRONGROOM_EXCLUSIVE | STRONGROOM_UNCACHED | STRONGROOM_WRITE_COMBINING | STRONGROOM_SEALED;

	return SR_HUGE_ENTRIES ? modes | STRONGROOM_HUGE : modes;
}

static u64 properties(u64 lent_limit)
{
	u64 all = STRONGROOM_WRITE_BACK_RESERVED;

	if (IS_ENABLED(CONFIG_STRICT_DEVMEM) || !IS_ENABLED(CONFIG_DEVMEM))
		all |= STRONGROOM_DEV_MEM_CLOSED;
	if (lent_limit)
		all |= STRONGROOM_DYNAMIC_POOL;
	return all;
}

void sr_fill_abi(struct strongroom_abi *abi)
{
	struct sr_room_state state;

	sr_room_lock();
	strongroom_state(&state);
	sr_room_unlock();
	abi->modes = sr_modes_served();
	abi->properties = properties(state.lent_limit);
	abi->page = STRONGROOM_PAGE;
	abi->huge_page = SR_HUGE_ENTRIES ? STRONGROOM_HUGE_PAGE : 0;
	abi->total = state.total << PAGE_SHIFT;
	abi->user_limit = state.user_limit << PAGE_SHIFT;
}

void sr_fill_info(struct strongroom_info *info)
{
	struct sr_room_state state;

	sr_room_lock();
	strongroom_state(&state);
	sr_room_unlock();
	info->total = state.total << PAGE_SHIFT;
	info->free = state.free << PAGE_SHIFT;
	info->largest_free = state.largest_free << PAGE_SHIFT;
	info->held = info->total - info->free;
	info->metadata = state.metadata;
	info->objects = state.objects;
	info->small_entries = atomic64_read(&sr_counters.small_entries);
	info->huge_entries = atomic64_read(&sr_counters.huge_entries);
	info->faults = atomic64_read(&sr_counters.faults);
	info->wiped = atomic64_read(&sr_counters.wiped);
	info->refused_full = atomic64_read(&sr_counters.refused_full);
	info->refused_limit = atomic64_read(&sr_counters.refused_limit);
	info->refused_owner = atomic64_read(&sr_counters.refused_owner);
}

#define NUMBER(name)                                                                                    \
	static ssize_t name##_show(struct device *device, struct device_attribute *attribute, char *page) \
	{                                                                                               \
		struct strongroom_info info = {};                                                       \
                                                                                                        \
		sr_fill_info(&info);                                                                    \
		return sysfs_emit(page, "%llu\n", info.name);                                           \
	}                                                                                               \
	static DEVICE_ATTR_RO(name)

NUMBER(total);
NUMBER(free);
NUMBER(largest_free);
NUMBER(held);
NUMBER(metadata);
NUMBER(objects);
NUMBER(faults);
NUMBER(small_entries);
NUMBER(huge_entries);
NUMBER(wiped);
NUMBER(refused_full);
NUMBER(refused_limit);
NUMBER(refused_owner);

#define ABI_NUMBER(attribute, value)                                                                     \
	static ssize_t attribute##_show(struct device *device, struct device_attribute *a, char *page)   \
	{                                                                                                \
		struct strongroom_abi abi = {};                                                          \
                                                                                                         \
		sr_fill_abi(&abi);                                                                       \
		return sysfs_emit(page, "%llu\n", (u64)(value));                                         \
	}                                                                                                \
	static DEVICE_ATTR_RO(attribute)

ABI_NUMBER(user_limit, abi.user_limit);
ABI_NUMBER(modes, abi.modes);
ABI_NUMBER(properties, abi.properties);
ABI_NUMBER(version, STRONGROOM_VERSION);

#define ROOM_NUMBER(attribute, value)                                                                    \
	static ssize_t attribute##_show(struct device *device, struct device_attribute *a, char *page)   \
	{                                                                                                \
		struct sr_room_state state;                                                              \
                                                                                                         \
		sr_room_lock();                                                                          \
		strongroom_state(&state);                                                                \
		sr_room_unlock();                                                                        \
		return sysfs_emit(page, "%llu\n", (u64)(value));                                         \
	}                                                                                                \
	static DEVICE_ATTR_RO(attribute)

ROOM_NUMBER(lent, state.lent << PAGE_SHIFT);
ROOM_NUMBER(lent_limit, state.lent_limit << PAGE_SHIFT);
ROOM_NUMBER(joined, (u64)atomic64_read(&sr_counters.joined) << PMD_SHIFT);

static ssize_t holders_show(struct device *device, struct device_attribute *attribute, char *page)
{
	const struct sr_object *object;
	ssize_t length = 0;
	char line[80];

	sr_room_lock();
	list_for_each_entry(object, &sr_holders, holder) {
		int bytes = scnprintf(line, sizeof(line), "%d %u %llu %llu\n", object->pid, object->uid,
				      strongroom_held(object->runs) << PAGE_SHIFT, object->mode);

		/* Half a line would be another number. */
		if (length + bytes >= PAGE_SIZE)
			break;
		length += sysfs_emit_at(page, length, "%s", line);
	}
	sr_room_unlock();
	return length;
}
static DEVICE_ATTR_ADMIN_RO(holders);

static ssize_t ranges_show(struct device *device, struct device_attribute *attribute, char *page)
{
	return sr_carve_outs_show(page);
}
static DEVICE_ATTR_ADMIN_RO(ranges);

static ssize_t nodes_show(struct device *device, struct device_attribute *attribute, char *page)
{
	ssize_t length = 0;
	u64 pages, free;
	int node;

	sr_room_lock();
	/* Of some memory the firmware does not say where it is: NUMA_NO_NODE, -1. */
	for (node = NUMA_NO_NODE; node < MAX_NUMNODES; node++) {
		pages = strongroom_node(node, &free);
		if (pages)
			length += sysfs_emit_at(page, length, "%d %llu %llu\n", node, pages << PAGE_SHIFT,
						free << PAGE_SHIFT);
	}
	sr_room_unlock();
	return length;
}
static DEVICE_ATTR_RO(nodes);

static struct attribute *attributes[] = {
	&dev_attr_total.attr,
	&dev_attr_free.attr,
	&dev_attr_largest_free.attr,
	&dev_attr_held.attr,
	&dev_attr_metadata.attr,
	&dev_attr_objects.attr,
	&dev_attr_faults.attr,
	&dev_attr_small_entries.attr,
	&dev_attr_huge_entries.attr,
	&dev_attr_wiped.attr,
	&dev_attr_refused_full.attr,
	&dev_attr_refused_limit.attr,
	&dev_attr_refused_owner.attr,
	&dev_attr_user_limit.attr,
	&dev_attr_modes.attr,
	&dev_attr_properties.attr,
	&dev_attr_version.attr,
	&dev_attr_lent.attr,
	&dev_attr_lent_limit.attr,
	&dev_attr_joined.attr,
	&dev_attr_holders.attr,
	&dev_attr_ranges.attr,
	&dev_attr_nodes.attr,
	NULL,
};

static const struct attribute_group group = { .attrs = attributes };
const struct attribute_group *sr_attribute_groups[] = { &group, NULL };
