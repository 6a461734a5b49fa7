//! Things that have a beginning of their own, searched for all at once.

use super::{Found, View, der, openssh, pem, shield};
use aho_corasick::AhoCorasick;
use aho_corasick::packed::{Config, MatchKind, Searcher};

/// Looks at a place where the beginning is, and says what starts there or around it.
type Parse = fn(&View<'_>, usize) -> Option<Found>;

const BEGINNINGS: [(&[u8], Parse); 9] = [
    (b"-----BEGIN ", pem::at),
    (b"openssh-key-v1\0", openssh::file_at),
    (b"\0\0\0\x0bssh-ed25519\0\0\0\x20", openssh::blob_at),
    (b"\0\0\0\x07ssh-rsa\0\0", openssh::blob_at),
    (b"\0\0\0\x13ecdsa-sha2-nistp", openssh::blob_at),
    // PKCS#1: version 0 and a long number.
    (b"\x02\x01\x00\x02", der::at_version),
    // PKCS#8: version 0 and a sequence.
    (b"\x02\x01\x00\x30", der::at_version),
    // SEC1: version 1 and octets.
    (b"\x02\x01\x01\x04", der::at_version),
    // The length of a prekey.
    (b"\x00\x40\x00\x00\x00\x00\x00\x00", shield::at),
];

/// The finder.
pub(super) struct Structures {
    searcher: Engine,
}

/// Where the processor has no vectors for it, the automaton.
enum Engine {
    Packed(Searcher),
    Automaton(Option<AhoCorasick>),
}

impl Structures {
    pub(super) fn new() -> Self {
        let beginnings = BEGINNINGS.iter().map(|(bytes, _)| bytes);
        let packed = Config::new()
            .match_kind(MatchKind::LeftmostFirst)
            .builder()
            .extend(beginnings.clone())
            .build();
        let searcher = packed.map_or_else(
            || Engine::Automaton(AhoCorasick::new(beginnings).ok()),
            Engine::Packed,
        );
        Self { searcher }
    }

    pub(super) fn find(&self, view: &View<'_>, found: &mut Vec<Found>) {
        // What starts in the body may have its mark after the body's end, and so the search goes on.
        let mut act = |pattern: usize, place: usize| {
            let parse = BEGINNINGS.get(pattern).map(|(_, parse)| parse);
            let thing = parse.and_then(|parse| parse(view, place));
            found.extend(thing.filter(|thing| {
                let place = thing.address.wrapping_sub(view.base);
                usize::try_from(place).is_ok_and(|place| view.body.contains(&place))
            }));
        };
        match &self.searcher {
            Engine::Packed(searcher) => {
                for hit in searcher.find_iter(view.bytes) {
                    act(hit.pattern().as_usize(), hit.start());
                }
            }
            Engine::Automaton(automaton) => {
                for hit in automaton.iter().flat_map(|a| a.find_iter(view.bytes)) {
                    act(hit.pattern().as_usize(), hit.start());
                }
            }
        }
    }
}
