//! Guests in the kernel driver's memory: where /dev/strongroom and KVM are (`cargo xtask driver test`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod eyes;
mod guest;

use eyes::read_by_kernel;
use guest::{Guest, MIB, address, has_driver, kvm, machine, skip};
use kvm_ioctls::Kvm;
use rustix::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use std::fmt::Debug;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicPtr, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use strongroom_core::driver::{DEVICE, Mode};
use strongroom_core::{Level, Protection, Protections, Reason};
use strongroom_guest::backing::{Driver, DriverPoison, Limit};
use strongroom_guest::kvm::Limits;
use strongroom_guest::{Backing, Contents, Error, GuestRegion, PAGE, PageState, Side, Sigbus};
use strongroom_sys::memory::Place;
use strongroom_sys::{peek, signals};
use vm_memory::{Bytes, GuestAddress};

const WORDS: usize = PAGE / 8;

/// One test at a time: they look at what the pool has left.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The backing, where the driver is; otherwise it says that the test is skipped.
fn driver(len: usize) -> Option<Driver> {
    where_the_driver_is(|| Driver::new(len))
}

/// The same for the other one.
fn poison(len: usize) -> Option<DriverPoison> {
    where_the_driver_is(|| DriverPoison::new(len))
}

fn where_the_driver_is<B: Debug>(new: impl FnOnce() -> Result<B, Error>) -> Option<B> {
    if has_driver() {
        return Some(new().unwrap());
    }
    let error = new().unwrap_err();
    assert!(
        matches!(
            error,
            Error::Kernel {
                errno: Errno::NOENT,
                ..
            }
        ),
        "{error}"
    );
    // `cargo xtask test` runs them in a virtual machine, too.
    if std::env::var_os("STRONGROOM_DRIVER_ELSEWHERE").is_none() {
        skip("the driver is not loaded");
    }
    None
}

fn state(name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/sys/class/misc/strongroom/{name}")).unwrap();
    text.trim().parse().unwrap()
}

fn guest_of(kvm: &Kvm, backing: impl Backing + 'static) -> Guest {
    Guest::new(
        kvm,
        machine(kvm, 0, None).unwrap(),
        backing,
        Limits::default(),
    )
}

#[test]
fn guest_and_monitor_see_the_same_pages() {
    let _alone = alone();
    let Some(kvm) = kvm() else { return };
    let len = 4 * MIB;
    let Some(backing) = driver(len) else { return };
    let entries = (state("huge_entries"), state("small_entries"));
    let host = backing.host() as usize;
    let guest = guest_of(&kvm, backing);
    let mut vcpu = guest.processor(0);
    let pages = len / PAGE;
    // Zero at first, by the guest's eyes; then what each writes, the other reads.
    assert_eq!(vcpu.read(0, 0), Ok(0));
    assert_eq!(vcpu.read(pages - 1, 4088), Ok(0));
    vcpu.fill(0, pages * WORDS, 0x5eed_0000);
    let mut word = [0; 8];
    for page in [0, 1, 511, 512, pages - 1] {
        guest
            .ram
            .read_slice(&mut word, GuestAddress(address(page)))
            .unwrap();
        let expected = 0x5eed_0000 + (page * WORDS) as u64;
        assert_eq!(u64::from_ne_bytes(word), expected, "page {page}");
    }
    let bytes: Vec<u8> = (0..WORDS as u64)
        .flat_map(|word| (77 + word).to_ne_bytes())
        .collect();
    guest
        .ram
        .write_slice(&bytes, GuestAddress(address(513)))
        .unwrap();
    assert_eq!(vcpu.differs(513, WORDS, 77), None);
    // Two processors count on the same pages.
    let mut other = guest.processor(1);
    vcpu.fill(0, WORDS, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(other.count(2, 1, 0x5eed_0400..0x5eed_0500, 0), None));
        assert_eq!(vcpu.count(4, 1, 0x5eed_0800..0x5eed_0900, 0), None);
    });
    // The kernel mapped it whole.
    assert_eq!(host % (2 * MIB), 0);
    assert_eq!(state("small_entries"), entries.1);
    assert!(state("huge_entries") >= entries.0 + 2);
}

