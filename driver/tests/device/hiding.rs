//! HIDE and SHOW: pages that one mapping does not show.

use crate::object::{Map, Object, alone, errno, free_bytes};
use crate::process::in_child;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use strongroom_core::driver::{HIDE, HUGE_PAGE, Mode, PAGE, RangeRequest, SHOW, VERSION};

const SIZE: u64 = 2 * HUGE_PAGE + 3 * PAGE;

fn request(address: u64, bytes: u64) -> RangeRequest {
    RangeRequest {
        size: size_of::<RangeRequest>() as u32,
        version: VERSION,
        address,
        bytes,
        reserved: 0,
    }
}

fn ask(object: &Object, number: u32, request: &RangeRequest) -> Result<(), i32> {
    object.call(number, std::ptr::from_ref(request) as usize)
}

fn change(object: &Object, number: u32, map: &Map, pages: Range<u64>) -> Result<(), i32> {
    let address = map.address() as u64 + pages.start * PAGE;
    ask(
        object,
        number,
        &request(address, (pages.end - pages.start) * PAGE),
    )
}

/// The first byte of a page as a system call reads it, which needs no handler of signals.
fn seen(address: usize) -> Result<u8, i32> {
    let mut ends = [0; 2];
    let mut byte = 0_u8;
    // SAFETY: a pipe of this function's own; the kernel reads one byte, or says that it cannot.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        let written = libc::write(ends[1], address as *const libc::c_void, 1);
        let result = match written {
            1 => {
                assert_eq!(libc::read(ends[0], (&raw mut byte).cast(), 1), 1);
                Ok(byte)
            }
            _ => Err(errno()),
        };
        libc::close(ends[0]);
        libc::close(ends[1]);
        result
    }
}

/// Which pages of a mapping show something else than what they should.
fn wrong(map: &Map, expected: impl Fn(u64) -> Result<u8, i32>) -> Vec<u64> {
    (0..map.len() as u64 / PAGE)
        .filter(|&page| seen(map.address() + (page * PAGE) as usize) != expected(page))
        .collect()
}

/// Two mappings of an object, each page with its number in it.
fn two() -> (Object, Map, Map) {
    let object = Object::with_mode(Mode::EXCLUSIVE, SIZE);
    let (view, alias) = (object.map().unwrap(), object.map().unwrap());
    for (page, bytes) in alias.bytes_mut().chunks_mut(PAGE as usize).enumerate() {
        bytes.fill(page as u8);
    }
    (object, view, alias)
}

#[test]
fn what_is_hidden_in_one_mapping_is_there_in_the_other() {
    let Some(_alone) = alone() else { return };
    let before = free_bytes();
    let (object, view, alias) = two();
    let number = |page: u64| Ok(page as u8);
    assert_eq!(wrong(&view, number), []);
    let mut hidden = [false; (SIZE / PAGE) as usize];
    let steps = [
        (HIDE, 5..9),
        // All of it twice, a whole block, across two, the end.
        (HIDE, 5..9),
        (HIDE, 512..1024),
        (SHOW, 7..8),
        (HIDE, 500..520),
        (HIDE, 1024..1027),
        (SHOW, 513..515),
        (HIDE, 0..1027),
        (SHOW, 1..1026),
    ];
    for (call, pages) in steps {
        change(&object, call, &view, pages.clone()).unwrap();
        for page in pages.clone() {
            hidden[page as usize] = call == HIDE;
        }
        let expected = |page: u64| match hidden[page as usize] {
            true => Err(libc::EFAULT),
            false => number(page),
        };
        assert_eq!(wrong(&view, expected), [], "{call:#x} {pages:?}");
        assert_eq!(wrong(&alias, number), [], "{call:#x} {pages:?}");
    }
    // What is written meanwhile is there afterwards.
    alias.bytes_mut()[..8].fill(0xee);
    change(&object, SHOW, &view, 0..SIZE / PAGE).unwrap();
    assert_eq!(seen(view.address()), Ok(0xee));
    assert_eq!(
        wrong(&view, |page| if page == 0 {
            Ok(0xee)
        } else {
            number(page)
        }),
        []
    );
    // Two mappings of the same object hide each by itself.
    change(&object, HIDE, &alias, 0..1).unwrap();
    assert_eq!(
        (seen(alias.address()), seen(view.address())),
        (Err(libc::EFAULT), Ok(0xee))
    );
    drop((view, alias, object));
    assert_eq!(free_bytes(), before);
    let next = Object::with_mode(Mode::EXCLUSIVE, SIZE).map().unwrap();
    assert_eq!(wrong(&next, |_| Ok(0)), []);
}

#[test]
fn a_touch_of_what_is_hidden_ends_in_sigbus() {
    let Some(_alone) = alone() else { return };
    for (page, status) in [(6, 128 + libc::SIGBUS), (5, 0)] {
        for write in [false, true] {
            let ended = in_child(|| {
                let (object, view, _alias) = two();
                change(&object, HIDE, &view, 6..7).unwrap();
                let place = (view.address() + page * PAGE as usize) as *mut u8;
                // SAFETY: it is mapped; where it is hidden, the process ends.
                unsafe {
                    match write {
                        true => place.write_volatile(1),
                        false => assert_eq!(place.read_volatile(), page as u8),
                    }
                }
                0
            });
            assert_eq!(ended, status, "page {page}, write {write}");
        }
    }
}

