//! A filter that comes to refuse membarrier(2) when guards rely on it already: conversions that need it are
//! refused, as who holds a page cannot be known. The filter is the whole process's: one test, a program of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::sync::mpsc;
use std::time::Duration;
use strongroom_guest::backing::Poison;
use strongroom_guest::{Contents, Error, GuestRegion, PAGE, PageState, Refused, Side, Why};

#[test]
fn nothing_becomes_private_where_threads_cannot_be_ordered() {
    let region = GuestRegion::new(0, Poison::new(1 << 20).unwrap()).unwrap();
    let convert = |to| region.convert(PAGE..2 * PAGE, to, Contents::Kept, Duration::ZERO);
    let (ask, asked) = mpsc::channel::<()>();
    let (answer, answered) = mpsc::channel();
    std::thread::scope(|scope| {
        let region = &region;
        let other = scope.spawn(move || {
            while asked.recv().is_ok() {
                drop(region.guard(0..PAGE).unwrap());
                answer.send(()).unwrap();
            }
        });
        let other_thread_guards = || {
            ask.send(()).unwrap();
            answered.recv().unwrap();
        };
        // The control: with it, the same goes well.
        other_thread_guards();
        convert(Side::Private).unwrap();
        convert(Side::Shared).unwrap();

        let rules = [(libc::SYS_membarrier, Vec::new())].into_iter().collect();
        let refuse = SeccompAction::Errno(libc::EPERM as u32);
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::x86_64);
        let program: BpfProgram = filter.unwrap().try_into().unwrap();
        seccompiler::apply_filter_all_threads(&program).unwrap();

        let unordered = Refused {
            page: 1,
            why: Why::Unordered,
        };
        assert_eq!(convert(Side::Private), Err(Error::Refused(unordered)));
        assert_eq!(
            region.pin(PAGE..2 * PAGE).unwrap_err(),
            Error::Refused(unordered)
        );
        let shared = PageState::Shared { guards: 0 };
        assert_eq!(region.state(PAGE), Some(shared));
        // What is shared anyway needs no order.
        convert(Side::Shared).unwrap();
        drop(ask);
        // To its very end, where it gives its record back.
        other.join().unwrap();
    });
    // Nobody but this thread is left, which knows what it holds itself.
    let guard = region.guard(PAGE..2 * PAGE).unwrap();
    let held = Refused {
        page: 1,
        why: Why::Held {
            guards: 1,
            pages: 1,
        },
    };
    assert_eq!(convert(Side::Private), Err(Error::Refused(held)));
    drop(guard);
    convert(Side::Private).unwrap();
}
