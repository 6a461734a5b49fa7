//! Where membarrier(2) is refused, each guard makes a fence of its own. The filter is the whole process's: one
//! test, a program of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rustix::io::Errno;
use rustix::thread::{MembarrierCommand, membarrier};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use strongroom_guest::backing::Poison;
use strongroom_guest::{Contents, Error, GuestRegion, PAGE, Refused, Side, Why};
use vm_memory::{Bytes, MemoryRegionAddress};

#[test]
fn without_membarrier_guards_hold_all_the_same() {
    let rules = [(libc::SYS_membarrier, Vec::new())].into_iter().collect();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::x86_64);
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter_all_threads(&program).unwrap();
    let register = || membarrier(MembarrierCommand::RegisterPrivateExpedited);
    assert_eq!(register(), Err(Errno::PERM));

    let region = GuestRegion::new(0, Poison::new(1 << 20).unwrap()).unwrap();
    let convert = |to| region.convert(0..4 * PAGE, to, Contents::Kept, Duration::from_millis(50));
    let slices: Vec<_> = (0..20)
        .map(|_| region.slice(PAGE..PAGE + 8).unwrap())
        .collect();
    let held = Refused {
        page: 1,
        why: Why::Held {
            guards: 20,
            pages: 1,
        },
    };
    assert_eq!(convert(Side::Private), Err(Error::Refused(held)));
    drop(slices);

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut count = 0u64;
            while !stop.load(Relaxed) {
                // A private page raises SIGBUS where it is touched.
                if region.write_obj(count + 1, MemoryRegionAddress(0)).is_ok() {
                    count += 1;
                }
            }
            count
        });
        let mut converted = 0;
        for _ in 0..3000 {
            converted += u32::from(convert(Side::Private).is_ok());
            convert(Side::Shared).unwrap();
        }
        stop.store(true, Relaxed);
        let count = worker.join().unwrap();
        assert!(converted > 0);
        assert_eq!(
            region.read_obj::<u64>(MemoryRegionAddress(0)).unwrap(),
            count
        );
    });
}