#[test]
fn what_is_hidden_stays_so_as_its_mapping_changes_and_goes_with_it() {
    let Some(_alone) = alone() else { return };
    let (object, view, alias) = two();
    change(&object, HIDE, &view, 2..4).unwrap();
    let expected = |page| match page {
        2 | 3 => Err(libc::EFAULT),
        page => Ok(page as u8),
    };
    let (start, len) = (view.address() as *mut libc::c_void, SIZE as usize);
    // SAFETY: the test's own mappings, of which nobody has a reference.
    unsafe {
        for protection in [
            libc::PROT_NONE,
            libc::PROT_READ,
            libc::PROT_READ | libc::PROT_WRITE,
        ] {
            assert_eq!(libc::mprotect(start, len, protection), 0);
        }
        assert_eq!(wrong(&view, expected), []);
        // To another place and back.
        let space = libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(space, libc::MAP_FAILED);
        let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        assert_eq!(libc::mremap(start, len, len, how, space), space);
        for (page, result) in [
            (1, Ok(1)),
            (2, Err(libc::EFAULT)),
            (3, Err(libc::EFAULT)),
            (4, Ok(4)),
        ] {
            assert_eq!(
                seen(space as usize + page * PAGE as usize),
                result,
                "{page}"
            );
        }
        assert_eq!(libc::mremap(space, len, len, how, start), start);
        assert_eq!(wrong(&view, expected), []);
        // The pages themselves are hidden nowhere: mapped anew they are there.
        let pages = 2 * PAGE as usize;
        let part = start.byte_add(pages);
        let fixed = libc::MAP_SHARED | libc::MAP_FIXED;
        let offset = 2 * PAGE as libc::off_t;
        let again = libc::mmap(part, pages, libc::PROT_READ, fixed, object.raw(), offset);
        assert_eq!(again, part);
    }
    assert_eq!(wrong(&view, |page| Ok(page as u8)), []);
    assert_eq!(wrong(&alias, |page| Ok(page as u8)), []);
}

#[test]
fn who_touches_meanwhile_brings_nothing_back() {
    let Some(_alone) = alone() else { return };
    let (object, view, _alias) = two();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for pages in [0..2, 1..3, 510..514] {
            let (view, stop) = (&view, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for page in pages.clone() {
                        let byte = seen(view.address() + page * PAGE as usize);
                        assert!(
                            byte == Ok(page as u8) || byte == Err(libc::EFAULT),
                            "{byte:?}"
                        );
                    }
                }
            });
        }
        for _ in 0..200 {
            for pages in [1..2, 0..512, 511..513] {
                change(&object, HIDE, &view, pages.clone()).unwrap();
                for page in [pages.start, pages.end - 1] {
                    let byte = seen(view.address() + (page * PAGE) as usize);
                    assert_eq!(byte, Err(libc::EFAULT), "{pages:?}");
                }
                change(&object, SHOW, &view, pages).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_cannot_be_hidden_changes_nothing() {
    let Some(_alone) = alone() else { return };
    let (object, view, alias) = two();
    let start = view.address() as u64;
    let good = request(start, PAGE);
    for bad in [
        RangeRequest { size: 0, ..good },
        RangeRequest {
            version: VERSION + 1,
            ..good
        },
        RangeRequest {
            reserved: 1,
            ..good
        },
        request(start + 1, PAGE),
        request(start, PAGE - 1),
        request(start, 0),
        request(start, u64::MAX - PAGE + 1),
    ] {
        for call in [HIDE, SHOW] {
            assert_eq!(ask(&object, call, &bad), Err(libc::EINVAL), "{bad:?}");
        }
    }
    let other = Object::with_mode(Mode::EXCLUSIVE, PAGE);
    let others = other.map().unwrap();
    let ordinary = vec![0_u8; 3 * PAGE as usize];
    let inside = (ordinary.as_ptr() as u64).next_multiple_of(PAGE);
    for (address, bytes) in [
        (0, PAGE),
        (1 << 62, PAGE),
        (inside, PAGE),
        (others.address() as u64, PAGE),
        (start, SIZE + PAGE),
    ] {
        for call in [HIDE, SHOW] {
            let refused = ask(&object, call, &request(address, bytes));
            assert_eq!(refused, Err(libc::ENOMEM), "{address:#x} {bytes:#x}");
        }
    }
    assert_eq!(object.call(HIDE, 0), Err(libc::EFAULT));
    assert_eq!(ask(&Object::blank(), HIDE, &good), Err(libc::EINVAL));
    let huge = Object::with_mode(Mode::EXCLUSIVE | Mode::HUGE, HUGE_PAGE);
    let large = huge.map().unwrap();
    let all = request(large.address() as u64, HUGE_PAGE);
    assert_eq!(ask(&huge, HIDE, &all), Err(libc::EINVAL));
    // A child has the descriptor, and no mapping.
    let status = in_child(|| i32::from(ask(&object, HIDE, &good) != Err(libc::EPERM)));
    assert_eq!(status, 0);
    assert_eq!(wrong(&view, |page| Ok(page as u8)), []);
    assert_eq!(wrong(&alias, |page| Ok(page as u8)), []);
    assert_eq!(seen(others.address()), Ok(0));
}
