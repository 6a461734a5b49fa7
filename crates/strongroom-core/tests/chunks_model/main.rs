//! The pool of chunks against a model that keeps one `bool` a page and searches by looking.

mod model;

use model::Model;
use proptest::prelude::*;
use strongroom_core::pool::{CHUNK_PAGES, ChunkPool};

#[derive(Clone, Debug)]
enum Step {
    Take(usize),
    Give(usize, usize),
    /// Gives back all or part of what an earlier step took.
    GiveTaken(usize, usize, usize),
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 1_usize..17,
        2 => 1_usize..600,
        4 => (1_usize..5).prop_map(|chunks| chunks * CHUNK_PAGES),
        1 => 1_usize..3000,
        1 => prop_oneof![Just(0), Just(usize::MAX), Just(usize::MAX - 511)],
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => length().prop_map(Step::Take),
        1 => (0_usize..5200, length()).prop_map(|(start, n)| Step::Give(start, n)),
        5 => (any::<usize>(), 0_usize..4, 0_usize..4)
            .prop_map(|(which, low, high)| Step::GiveTaken(which, low, high)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_chunks_answer_as_the_model_does(
        chunks in 1_usize..10,
        given in (0_usize..700, 1_usize..5200),
        steps in proptest::collection::vec(step(), 1..100),
    ) {
        let mut metadata = vec![0; ChunkPool::metadata_words(chunks)];
        let mut pool = ChunkPool::new(chunks, &mut metadata);
        let mut model = Model::taken(chunks);
        // At first not always whole chunks, as where a carve-out begins within one.
        let (start, n) = given;
        let n = n.min((chunks * CHUNK_PAGES).saturating_sub(start));
        prop_assert_eq!(pool.give(start, n), model.give(start, n));
        let mut taken: Vec<(usize, usize)> = Vec::new();
        for step in steps {
            match step {
                Step::Take(n) => {
                    let start = pool.take(n);
                    prop_assert_eq!(start, model.take(n));
                    if let Some(start) = start {
                        prop_assert!(pool.is_taken(start, n));
                        taken.push((start, n));
                    }
                }
                Step::Give(start, n) => prop_assert_eq!(pool.give(start, n), model.give(start, n)),
                Step::GiveTaken(..) if taken.is_empty() => {}
                Step::GiveTaken(which, low, high) => {
                    let (start, n) = taken.swap_remove(which % taken.len());
                    let low = low * n / 8;
                    let part = n - low - high * n / 8;
                    prop_assert_eq!(pool.give(start + low, part), model.give(start + low, part));
                    prop_assert!(!pool.give(start + low, part), "twice");
                }
            }
            prop_assert_eq!(pool.free_pages(), model.free());
            prop_assert_eq!(pool.free_chunks(), model.free_chunks());
            prop_assert_eq!(pool.largest_free_run(), model.largest());
        }
        for (page, &free) in model.pages().iter().enumerate() {
            prop_assert_eq!(pool.is_taken(page, 1), !free);
        }
    }
}

#[test]
fn a_chunk_is_whole_again_when_its_last_page_comes_back() {
    let mut metadata = vec![0; ChunkPool::metadata_words(4)];
    let mut pool = ChunkPool::new(4, &mut metadata);
    assert!(pool.give(0, 4 * CHUNK_PAGES));
    let pages: Vec<_> = (0..CHUNK_PAGES).map_while(|_| pool.take(1)).collect();
    assert_eq!(pages, (0..CHUNK_PAGES).collect::<Vec<_>>());
    assert_eq!(
        (pool.free_chunks(), pool.free_pages()),
        (3, 3 * CHUNK_PAGES)
    );
    for &page in &pages {
        assert_eq!(pool.free_chunks(), 3);
        assert!(pool.give(page, 1));
    }
    assert_eq!(pool.free_chunks(), 4);
    assert_eq!(pool.take(4 * CHUNK_PAGES), Some(0));
}

#[test]
fn what_is_small_does_not_cut_chunks_while_others_have_room() {
    let mut metadata = vec![0; ChunkPool::metadata_words(100)];
    let mut pool = ChunkPool::new(100, &mut metadata);
    assert!(pool.give(0, 100 * CHUNK_PAGES));
    let large: Vec<_> = (0..50).map_while(|_| pool.take(CHUNK_PAGES)).collect();
    let small: Vec<_> = (0..200).map_while(|_| pool.take(4)).collect();
    // 800 pages: two chunks.
    assert_eq!(pool.free_chunks(), 48);
    // Large ones that go leave whole chunks, and small ones go where small ones were.
    for start in large {
        assert!(pool.give(start, CHUNK_PAGES));
    }
    for start in small.iter().step_by(2) {
        assert!(pool.give(*start, 4));
    }
    let again: Vec<_> = (0..100).map_while(|_| pool.take(4)).collect();
    assert_eq!(again.len(), 100);
    assert_eq!(pool.free_chunks(), 98);
}

#[test]
fn a_pool_that_cannot_be_described_has_no_pages() {
    let mut metadata = vec![0; ChunkPool::metadata_words(9)];
    let short = metadata.len() - 1;
    for (chunks, words) in [(0, 0), (9, 0), (9, short), (usize::MAX, short)] {
        let mut pool = ChunkPool::new(chunks, &mut metadata[..words]);
        assert_eq!((pool.pages(), pool.free_pages()), (0, 0));
        assert_eq!(pool.take(1), None);
        assert_eq!(pool.take(CHUNK_PAGES), None);
        assert!(!pool.give(0, 1));
        assert!(!pool.is_taken(0, 1));
    }
    assert_eq!(ChunkPool::new(9, &mut metadata).pages(), 9 * CHUNK_PAGES);
}
