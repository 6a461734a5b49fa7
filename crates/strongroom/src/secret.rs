//! Secrets with a type: filled in place, read through a closure or a guard, wiped on drop.

use crate::heap::{self, Heap};
use crate::policy::{Policy, Refused};
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use strongroom_core::{Level, Reason, Receipt};
use zeroize::Zeroize;

/// Starts the process-wide heap under a policy, and says what it holds.
///
/// Without this call the first secret starts it with
/// `Policy::prefer(Level::Hidden).at_least(Level::Locked)`, copied on fork. A later call
/// changes nothing.
///
/// # Errors
/// Where the machine cannot keep memory at the level that the policy requires.
pub fn start(policy: Policy) -> Result<Receipt, Refused> {
    heap::global().start(policy)?;
    receipt()
}

/// What the process-wide heap is held under; starts it where it has not been.
///
/// # Errors
/// As [`start`].
pub fn receipt() -> Result<Receipt, Refused> {
    let heap = heap::global();
    if let Some(receipt) = heap.receipt() {
        return Ok(receipt);
    }
    // The first allocation starts it.
    let probe = heap.allocate(1);
    if !probe.is_null() {
        // SAFETY: allocated above and given to nobody.
        unsafe { heap.free(probe) };
    }
    heap.receipt().ok_or_else(|| refused(heap))
}

fn refused(heap: &Heap) -> Refused {
    Refused {
        level: Level::Locked,
        reason: heap.last_refusal().unwrap_or(Reason::OutOfMemory),
    }
}

fn block(size: usize, align: usize) -> Result<NonNull<u8>, Refused> {
    let heap = heap::global();
    NonNull::new(heap.allocate_aligned(size, align)).ok_or_else(|| refused(heap))
}

/// A value in secret memory.
///
/// ```
/// use strongroom::Secret;
///
/// let mut key = [7u8; 32]; // from wherever it comes
/// let secret = Secret::take(&mut key)?; // copied into secret memory, wiped here
/// assert_eq!(key, [0; 32]);
/// let first = secret.read(|key| key[0]);
/// assert_eq!(first, 7);
/// assert_eq!(format!("{secret:?}"), "Secret(…)");
/// # Ok::<(), strongroom::Refused>(())
/// ```
pub struct Secret<T> {
    value: NonNull<T>,
}

// SAFETY: the secret owns its value like a Box.
unsafe impl<T: Send> Send for Secret<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Secret<T> {}

impl<T> Secret<T> {
    /// Moves a value in. The copy on the caller's stack, from which it is moved, is not wiped:
    /// [`Secret::take`] and [`Secret::init`] leave none.
    ///
    /// # Errors
    /// Where secret memory cannot be had; the value is dropped.
    pub fn new(value: T) -> Result<Self, Refused> {
        let place = block(size_of::<T>().max(1), align_of::<T>())?.cast::<T>();
        // SAFETY: the block is large enough, aligned and ours.
        unsafe { place.write(value) };
        Ok(Self { value: place })
    }

    /// Takes a value over and wipes the one it came from.
    ///
    /// # Errors
    /// Where secret memory cannot be had; `value` stays as it is.
    pub fn take(value: &mut T) -> Result<Self, Refused>
    where
        T: Zeroize + Copy,
    {
        let place = block(size_of::<T>().max(1), align_of::<T>())?.cast::<T>();
        // SAFETY: the block is large enough, aligned and ours, and differs from `value`.
        unsafe { core::ptr::copy_nonoverlapping(value, place.as_ptr(), 1) };
        value.zeroize();
        Ok(Self { value: place })
    }

    /// Starts from the type's default value and fills it in place.
    ///
    /// ```
    /// use strongroom::Secret;
    ///
    /// let secret = Secret::<[u8; 32]>::init(|key| key.fill(9))?;
    /// assert_eq!(secret.read(|key| key[31]), 9);
    /// # Ok::<(), strongroom::Refused>(())
    /// ```
    ///
    /// # Errors
    /// Where secret memory cannot be had; `fill` is not called.
    pub fn init(fill: impl FnOnce(&mut T)) -> Result<Self, Refused>
    where
        T: Default,
    {
        let mut secret = Self::new(T::default())?;
        fill(&mut secret.write());
        Ok(secret)
    }