#[test]
fn nobody_but_the_monitor_reads_it_and_nothing_is_left() {
    let _alone = alone();
    let Some(kvm) = kvm() else { return };
    let Some(backing) = driver(2 * MIB) else {
        return;
    };
    let receipt = backing.receipt();
    let asked = receipt.asked();
    assert_eq!(asked.difference(receipt.held()), Protections::NO_VMM);
    assert_eq!(
        receipt.missing().collect::<Vec<_>>(),
        [(Protection::NoVmm, Reason::GuestSteered)]
    );
    assert_eq!(backing.limits(), [Limit::NothingPrivate]);
    let guest = guest_of(&kvm, backing);
    let mut vcpu = guest.processor(0);
    vcpu.fill(0, WORDS, 0x1234_5678);
    let backing = guest.region().backing();
    let host = backing.host();
    // Not by the kernel on the process's behalf, and not by a pin; the monitor itself reads it.
    let mut bytes = [0; 64];
    let own = strongroom_sys::process::id();
    let read = peek::vm_read(own, host as usize, &mut bytes);
    assert_eq!(read, Err(Errno::FAULT));
    assert_eq!(bytes, [0; 64]);
    // SAFETY: the first word of the region, which lives.
    assert_eq!(unsafe { host.cast::<u64>().read_volatile() }, 0x1234_5678);
    // There are no private pages, and who asks for one is told so.
    let error = guest
        .convert(0..1, Side::Private, Contents::Kept)
        .unwrap_err();
    assert_eq!(error, Error::NeverPrivate("driver"));
    // Discarded pages are zero for both; those beside them stay.
    vcpu.fill(1, WORDS, 9);
    guest.region().discard(0..PAGE).unwrap();
    assert_eq!(vcpu.read(0, 0), Ok(0));
    assert_eq!(vcpu.differs(1, WORDS, 9), None);
    let held = state("held");
    drop((vcpu, guest));
    assert!(state("held") <= held - 2 * MIB as u64);
}

#[test]
fn a_pool_that_is_full_says_so_at_once() {
    let _alone = alone();
    let Some(_small) = driver(PAGE) else { return };
    let most = state("total") as usize + PAGE;
    let both = [
        Driver::new(most).map(drop),
        DriverPoison::new(most).map(drop),
    ];
    for result in both {
        let Err(Error::Kernel { errno, .. }) = result else {
            panic!("{result:?}")
        };
        assert!(
            [Errno::NOMEM, Errno::AGAIN, Errno::DQUOT].contains(&errno),
            "{errno}"
        );
    }
    assert!(matches!(Driver::new(5), Err(Error::Misaligned(5))));
    assert!(matches!(DriverPoison::new(5), Err(Error::Misaligned(5))));
}

/// A region of hidden pages, without a machine.
fn region(len: usize) -> Option<GuestRegion> {
    poison(len).map(|backing| GuestRegion::new(0x10_0000, backing).unwrap())
}

fn convert(region: &GuestRegion, pages: core::ops::Range<usize>, to: Side, contents: Contents) {
    let bytes = pages.start * PAGE..pages.end * PAGE;
    region.convert(bytes, to, contents, Duration::ZERO).unwrap();
}

