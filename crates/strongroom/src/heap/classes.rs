//! Size classes: multiples of 16 bytes up to 128, then four to each doubling.

use strongroom_sys::PAGE;

/// The unit of allocation, and the alignment of every block, in bytes.
pub(super) const UNIT: usize = 16;
/// The largest size that has a class, in bytes. Larger blocks are whole pages.
pub(super) const LARGEST: usize = 32 * 1024;
/// How many classes there are.
pub(super) const COUNT: usize = 40;

/// The block size of each class, in bytes.
pub(super) const SIZES: [u32; COUNT] = {
    let mut sizes = [0; COUNT];
    let mut class = 0;
    while class < COUNT {
        sizes[class] = if class < 8 {
            (class as u32 + 1) * 16
        } else {
            let doubling = (class as u32 - 8) / 4;
            let quarter = (class as u32 - 8) % 4;
            (128 + (quarter + 1) * 32) << doubling
        };
        class += 1;
    }
    sizes
};

/// How many pages a span of each class has: the fewest that waste an eighth at most and, for
/// small blocks, one, so that a limit of 64 KiB still holds many classes.
pub(super) const SPAN_PAGES: [u8; COUNT] = {
    let mut pages = [0; COUNT];
    let mut class = 0;
    while class < COUNT {
        let size = SIZES[class] as usize;
        let mut n = 1;
        while n * PAGE < size || (n * PAGE) % size * 8 > n * PAGE {
            n += 1;
        }
        // Blocks of a page and more: a few to a span spare trips to the page pool.
        if size >= 1024 {
            while n * PAGE < size * 4 && n * PAGE < 64 * 1024 {
                n *= 2;
            }
        }
        pages[class] = n as u8;
        class += 1;
    }
    pages
};

/// How many blocks a span of each class holds; 256 at most.
pub(super) const SPAN_BLOCKS: [u16; COUNT] = {
    let mut blocks = [0; COUNT];
    let mut class = 0;
    while class < COUNT {
        let fit = SPAN_PAGES[class] as usize * PAGE / SIZES[class] as usize;
        assert!(fit >= 1 && fit <= 256);
        blocks[class] = fit as u16;
        class += 1;
    }
    blocks
};

/// The class of each size up to 1 KiB, by its number of units.
const BY_UNITS: [u8; 1024 / UNIT + 1] = {
    let mut table = [0; 1024 / UNIT + 1];
    let mut units = 0;
    while units < table.len() {
        let mut class = 0;
        while (SIZES[class] as usize) < units * UNIT {
            class += 1;
        }
        table[units] = class as u8;
        units += 1;
    }
    table
};

/// The smallest class whose blocks hold `size` bytes; `size` must be at most [`LARGEST`].
#[inline(always)]
pub(super) const fn class_of(size: usize) -> usize {
    if size <= 1024 {
        return BY_UNITS[size.div_ceil(UNIT)] as usize;
    }
    // Sizes in (128 << d, 256 << d] share doubling d; its quarters are 32 << d wide.
    let above = size - 1;
    let doubling = above.ilog2() as usize - 7;
    8 + doubling * 4 + ((above >> (doubling + 5)) & 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_gets_the_smallest_class_that_holds_it() {
        assert_eq!(SIZES[COUNT - 1] as usize, LARGEST);
        for size in 0..=LARGEST {
            let class = class_of(size);
            assert!(SIZES[class] as usize >= size, "{size}");
            assert!(class == 0 || (SIZES[class - 1] as usize) < size, "{size}");
        }
    }

    #[test]
    fn power_of_two_classes_are_aligned_to_their_size() {
        for class in 0..COUNT {
            let size = SIZES[class] as usize;
            assert_eq!(size % UNIT, 0);
            let waste = SPAN_PAGES[class] as usize * PAGE - SPAN_BLOCKS[class] as usize * size;
            assert!(
                waste * 8 <= SPAN_PAGES[class] as usize * PAGE,
                "class {class} wastes {waste}"
            );
        }
    }
}
