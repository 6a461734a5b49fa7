//! A real memory error beside protection (E1): MADV_HWPOISON has the kernel give up a page as if its memory had failed.
//!
//! The page is lost to the machine until it boots, so that it is done where STRONGROOM_MEMORY_ERRORS is set alone:
//! `cargo xtask vm guest`. One test, as the handler is the process's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod eyes;
mod guest;

use eyes::read_by_kernel;
use guest::{Guest, MIB, address, kvm, machine};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicUsize, Ordering::SeqCst};
use strongroom_guest::backing::Poison;
use strongroom_guest::kvm::Limits;
use strongroom_guest::kvm::exit::{Outcome, Stop};
use strongroom_guest::kvm::request::{Answer, Function, Request};
use strongroom_guest::{Contents, Error, GuestRegion, PAGE, PageState, Side, Sigbus, Why};
use strongroom_sys::signals;

/// The region that signals are asked of, and what the last one was.
static REGION: AtomicPtr<GuestRegion> = AtomicPtr::new(core::ptr::null_mut());
static CODE: AtomicI32 = AtomicI32::new(0);
/// While memory is being damaged: the signal comes of no touch that would be tried again.
static DAMAGING: AtomicBool = AtomicBool::new(false);
static PROTECTED: AtomicUsize = AtomicUsize::new(usize::MAX);
static FAILED: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Notes what it is, and has the touch succeed: another page is put in the place of this one.
extern "C" fn handler(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel's.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr()) };
    CODE.store(code, SeqCst);
    // SAFETY: null, or a region that lives.
    let region = unsafe { REGION.load(SeqCst).as_ref() };
    match region.and_then(|region| region.sigbus(address.cast())) {
        Some(Sigbus::Protected { offset }) => PROTECTED.store(offset, SeqCst),
        Some(Sigbus::Failed { offset }) => FAILED.store(offset, SeqCst),
        // SAFETY: nobody knows it.
        None => unsafe { libc::abort() },
    }
    if DAMAGING.load(SeqCst) {
        return;
    }
    let page = (address as usize) & !(PAGE - 1);
    // SAFETY: a page of the region's, which is not used any more.
    let mapped = unsafe {
        libc::mmap(
            page as *mut libc::c_void,
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        // SAFETY: the touch would be tried for ever.
        unsafe { libc::abort() }
    }
}

/// Touches memory; the SIGBUS that came of it: its code, what was protected, what failed.
fn touch(address: *mut u8) -> (i32, Option<usize>, Option<usize>) {
    for word in [&PROTECTED, &FAILED] {
        word.store(usize::MAX, SeqCst);
    }
    CODE.store(0, SeqCst);
    // SAFETY: mapped; where it raises SIGBUS, the handler has it succeed.
    unsafe { address.read_volatile() };
    let offset = |word: &AtomicUsize| Some(word.load(SeqCst)).filter(|it| *it != usize::MAX);
    (CODE.load(SeqCst), offset(&PROTECTED), offset(&FAILED))
}

/// Has the memory of a page fail. The kernel tells whoever has it mapped.
fn damage(address: *mut u8) {
    DAMAGING.store(true, SeqCst);
    // SAFETY: a page of the region's, in which nothing is any more.
    let result = unsafe { libc::madvise(address.cast(), PAGE, libc::MADV_HWPOISON) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    DAMAGING.store(false, SeqCst);
}

#[test]
fn a_memory_error_is_told_apart_from_protection() {
    if std::env::var_os("STRONGROOM_MEMORY_ERRORS").is_none() {
        // Not skipped: it is done in the virtual machine.
        return eprintln!("not here: it takes memory from the machine for good");
    }
    let Some(kvm) = kvm() else { return };
    let vm = machine(&kvm, 0, None).unwrap();
    let poison = Poison::new(2 * MIB).unwrap();
    let guest = Guest::new(&kvm, vm, poison, Limits::default());
    let region = guest.region();
    let alias = region.backing().guest_alias().unwrap();
    let at = |page: usize| page * PAGE;
    let view = |page: usize| region.backing().host().wrapping_add(at(page));
    let mut vcpu = guest.processor(0);
    vcpu.fill(0, 512 * 512, 1);
    guest.convert(1..4, Side::Private, Contents::Kept).unwrap();
    REGION.store(core::ptr::from_ref(region).cast_mut(), SeqCst);
    // SAFETY: the handler does what is allowed in one.
    unsafe { signals::set_action(libc::SIGBUS, Some(&signals::Action::new(handler))) }.unwrap();

    // The control: nothing.
    assert_eq!(touch(view(0)), (0, None, None));
    // A private page is protected, and whole.
    let (code, protected, failed) = touch(view(1));
    assert_eq!((protected, failed), (Some(at(1)), None));
    assert_eq!(region.state(at(1)), Some(PageState::Private));
    assert!(read_by_kernel(alias.wrapping_add(at(1))).is_ok());
    // Memory of a shared page fails, and so it does of a private one, through the view and where the guest has it.
    for page in [10, 2, 3] {
        FAILED.store(usize::MAX, SeqCst);
        damage(alias.wrapping_add(at(page)));
        assert_eq!(FAILED.load(SeqCst), at(page), "told at once");
    }
    assert_eq!(touch(view(10)), (libc::BUS_MCEERR_AR, None, Some(at(10))));
    assert_eq!(touch(view(2)).2, Some(at(2)));
    assert_eq!(touch(alias.wrapping_add(at(3))).2, Some(at(3)));
    for page in [10, 2, 3] {
        assert_eq!(region.state(at(page)), Some(PageState::Poisoned));
        let Err(Error::Refused(refused)) = region.guard(at(page)..at(page) + 1) else {
            panic!("a guard of memory that failed");
        };
        assert_eq!(refused.why, Why::Poisoned);
        let state = Request {
            function: Function::State as u64,
            address: address(page),
            length: 0,
            flags: 0,
        };
        assert_eq!(guest.desk.answer(state), Answer::Poisoned);
    }
    // The signal's code is the same for both, which is why it is not what tells.
    eprintln!("protected: code {code}; failed: {}", libc::BUS_MCEERR_AR);
    // Where the guest meets it, its processor stops.
    let lost = Outcome::Stop(Stop::Poisoned(address(10)));
    assert_eq!(guest.desk.fault(0, address(10), PAGE as u64), lost);
    // All others are as they were.
    assert_eq!(vcpu.read(21, 0), Ok(21 * 512 + 1));
    assert_eq!(region.state(at(21)), Some(PageState::Shared { guards: 0 }));
    REGION.store(core::ptr::null_mut(), SeqCst);
}