#[test]
fn the_guest_keeps_its_private_pages_in_place() {
    let _alone = alone();
    let Some(kvm) = kvm() else { return };
    let len = 4 * MIB;
    let Some(backing) = poison(len) else { return };
    let receipt = backing.receipt();
    assert_eq!(receipt.missing().count(), 1);
    assert_eq!(
        receipt.asked().difference(receipt.held()),
        Protections::NO_VMM
    );
    assert_eq!(
        backing.limits(),
        [Limit::AliasInMonitor, Limit::StalePin],
        "no direct map, and a monitor that is killed is wiped"
    );
    let (view, alias) = (backing.host(), backing.guest_alias().unwrap());
    assert_ne!(view, alias);
    let guest = guest_of(&kvm, backing);
    let mut vcpu = guest.processor(0);
    let pages = len / PAGE;
    vcpu.fill(0, pages * WORDS, 1);
    let at = |memory: *mut u8, page: usize| memory.wrapping_add(page * PAGE);
    let seen = |page: usize| {
        let expected = (page * WORDS + 1) as u8;
        assert_eq!(read_by_kernel(at(alias, page)), Ok(expected), "{page}");
        read_by_kernel(at(view, page)).map(|byte| assert_eq!(byte, expected))
    };
    // All of it is there, in pieces of 2 MiB, and what becomes private lies across two of them.
    assert!((0..pages).all(|page| seen(page) == Ok(())));
    let hidden = 500..530;
    guest
        .convert(hidden.clone(), Side::Private, Contents::Kept)
        .unwrap();
    for page in 0..pages {
        let answer = if hidden.contains(&page) {
            Err(Errno::FAULT)
        } else {
            Ok(())
        };
        assert_eq!(seen(page), answer, "{page}");
    }
    assert_eq!(vcpu.differs(0, pages * WORDS, 1), None);
    // The guest writes them, and they come back with that.
    vcpu.fill(510, 4 * WORDS, 0x77);
    guest
        .convert(505..515, Side::Shared, Contents::Kept)
        .unwrap();
    assert_eq!(read_by_kernel(at(view, 510)), Ok(0x77));
    assert_eq!(seen(504), Err(Errno::FAULT));
    assert_eq!(seen(505), Ok(()));
    assert_eq!(seen(514), Ok(()));
    assert_eq!(seen(515), Err(Errno::FAULT));
    // Dropped, they are zero for both, on the way there and back.
    for side in [Side::Private, Side::Shared] {
        vcpu.fill(506, WORDS, 9);
        guest.convert(506..507, side, Contents::Dropped).unwrap();
        assert_eq!(vcpu.read(506, 0), Ok(0));
        assert_eq!(vcpu.read(506, PAGE - 8), Ok(0));
        let shared = (side == Side::Shared).then_some(0).ok_or(Errno::FAULT);
        assert_eq!(read_by_kernel(at(view, 506)), shared);
    }
    // Discarded ones are zero, and stay on their sides.
    guest.region().discard(503 * PAGE..506 * PAGE).unwrap();
    for (page, state) in [
        (503, PageState::Private),
        (504, PageState::Private),
        (505, PageState::Shared { guards: 0 }),
    ] {
        assert_eq!(vcpu.read(page, 0), Ok(0));
        assert_eq!(guest.region().state(page * PAGE), Some(state));
        let hidden = read_by_kernel(at(view, page));
        assert_eq!(hidden.is_err(), state == PageState::Private);
    }
    assert_eq!(vcpu.read(502, 0), Ok(502 * WORDS as u64 + 1));
    // Nor is the alias anybody's but the monitor's and the guest's.
    let mut bytes = [0; 64];
    let own = strongroom_sys::process::id();
    let read = peek::vm_read(own, at(alias, 20) as usize, &mut bytes);
    assert_eq!((read, bytes), (Err(Errno::FAULT), [0; 64]));
}

/// The region that the handler asks.
static REGION: AtomicPtr<GuestRegion> = AtomicPtr::new(core::ptr::null_mut());
/// How a child ends whose handler was told that the page is protected.
const PROTECTED: i32 = 42;

extern "C" fn handler(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel's; null, or a region that lives.
    let (code, address, region) = unsafe {
        let region = REGION.load(SeqCst).as_ref();
        ((*info).si_code, (*info).si_addr(), region)
    };
    let told = region.and_then(|region| region.sigbus(address.cast()));
    let protected = told == Some(Sigbus::Protected { offset: 3 * PAGE });
    let status = match code {
        libc::BUS_MCEERR_AR if protected => PROTECTED,
        _ => 1,
    };
    // SAFETY: it ends the process, with nothing else.
    unsafe { libc::_exit(status) }
}

/// A child's part: page 3 is private, and one is touched in the view. As the fork of a process has nothing of the
/// memory, it is a program of its own.
fn touch(what: &str) {
    let region = region(MIB).unwrap();
    let view = region.backing().host();
    // SAFETY: the monitor's view of a shared page.
    unsafe { view.wrapping_add(3 * PAGE).write_volatile(7) };
    convert(&region, 3..4, Side::Private, Contents::Kept);
    if what == "handled" {
        REGION.store(core::ptr::from_ref(&region).cast_mut(), SeqCst);
        // SAFETY: the handler does what is allowed in one.
        unsafe { signals::set_action(libc::SIGBUS, Some(&signals::Action::new(handler))) }.unwrap();
    }
    if what == "shared again" {
        convert(&region, 3..4, Side::Shared, Contents::Kept);
    }
    let page = if what == "beside it" { 4 } else { 3 };
    // SAFETY: mapped; a signal ends the process where the page is hidden.
    let byte = unsafe { view.wrapping_add(page * PAGE).read_volatile() };
    assert_eq!(byte, if page == 3 { 7 } else { 0 });
}

#[test]
fn a_touch_of_a_private_page_is_sigbus() {
    const WHAT: &str = "STRONGROOM_TOUCH";
    if let Ok(what) = std::env::var(WHAT) {
        return touch(&what);
    }
    let _alone = alone();
    let Some(_there) = region(PAGE) else { return };
    for (what, signal, code) in [
        ("beside it", None, Some(0)),
        ("shared again", None, Some(0)),
        ("private", Some(libc::SIGBUS), None),
        ("handled", None, Some(PROTECTED)),
    ] {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_touch_of_a_private_page_is_sigbus"])
            .env(WHAT, what)
            .output()
            .unwrap();
        let ended = (child.status.signal(), child.status.code());
        assert_eq!(ended, (signal, code), "{what}: {child:?}");
    }
}

