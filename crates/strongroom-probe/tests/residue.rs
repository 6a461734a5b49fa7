//! Residue: what is left in physical memory of a process that is gone.
//!
//! A process of its own: whoever reads a free frame may go on reading it for a while after
//! it became secret, by a stale translation (see the direct map's attacker).

mod marked;

use marked::{Kind, LEN, Victim, is_root, secret, skip};
use strongroom_probe::attack::direct_map::Reader;
use strongroom_probe::attack::residue;
use strongroom_sys::PAGE;

#[test]
fn the_victim_itself() {
    marked::be_victim();
}

#[test]
fn a_killed_process_leaves_ordinary_pages_and_no_secret_ones() {
    const ROUNDS: usize = 20;
    if !is_root() {
        return;
    }
    let reader = match Reader::new() {
        Ok(reader) => reader,
        Err(why) => return skip(why),
    };
    let left_behind = |victim: Victim| {
        let frames = residue::frames(victim.pid(), victim.address, LEN).unwrap();
        assert_eq!(frames.len(), LEN / PAGE);
        let marker = victim.contents[..8].to_vec();
        victim.kill();
        residue::reread_with(&reader, &frames)
            .unwrap()
            .into_iter()
            .flatten()
            .filter(|page| page.windows(8).any(|bytes| bytes == marker))
            .count()
    };
    // The kernel may use a page again before it is looked at.
    let found = (0..ROUNDS).any(|_| left_behind(Victim::start(Kind::Plain, None)) != 0);
    if !found {
        return skip("no ordinary page was left behind (init_on_free?)");
    }
    for _ in 0..ROUNDS {
        let Some(secret) = secret() else { return };
        assert_eq!(left_behind(secret), 0);
    }
}
