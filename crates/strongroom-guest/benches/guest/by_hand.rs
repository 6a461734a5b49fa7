//! Conversions without strongroom: no more than the system calls that they need, and the copy where pages move.
//! Nobody is held out, nothing is looked up, no failure is taken back. Private pages that are dropped are wiped, as a
//! guest_memfd frees pages with what is in them; nothing else is.

use crate::bare::{Bare, LARGE, Memory, Source};
use crate::conversions::{Converts, LEN, RAM};
use core::ops::Range;
use kvm_bindings::{KVM_MEMORY_ATTRIBUTE_PRIVATE, KVM_X86_SW_PROTECTED_VM, kvm_memory_attributes};
use kvm_ioctls::Kvm;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FallocateFlags, MemfdFlags};
use strongroom_guest::{Contents, PAGE, Side};
use strongroom_sys::userfaultfd;

fn memfd() -> OwnedFd {
    let file = rustix::fs::memfd_create(c"bench", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, LEN as u64).unwrap();
    file
}

fn punch(file: &OwnedFd, bytes: &Range<usize>) {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, flags, bytes.start as u64, bytes.len() as u64).unwrap();
}

/// A memfd, seen twice; what is private is poisoned in the view.
pub(crate) struct Poison {
    /// Before the memory that its slot is of.
    _bare: Bare,
    registration: OwnedFd,
    view: Memory,
    _alias: Memory,
    file: OwnedFd,
}

impl Poison {
    pub(crate) fn new(kvm: &Kvm) -> Option<Self> {
        let bare = Bare::new(kvm, 0)?;
        let file = memfd();
        let (view, alias) = (
            Memory::file(file.as_fd(), LEN),
            Memory::file(file.as_fd(), LEN),
        );
        let registration = userfaultfd::allow_poison(view.at(0), LEN).ok()?;
        bare.slot(2, RAM, LEN, Source::Address(alias.at(0)));
        Some(Self {
            _bare: bare,
            registration,
            view,
            _alias: alias,
            file,
        })
    }
}

impl Converts for Poison {
    fn fill(&mut self, bytes: Range<usize>) {
        self.view.fill(bytes.start, bytes.len(), 0x5a);
    }

    fn convert(&mut self, bytes: Range<usize>, to: Side, contents: Contents) {
        self.view.forget(bytes.start, bytes.len());
        if to == Side::Private {
            let start = self.view.at(bytes.start);
            userfaultfd::poison(&self.registration, start, bytes.len()).unwrap();
        }
        if contents == Contents::Dropped {
            punch(&self.file, &bytes);
        }
    }
}

/// Two guest_memfds, and a slot for each 2 MiB.
pub(crate) struct Pair {
    two: Two,
    nowhere: Memory,
    /// Chunks of which a page has a slot of its own.
    split: [bool; LEN / LARGE],
}

/// The slots of the parts of a chunk that is split.
const SPLIT: u32 = 200;

impl Pair {
    pub(crate) fn new(kvm: &Kvm) -> Option<Self> {
        let bare = Bare::new(kvm, 0)?;
        let (private, shared) = (bare.guest_memfd(LEN, 1)?, bare.guest_memfd(LEN, 3)?);
        let pair = Self {
            two: Two {
                view: Memory::file(shared.as_fd(), LEN),
                bare,
                private,
                shared,
            },
            nowhere: Memory::nothing(LEN),
            split: [false; LEN / LARGE],
        };
        for chunk in 0..LEN / LARGE {
            let start = chunk * LARGE;
            pair.slot(2 + chunk as u32, start..start + LARGE, Side::Shared);
        }
        Some(pair)
    }

    fn slot(&self, number: u32, bytes: Range<usize>, side: Side) {
        let (file, address) = match side {
            Side::Private => (&self.two.private, &self.nowhere),
            Side::Shared => (&self.two.shared, &self.two.view),
        };
        let source = Source::File(file.as_fd(), bytes.start, address.at(bytes.start));
        let start = RAM + bytes.start as u64;
        self.two.bare.slot(number, start, bytes.len(), source);
    }

