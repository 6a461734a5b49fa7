//! The pool's edges: sizes, word and node borders, misuse, and the size it is built for.

use strongroom_core::pool::RunPool;

fn metadata(pages: usize) -> Vec<u64> {
    vec![0; RunPool::metadata_words(pages)]
}

const HALF_OF_USIZE: usize = 1 << (usize::BITS - 1);
/// 64 GiB of 4 KiB pages.
const HEAP_PAGES: usize = 16 << 20;

#[test]
fn every_size_gives_all_its_pages_and_not_one_more() {
    for pages in (1..1100).chain([4095, 4096, 4097, 32_768, 40_000, 262_145]) {
        let mut metadata = metadata(pages);
        let mut pool = RunPool::new(pages, &mut metadata);
        assert_eq!(pool.pages(), pages);
        assert_eq!((pool.free_pages(), pool.largest_free_run()), (0, 0));
        assert_eq!(pool.take(1), None);
        assert!(pool.is_taken(0, pages));

        assert!(!pool.give(0, pages + 1));
        assert!(!pool.give(pages, 1));
        assert!(pool.give(0, pages));
        assert_eq!((pool.free_pages(), pool.largest_free_run()), (pages, pages));
        assert!(pool.is_free(0, pages));
        assert!(!pool.is_free(0, pages + 1));

        assert_eq!(pool.take(pages + 1), None);
        assert!(!pool.take_at(1, pages));
        assert_eq!(pool.take(pages), Some(0));
        assert_eq!((pool.free_pages(), pool.largest_free_run()), (0, 0));

        assert!(pool.give(pages - 1, 1));
        assert_eq!(pool.take(1), Some(pages - 1));
    }
}

#[test]
fn a_pool_of_no_pages_refuses_everything() {
    let mut pool = RunPool::new(0, &mut []);
    assert_eq!(RunPool::metadata_words(0), 0);
    assert_eq!(pool.pages(), 0);
    assert_eq!(pool.largest_free_run(), 0);
    assert_eq!(pool.take(1), None);
    assert_eq!(pool.take_aligned(1, 1, 0), None);
    assert!(!pool.take_at(0, 1));
    assert!(!pool.give(0, 1));
    assert!(!pool.is_free(0, 1) && !pool.is_taken(0, 1));
}

#[test]
fn metadata_that_is_too_short_makes_a_pool_of_no_pages() {
    let mut metadata = metadata(1000);
    let short = metadata.len() - 1;
    let mut pool = RunPool::new(1000, &mut metadata[..short]);
    assert_eq!(pool.pages(), 0);
    assert!(!pool.give(0, 1));
    assert_eq!(RunPool::new(usize::MAX, &mut metadata).pages(), 0);
}

#[test]
fn metadata_beyond_what_is_needed_is_left_alone() {
    let mut metadata = metadata(1000);
    let needed = metadata.len();
    metadata.push(7);
    let mut pool = RunPool::new(1000, &mut metadata);
    assert!(pool.give(0, 1000));
    assert_eq!(metadata[needed], 7);
}

#[test]
fn no_pages_are_never_taken_given_free_or_taken_already() {
    let mut metadata = metadata(100);
    let mut pool = RunPool::new(100, &mut metadata);
    assert!(pool.give(0, 50));
    assert_eq!(pool.take(0), None);
    assert_eq!(pool.take_aligned(0, 1, 0), None);
    for start in [0, 49, 50, 100, usize::MAX] {
        assert!(!pool.take_at(start, 0));
        assert!(!pool.give(start, 0));
        assert!(!pool.is_free(start, 0));
        assert!(!pool.is_taken(start, 0));
    }
    assert_eq!(pool.free_pages(), 50);
}

#[test]
fn numbers_near_the_end_of_usize_are_out_of_range() {
    let mut metadata = metadata(100);
    let mut pool = RunPool::new(100, &mut metadata);
    assert!(pool.give(0, 100));
    for (start, n) in [
        (0, usize::MAX),
        (usize::MAX, 1),
        (usize::MAX, usize::MAX),
        (1, usize::MAX),
        (99, 2),
    ] {
        assert!(!pool.take_at(start, n));
        assert!(!pool.give(start, n));
        assert!(!pool.is_free(start, n));
        assert!(!pool.is_taken(start, n));
    }
    assert_eq!(pool.take(usize::MAX), None);
    assert_eq!(
        pool.take_aligned(usize::MAX, HALF_OF_USIZE, usize::MAX),
        None
    );
    assert_eq!(pool.free_pages(), 100);
    // The only aligned page is 1, as `phase` wraps to 0 there.
    assert_eq!(pool.take_aligned(5, HALF_OF_USIZE, usize::MAX), Some(1));
    assert_eq!(pool.take_aligned(5, HALF_OF_USIZE, usize::MAX), None);
}

