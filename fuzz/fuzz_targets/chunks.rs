//! The pool of chunks against the model that its tests have: any bytes are a sequence of calls.

#![no_main]

#[path = "../../crates/strongroom-core/tests/chunks_model/model.rs"]
mod model;

use libfuzzer_sys::fuzz_target;
use model::Model;
use strongroom_core::pool::{CHUNK_PAGES, ChunkPool};

const CHUNKS: usize = 6;

fuzz_target!(|bytes: &[u8]| {
    let mut metadata = vec![0; ChunkPool::metadata_words(CHUNKS)];
    let mut pool = ChunkPool::new(CHUNKS, &mut metadata);
    let mut model = Model::taken(CHUNKS);
    assert!(pool.give(0, CHUNKS * CHUNK_PAGES) && model.give(0, CHUNKS * CHUNK_PAGES));
    // The model looks at every page: a few hundred calls are enough of them.
    for call in bytes.chunks_exact(4).take(200) {
        let number = |low: usize| usize::from(u16::from_le_bytes([call[low], call[low + 1]]));
        // Both numbers have 13 bits, which is a little more than there are pages; one bit says which call.
        let (first, second) = (number(0) & 0x1fff, number(2) & 0x1fff);
        if call[1] & 0x80 == 0 {
            // Many small ones, and whole chunks.
            let pages = match call[1] >> 5 & 3 {
                0 => second & 15,
                1 => (second & 7) * CHUNK_PAGES,
                2 => second,
                _ => usize::MAX - second,
            };
            assert_eq!(pool.take(pages), model.take(pages));
        } else {
            assert_eq!(pool.give(first, second), model.give(first, second));
        }
        assert_eq!(pool.free_pages(), model.free());
        assert_eq!(pool.free_chunks(), model.free_chunks());
        assert_eq!(pool.largest_free_run(), model.largest());
    }
    for (page, &free) in model.pages().iter().enumerate() {
        assert_eq!(pool.is_taken(page, 1), !free);
    }
});