    /// Calls `reader` with the value.
    pub fn read<R>(&self, reader: impl FnOnce(&T) -> R) -> R {
        reader(&self.guard())
    }

    /// Access for reading, until the guard is dropped.
    pub fn guard(&self) -> Reading<'_, T> {
        Reading { secret: self }
    }

    /// Access for writing, until the guard is dropped.
    pub fn write(&mut self) -> Writing<'_, T> {
        Writing { secret: self }
    }
}

impl<T> Drop for Secret<T> {
    fn drop(&mut self) {
        // SAFETY: the value is ours, dropped once; the block goes back wiped.
        unsafe {
            self.value.drop_in_place();
            heap::global().free(self.value.as_ptr().cast());
        }
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A secret being read.
pub struct Reading<'a, T> {
    secret: &'a Secret<T>,
}

impl<T> Deref for Reading<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: initialised by every constructor, alive as long as the secret is borrowed.
        unsafe { self.secret.value.as_ref() }
    }
}

impl<T> fmt::Debug for Reading<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reading(…)")
    }
}

/// A secret being written.
pub struct Writing<'a, T> {
    secret: &'a mut Secret<T>,
}

impl<T> Deref for Writing<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: as in `Reading`.
        unsafe { self.secret.value.as_ref() }
    }
}

impl<T> DerefMut for Writing<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `Reading`, and the secret is borrowed mutably.
        unsafe { self.secret.value.as_mut() }
    }
}

impl<T> fmt::Debug for Writing<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writing(…)")
    }
}

/// Bytes in secret memory, as many as are known at run time.
///
/// ```
/// use strongroom::SecretBytes;
///
/// let mut password = String::from("correct horse").into_bytes();
/// let secret = SecretBytes::take(&mut password)?;
/// assert!(password.iter().all(|&b| b == 0));
/// assert_eq!(secret.read(|bytes| bytes.len()), 13);
/// # Ok::<(), strongroom::Refused>(())
/// ```
pub struct SecretBytes {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the bytes are owned like a Box's.
unsafe impl Send for SecretBytes {}
// SAFETY: as above.
unsafe impl Sync for SecretBytes {}

impl SecretBytes {
    /// `len` zero bytes, to be filled in place by way of [`SecretBytes::write`].
    ///
    /// # Errors
    /// Where secret memory cannot be had.
    pub fn zeroed(len: usize) -> Result<Self, Refused> {
        Ok(Self {
            start: block(len.max(1), 1)?,
            len,
        })
    }

    /// Takes bytes over and wipes those they came from.
    ///
    /// # Errors
    /// Where secret memory cannot be had; `bytes` stay as they are.
    pub fn take(bytes: &mut [u8]) -> Result<Self, Refused> {
        let mut secret = Self::zeroed(bytes.len())?;
        secret.write().copy_from_slice(bytes);
        bytes.zeroize();
        Ok(secret)
    }

    /// `len` bytes that `fill` writes in place, a file's or a socket's `read_exact` for example.
    ///
    /// # Errors
    /// Where secret memory cannot be had; `fill` is not called.
    pub fn init(len: usize, fill: impl FnOnce(&mut [u8])) -> Result<Self, Refused> {
        let mut secret = Self::zeroed(len)?;
        fill(secret.write());
        Ok(secret)
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Calls `reader` with the bytes.
    pub fn read<R>(&self, reader: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: initialised (zeroed) and alive as long as the secret is borrowed.
        reader(unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len) })
    }

    /// The bytes, for writing.
    pub fn write(&mut self) -> &mut [u8] {
        // SAFETY: as in `read`, and the secret is borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        // SAFETY: ours; the block goes back wiped.
        unsafe { heap::global().free(self.start.as_ptr()) };
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes(… {} bytes)", self.len)
    }
}
