//! The direct map: what the kernel itself reads of a process's pages.

mod marked;

use marked::{Kind, LEN, Victim, is_root, secret, skip};
use std::time::Duration;
use strongroom_probe::attack::direct_map::{self, Answer, Reader};
use strongroom_probe::attack::residue;
use strongroom_sys::PAGE;

const PATIENCE: Duration = Duration::from_secs(3);

#[test]
fn the_victim_itself() {
    marked::be_victim();
}

#[test]
fn an_ordinary_page_is_read_and_a_secret_page_faults() {
    if !is_root() {
        return;
    }
    let reader = match Reader::new() {
        Ok(reader) => reader,
        Err(why) => return skip(why),
    };
    let plain = Victim::start(Kind::Plain, None);
    let read = reader.read(plain.pid(), plain.address, LEN).unwrap();
    assert!(read == Answer::Bytes(plain.contents.clone()));
    // Neither aligned nor whole pages, by the other way in.
    let within = direct_map::read(plain.pid(), plain.address + 100, 2 * PAGE).unwrap();
    assert!(within == Answer::Bytes(plain.contents[100..][..2 * PAGE].to_vec()));

    let Some(secret) = secret() else { return };
    // These two are holes of the kernel's own, see the attacker's description.
    let frames = residue::frames(secret.pid(), secret.address, LEN).unwrap();
    for (frame, marked) in frames.into_iter().zip(secret.contents.chunks(PAGE)) {
        match reader.frame(frame).unwrap() {
            None => {}
            Some(page) => {
                assert!(page == *marked);
                if reader.is_of_kernel_image(frame) {
                    println!("read through the kernel's image: frame {frame:#x}");
                } else {
                    assert!(
                        reader.fades(frame, PATIENCE).unwrap(),
                        "read at frame {frame:#x}"
                    );
                    println!("read by a stale translation: frame {frame:#x}");
                }
            }
        }
    }
}

#[test]
fn kcore_gives_an_ordinary_page_and_no_secret() {
    if !is_root() {
        return;
    }
    let plain = Victim::start(Kind::Plain, None);
    match direct_map::read_kcore(plain.pid(), plain.address, LEN) {
        Ok(read) => assert!(read == Answer::Bytes(plain.contents.clone())),
        Err(why) if !std::path::Path::new("/proc/kcore").exists() => {
            // Many kernels have none, by their configuration: never a failure.
            println!("skipped: {why}");
            return;
        }
        Err(why) => return skip(why),
    }
    let Some(secret) = secret() else { return };
    let (reader, frames) = match (
        Reader::new(),
        residue::frames(secret.pid(), secret.address, LEN),
    ) {
        (Ok(reader), Ok(frames)) => (reader, frames),
        (Err(why), _) | (_, Err(why)) => return skip(why),
    };
    match direct_map::read_kcore(secret.pid(), secret.address, LEN).unwrap() {
        Answer::Bytes(bytes) => {
            for ((page, secret), frame) in bytes
                .chunks(PAGE)
                .zip(secret.contents.chunks(PAGE))
                .zip(frames)
            {
                let hole =
                    reader.is_of_kernel_image(frame) || reader.fades(frame, PATIENCE).unwrap();
                assert!(page != secret || hole);
            }
        }
        Answer::Fault => {}
    }
}

#[test]
fn what_is_not_there_is_no_protection() {
    if !is_root() {
        return;
    }
    let reader = match Reader::new() {
        Ok(reader) => reader,
        Err(why) => return skip(why),
    };
    let own = std::process::id() as i32;
    let why = reader.read(own, 0, PAGE).unwrap_err();
    assert!(why.to_string().contains("no page is present"), "{why}");
    let why = reader.read(i32::MAX, 0, PAGE).unwrap_err();
    assert!(why.to_string().contains("No such file"), "{why}");
}
