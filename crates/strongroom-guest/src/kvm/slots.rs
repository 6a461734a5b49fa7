//! Memory slots: which guest physical addresses are what memory.

use crate::{Error, PAGE};
use core::ops::Range;
use kvm_bindings::{KVM_MEM_GUEST_MEMFD, KVM_MEM_READONLY, kvm_userspace_memory_region2};
use kvm_ioctls::VmFd;
use rustix::fd::{AsRawFd, BorrowedFd};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use strongroom_sys::Errno;

const CALL: &str = "KVM_SET_USER_MEMORY_REGION2";

/// What memory a slot is.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// This process's own, at an address.
    Address(*mut u8),
    /// The same, and the guest can read it only.
    ReadOnly(*mut u8),
    /// A guest_memfd from an offset, in bytes, and the address of its shared pages here: of itself where it
    /// is one that can be mapped, and else of other memory.
    File {
        /// The guest_memfd.
        file: BorrowedFd<'a>,
        /// Where in it the slot begins.
        offset: u64,
        /// Where shared pages are.
        address: *mut u8,
    },
}

/// The slots of a virtual machine: their numbers, and where they lie.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Table>);

#[derive(Debug)]
struct Table {
    vm: Arc<VmFd>,
    numbers: Range<u32>,
    taken: Mutex<Taken>,
}

#[derive(Debug)]
struct Taken {
    /// Numbers that were used and are free again.
    free: Vec<u32>,
    /// From here on none was used.
    next: u32,
    /// First and last address of each slot.
    places: BTreeMap<u64, u64>,
}

impl Table {
    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        // Each change below is whole.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Safety
    /// As for [`Slots::create`].
    unsafe fn set(&self, number: u32, start: u64, len: u64, source: Source) -> Result<(), Errno> {
        let mut region = kvm_userspace_memory_region2 {
            slot: number,
            guest_phys_addr: start,
            memory_size: len,
            ..Default::default()
        };
        match source {
            Source::Address(address) => region.userspace_addr = address as u64,
            Source::ReadOnly(address) => {
                region.userspace_addr = address as u64;
                region.flags = KVM_MEM_READONLY;
            }
            Source::File {
                file,
                offset,
                address,
            } => {
                region.userspace_addr = address as u64;
                region.guest_memfd = file.as_raw_fd().cast_unsigned();
                region.guest_memfd_offset = offset;
                region.flags = KVM_MEM_GUEST_MEMFD;
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.vm.set_user_memory_region2(region) }
            .map_err(|error| Errno::from_raw_os_error(error.errno()))
    }
}

impl Slots {
    /// Slots with these numbers, which are nobody else's.
    pub fn new(vm: Arc<VmFd>, numbers: Range<u32>) -> Self {
        let taken = Mutex::new(Taken {
            free: Vec::new(),
            next: numbers.start,
            places: BTreeMap::new(),
        });
        Self(Arc::new(Table { vm, numbers, taken }))
    }

    /// How many slots there are now.
    pub fn count(&self) -> usize {
        self.0.taken().places.len()
    }

    /// How many there can be.
    pub fn most(&self) -> u32 {
        self.0.numbers.len() as u32
    }

    /// How many more there can be.
    pub fn left(&self) -> usize {
        self.0.numbers.len().saturating_sub(self.count())
    }

    /// Puts memory at guest physical addresses, until the slot is dropped. In bytes.
    ///
    /// # Errors
    /// A misaligned or empty range; [`Error::Overlap`]; [`Error::SlotsExhausted`]; what the kernel says.
    ///
    /// # Safety
    /// The memory at the source's address must be there, and the guest's to read and write, for as long
    /// as the slot.
    pub unsafe fn create(&self, start: u64, len: usize, source: Source) -> Result<Slot, Error> {
        let length = len as u64;
        if !start.is_multiple_of(PAGE as u64) {
            return Err(Error::Misaligned(start));
        }
        if !len.is_multiple_of(PAGE) {
            return Err(Error::Misaligned(length));
        }
        let last = match length {
            0 => None,
            _ => start.checked_add(length - 1),
        };
        let last = last.ok_or(Error::NoRange { start, length })?;
        let number = self.take(start, last)?;
        // SAFETY: the caller's promise.
        if let Err(errno) = unsafe { self.0.set(number, start, length, source) } {
            self.give_back(number, start);
            return Err(match errno {
                // A slot that is not ours.
                Errno::EXIST => Error::Overlap { start, length },
                errno => Error::Kernel { call: CALL, errno },
            });
        }
        let slots = self.clone();
        Ok(Slot {
            slots,
            number: Some(number),
            start,
        })
    }

    fn take(&self, start: u64, last: u64) -> Result<u32, Error> {
        let mut taken = self.0.taken();
        // Of the slots that begin before the end of this one, the last one reaches furthest.
        let before = taken.places.range(..=last).next_back();
        if before.is_some_and(|(_, end)| *end >= start) {
            let length = last - start + 1;
            return Err(Error::Overlap { start, length });
        }
        let number = match taken.free.pop() {
            Some(number) => number,
            None if taken.next < self.0.numbers.end => {
                taken.next += 1;
                taken.next - 1
            }
            None => {
                let most = self.0.numbers.len() as u32;
                return Err(Error::SlotsExhausted { most });
            }
        };
        taken.places.insert(start, last);
        Ok(number)
    }

    fn give_back(&self, number: u32, start: u64) {
        let mut taken = self.0.taken();
        taken.places.remove(&start);
        taken.free.push(number);
    }
}

/// A slot. Dropped, it is deleted: the guest has no memory there then.
#[derive(Debug)]
pub struct Slot {
    slots: Slots,
    /// None where it is deleted.
    number: Option<u32>,
    start: u64,
}

impl Slot {
    /// Its first guest physical address.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Deletes it.
    ///
    /// # Errors
    /// What the kernel says; there is a slot still then.
    pub fn delete(&mut self) -> Result<(), Error> {
        let Some(number) = self.number else {
            return Ok(());
        };
        // SAFETY: a slot of no bytes is a deletion, and involves no memory.
        unsafe {
            let nothing = Source::Address(core::ptr::null_mut());
            self.slots.0.set(number, self.start, 0, nothing)
        }
        .map_err(Error::of(CALL))?;
        self.slots.give_back(number, self.start);
        self.number = None;
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // The kernel refuses it only where it has no memory for the new table of slots; the number is not
        // used again then.
        let _ = self.delete();
    }
}