/// In a fork child: that there is nothing at these addresses, and that the descriptors it has are of no use.
fn heir(addresses: [*mut u8; 2]) -> bool {
    let mut all = addresses.map(|it| read_by_kernel(it)) == [Err(Errno::FAULT); 2];
    let mut descriptors = 0;
    let numbers = std::fs::read_dir("/proc/self/fd").unwrap();
    for entry in numbers.map(Result::unwrap) {
        let name = entry.file_name();
        if std::fs::read_link(entry.path()).is_ok_and(|to| to == std::path::Path::new(DEVICE)) {
            let number = name.to_str().unwrap().parse().unwrap();
            // SAFETY: the child's own, which ends without closing it.
            let object = unsafe { OwnedFd::from_raw_fd(number) };
            let view = addresses[0];
            all &= strongroom_sys::driver::show(&object, view, PAGE) == Err(Errno::PERM);
            all &= strongroom_sys::driver::hide(&object, view, PAGE) == Err(Errno::PERM);
            // SAFETY: a new mapping, of which nothing is used.
            let mapped = unsafe { strongroom_sys::driver::map(&object, Place::Anywhere, MIB) };
            all &= mapped == Err(Errno::PERM);
            core::mem::forget(object);
            descriptors += 1;
        }
    }
    all && descriptors > 0
}

#[test]
fn a_child_has_nothing_and_its_descriptor_is_of_no_use() {
    let _alone = alone();
    let Some(region) = region(MIB) else { return };
    let (view, alias) = (
        region.backing().host(),
        region.backing().guest_alias().unwrap(),
    );
    convert(&region, 0..1, Side::Private, Contents::Kept);
    let shared = |memory: *mut u8| memory.wrapping_add(PAGE);
    // The control: their parent has them.
    assert_eq!(read_by_kernel(shared(view)), Ok(0));
    assert_eq!(read_by_kernel(alias), Ok(0));
    // SAFETY: the child looks, and ends.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let held = std::panic::catch_unwind(|| heir([shared(view), alias]));
        // SAFETY: the child ends here.
        unsafe { libc::_exit(if matches!(held, Ok(true)) { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: a child of this process.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child has something");
    // And the page is as hidden as before.
    assert_eq!(read_by_kernel(view), Err(Errno::FAULT));
    assert_eq!(read_by_kernel(alias), Ok(0));
}

/// What `strongroom attack` maps every descriptor by: it sees an object that is not sealed, and this one not.
#[test]
fn the_descriptor_that_stays_maps_nothing() {
    let _alone = alone();
    let Some(region) = region(3 * PAGE) else {
        return;
    };
    let look = |file: BorrowedFd| peek::copy_by_mapping(file, 64 * MIB);
    // The control.
    let open = strongroom_sys::driver::open().unwrap();
    let mode = Mode::of_level(Level::Locked);
    strongroom_sys::driver::set_mode(&open, 3 * PAGE, mode).unwrap();
    // SAFETY: a new mapping.
    let start = unsafe { strongroom_sys::driver::map(&open, Place::Anywhere, 3 * PAGE) }.unwrap();
    // SAFETY: mapped above.
    unsafe { start.add(PAGE).write_volatile(7) };
    let seen = look(open.as_fd()).unwrap();
    assert_eq!((seen.len(), seen[PAGE]), (2 * PAGE, 7));
    strongroom_sys::driver::seal(&open).unwrap();
    assert_eq!(look(open.as_fd()), Err(Errno::BUSY));
    // SAFETY: mapped above.
    unsafe { strongroom_sys::memory::unmap(start, 3 * PAGE) }.unwrap();
    drop(open);

    let mut objects = 0;
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let name = entry.unwrap().file_name();
        // SAFETY: a number that is no descriptor any more is refused.
        let file = unsafe { BorrowedFd::borrow_raw(name.to_str().unwrap().parse().unwrap()) };
        if strongroom_sys::driver::is_object(file) {
            assert_eq!(look(file), Err(Errno::BUSY));
            objects += 1;
        }
    }
    assert_eq!(objects, 1);
    drop(region);
}

#[test]
fn two_mappings_are_held_once_and_the_pool_has_them_back() {
    let _alone = alone();
    let Some(first) = region(PAGE) else { return };
    drop(first);
    let held = state("held");
    let Some(region) = region(4 * MIB) else {
        return;
    };
    assert_eq!(state("held"), held + 4 * MIB as u64);
    convert(&region, 0..700, Side::Private, Contents::Dropped);
    drop(region);
    assert_eq!(state("held"), held);
}