#[test]
fn a_double_give_changes_nothing() {
    let mut metadata = metadata(2000);
    let mut pool = RunPool::new(2000, &mut metadata);
    assert!(pool.give(100, 1000));
    assert!(!pool.give(100, 1000));
    assert!(!pool.give(1099, 1));
    // One page of it is free, at either end or in the middle.
    assert!(!pool.give(0, 101));
    assert!(!pool.give(1099, 500));
    assert!(!pool.give(0, 2000));
    assert_eq!((pool.free_pages(), pool.largest_free_run()), (1000, 1000));
    assert!(pool.is_taken(0, 100) && pool.is_free(100, 1000) && pool.is_taken(1100, 900));
}

#[test]
fn runs_are_found_across_words_and_nodes() {
    // Borders of a word, a node of 8 words, and a node of 64.
    for border in [64, 128, 512, 1024, 4096, 8192, 32_768] {
        for before in [1, 2, 63, 64, 65, 511, 512] {
            for after in [1, 2, 63, 64, 65, 511, 512, 4000] {
                let pages = 40_000;
                let mut metadata = metadata(pages);
                let mut pool = RunPool::new(pages, &mut metadata);
                let Some(start) = usize::checked_sub(border, before) else {
                    continue;
                };
                // Given in two parts: they must join.
                assert!(pool.give(border, after));
                assert!(pool.give(start, before));
                let n = before + after;
                assert_eq!(pool.largest_free_run(), n);
                assert_eq!(pool.take(n + 1), None);
                assert_eq!(pool.take(n), Some(start));
                assert_eq!(pool.largest_free_run(), 0);
            }
        }
    }
}

#[test]
fn runs_of_every_length_are_found_at_every_place_of_a_word() {
    let mut metadata = metadata(4096);
    let mut pool = RunPool::new(4096, &mut metadata);
    for n in 1..=130 {
        for start in 1024..1024 + 64 {
            assert!(pool.give(start, n));
            assert_eq!(pool.take(n + 1), None);
            assert_eq!(pool.take(n), Some(start));
            assert!(pool.give(start, n));
            // No other page of this run is so aligned.
            assert_eq!(pool.take_aligned(n, 256, 256 - start % 256), Some(start));
            assert_eq!(pool.free_pages(), 0);
        }
    }
}

#[test]
fn the_lowest_run_wins_even_when_a_higher_one_fits_exactly() {
    let mut metadata = metadata(10_000);
    let mut pool = RunPool::new(10_000, &mut metadata);
    for (start, n) in [(10, 3), (60, 10), (500, 100), (9000, 4)] {
        assert!(pool.give(start, n));
    }
    assert_eq!(pool.take(4), Some(60));
    assert_eq!(pool.take(4), Some(64));
    assert_eq!(pool.take(3), Some(10));
    assert_eq!(pool.take(3), Some(500));
    assert_eq!(pool.take(2), Some(68));
    assert_eq!(pool.take(97), Some(503));
    assert_eq!(pool.take(5), None);
    assert_eq!(pool.take(4), Some(9000));
    assert_eq!(pool.free_pages(), 0);
}

#[test]
fn a_run_grows_in_place_until_a_page_is_taken() {
    let mut metadata = metadata(1000);
    let mut pool = RunPool::new(1000, &mut metadata);
    assert!(pool.give(0, 1000));
    assert_eq!(pool.take(10), Some(0));
    assert!(pool.take_at(200, 1));
    assert!(pool.take_at(10, 150));
    assert!(!pool.take_at(160, 41));
    assert_eq!(pool.free_pages(), 1000 - 161);
    assert!(pool.take_at(160, 40));
    assert_eq!(pool.take(1), Some(201));
}

#[test]
fn alignment_counts_from_the_phase() {
    let mut metadata = metadata(5000);
    let mut pool = RunPool::new(5000, &mut metadata);
    assert!(pool.give(3, 4997));
    for not_a_power in [0, 3, 6, 48, usize::MAX] {
        assert_eq!(pool.take_aligned(1, not_a_power, 0), None);
    }
    assert_eq!(pool.take_aligned(1, 4, 0), Some(4));
    assert_eq!(pool.take_aligned(1, 4, 1), Some(3));
    // Long enough from page 5 on, but aligned only at 512 and, with the phase, at 412.
    assert_eq!(pool.take_aligned(512, 512, 100), Some(412));
    assert_eq!(pool.take_aligned(512, 512, 0), Some(1024));
    assert_eq!(pool.take_aligned(2, 64, usize::MAX), Some(65));
    assert_eq!(pool.take_aligned(1000, 2048, 0), Some(2048));
    assert_eq!(pool.take_aligned(1000, 2048, 0), None);
    assert_eq!(pool.take_aligned(904, 4096, 0), Some(4096));
}