    fn delete(&self, number: u32) {
        self.two.bare.slot(number, 0, 0, Source::Nothing);
    }
}

impl Sides for Pair {
    fn two(&mut self) -> &mut Two {
        &mut self.two
    }

    /// Of a whole chunk, or always of the same page of it, which keeps its slot.
    fn flip(&mut self, bytes: &Range<usize>, to: Side) {
        let chunk = bytes.start / LARGE;
        let whole = chunk * LARGE..(chunk + 1) * LARGE;
        let (number, parts) = (2 + chunk as u32, SPLIT + 3 * chunk as u32);
        if *bytes == whole {
            self.delete(number);
            self.slot(number, whole, to);
        } else if self.split[chunk] {
            self.delete(parts + 1);
            self.slot(parts + 1, bytes.clone(), to);
        } else {
            self.delete(number);
            self.slot(parts, whole.start..bytes.start, Side::Shared);
            self.slot(parts + 1, bytes.clone(), to);
            self.slot(parts + 2, bytes.end..whole.end, Side::Shared);
            self.split[chunk] = true;
        }
    }
}

/// Memory of which a page lies in one of two files.
trait Sides {
    fn two(&mut self) -> &mut Two;
    /// Has the guest see the other file.
    fn flip(&mut self, bytes: &Range<usize>, to: Side);
}

struct Two {
    /// Before the memory that its slots are of.
    bare: Bare,
    view: Memory,
    private: OwnedFd,
    shared: OwnedFd,
}

impl<M: Sides> Converts for M {
    fn fill(&mut self, bytes: Range<usize>) {
        self.two().view.fill(bytes.start, bytes.len(), 0x5a);
    }

    fn convert(&mut self, bytes: Range<usize>, to: Side, contents: Contents) {
        let (start, len) = (bytes.start, bytes.len());
        let (address, keep) = (RAM + start as u64, contents == Contents::Kept);
        match to {
            Side::Private => {
                self.flip(&bytes, to);
                let two = self.two();
                if keep {
                    two.bare.bounce.copy(0, &two.view, start, len);
                    two.bare.store(address, len);
                }
                // All at once; freeing would unmap each page by itself.
                if len > PAGE {
                    two.view.forget(start, len);
                }
                punch(&two.shared, &bytes);
            }
            Side::Shared => {
                let two = self.two();
                if keep {
                    two.bare.load(address, len);
                    two.view.copy(start, &two.bare.bounce, 0, len);
                } else {
                    two.bare.wipe(address, len);
                }
                self.flip(&bytes, to);
                punch(&self.two().private, &bytes);
            }
        }
    }
}

/// A memfd and a guest_memfd, and an attribute for each page.
pub(crate) struct Attributes(Two);

impl Attributes {
    pub(crate) fn new(kvm: &Kvm) -> Option<Self> {
        let bare = Bare::new(kvm, u64::from(KVM_X86_SW_PROTECTED_VM))?;
        let private = bare.guest_memfd(LEN, 0)?;
        let shared = memfd();
        let view = Memory::file(shared.as_fd(), LEN);
        let source = Source::File(private.as_fd(), 0, view.at(0));
        bare.slot(2, RAM, LEN, source);
        Some(Self(Two {
            bare,
            view,
            private,
            shared,
        }))
    }
}

impl Sides for Attributes {
    fn two(&mut self) -> &mut Two {
        &mut self.0
    }

    fn flip(&mut self, bytes: &Range<usize>, to: Side) {
        let attributes = match to {
            Side::Private => u64::from(KVM_MEMORY_ATTRIBUTE_PRIVATE),
            Side::Shared => 0,
        };
        self.0
            .bare
            .vm
            .set_memory_attributes(kvm_memory_attributes {
                address: RAM + bytes.start as u64,
                size: bytes.len() as u64,
                attributes,
                flags: 0,
            })
            .unwrap();
    }
}