#[test]
fn an_aligned_run_is_found_behind_many_long_ones_that_lie_wrong() {
    let pages = 1 << 20;
    let mut metadata = metadata(pages);
    let mut pool = RunPool::new(pages, &mut metadata);
    // In every 1024 pages a run of 600 from page 100 on: no 512 of them are aligned.
    for block in 0..1000 {
        assert!(pool.give(block * 1024 + 100, 600));
    }
    assert_eq!(pool.take_aligned(512, 512, 0), None);
    assert!(pool.give(1000 * 1024, 512));
    assert_eq!(pool.take_aligned(512, 512, 0), Some(1000 * 1024));
    assert_eq!(pool.take_aligned(512, 512, 412), Some(100));
}

#[test]
fn the_metadata_is_below_a_five_hundredth_of_the_memory() {
    let fraction =
        |pages: usize| RunPool::metadata_words(pages) as f64 * 8.0 / (pages as f64 * 4096.0);
    for pages in (9..100_000).chain([HEAP_PAGES, HEAP_PAGES + 1, 1 << 30]) {
        assert!(
            fraction(pages) < 0.002,
            "{pages} pages: {}",
            fraction(pages)
        );
    }
    // The figure that the documentation states: 0.0035 %.
    assert!(fraction(HEAP_PAGES) < 0.000_035);
}

#[test]
fn sixteen_million_pages_work_over_zeroed_memory() {
    let mut metadata = metadata(HEAP_PAGES);
    let mut pool = RunPool::new(HEAP_PAGES, &mut metadata);
    assert_eq!(pool.take(1), None);

    // Chunks, as the heap gives them: from the start, and far away.
    assert!(pool.give(0, 512));
    assert!(pool.give(HEAP_PAGES - 512, 512));
    assert_eq!(pool.largest_free_run(), 512);
    assert_eq!(pool.take(500), Some(0));
    assert_eq!(pool.take(500), Some(HEAP_PAGES - 512));
    assert_eq!(pool.take(12), Some(500));
    assert_eq!(pool.take(12), Some(HEAP_PAGES - 12));
    assert_eq!(pool.take(1), None);

    // All of it, which the wide root counts, and the half, which a narrow node cannot.
    assert!(pool.give(0, HEAP_PAGES));
    assert_eq!(pool.largest_free_run(), HEAP_PAGES);
    assert!(pool.take_at(HEAP_PAGES / 2, 1));
    assert_eq!(pool.largest_free_run(), HEAP_PAGES / 2);
    assert_eq!(pool.take(HEAP_PAGES / 2 - 1), Some(0));
    assert_eq!(
        pool.take(HEAP_PAGES / 2 - 1),
        Some(HEAP_PAGES / 2 + 1),
        "the upper half, but for its first page"
    );
    assert_eq!(pool.take(1), Some(HEAP_PAGES / 2 - 1));
    assert_eq!(pool.free_pages(), 0);
    assert!(pool.give(0, HEAP_PAGES));
    assert_eq!(pool.take(HEAP_PAGES), Some(0));
    assert!(metadata.iter().all(|&word| word == 0));
}

#[test]
fn parts_that_were_never_given_keep_zero_metadata() {
    let mut metadata = metadata(HEAP_PAGES);
    let mut pool = RunPool::new(HEAP_PAGES, &mut metadata);
    assert!(pool.give(5_000_000, 512));
    assert_eq!(pool.take_aligned(3, 2, 0), Some(5_000_000));
    assert_eq!(pool.take(512), None);
    // The bits of the chunk (9 words where it lies across two), and two nodes a level.
    let touched = metadata.iter().filter(|&&word| word != 0).count();
    assert!(touched <= 9 + 2 * 5 + 3, "{touched}");
}

#[test]
fn metadata_that_was_not_zero_gives_wrong_answers_but_no_panic() {
    let pages = HEAP_PAGES;
    let mut state = 1_u64;
    let mut metadata: Vec<u64> = metadata(pages)
        .iter()
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state ^ state >> 32
        })
        .collect();
    let mut pool = RunPool::new(pages, &mut metadata);
    for round in 0..2000 {
        let n = 1 << (round % 30);
        let _ = pool.take(n);
        let _ = pool.take_aligned(n, 1 << (round % 11), round);
        let _ = pool.take_at(round * 1000, 3);
        let _ = pool.give(round * 1000, n);
        let _ = pool.largest_free_run();
    }
}
