//! A process's memory as it sees it itself: it is stopped, and made to write it out piece by piece.
//!
//! By this an attacker knows that what it cannot find from outside is there at all.

use super::direct_map::Refusal;
use super::inject::{Failure, Puppet};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// A stopped process that shows its memory; it goes on when this is dropped.
pub(super) struct Inside {
    puppet: Puppet,
    /// The file in memory that it writes to: its own descriptor, and one of ours.
    descriptor: u64,
    file: File,
}

impl Inside {
    /// Stops process `pid`.
    ///
    /// # Errors
    /// Where it cannot be stopped or may not make the calls.
    pub(super) fn of(pid: i32) -> Result<Self, Refusal> {
        let puppet = Puppet::seize(pid).map_err(|failure| match failure {
            Failure::Refused(errno) => Refusal::because("stopping the program")(errno),
            Failure::Other(refusal) => refusal,
        })?;
        let descriptor = puppet
            .call(
                libc::SYS_memfd_create,
                [puppet.name(), u64::from(libc::MFD_CLOEXEC), 0, 0],
            )?
            .map_err(Refusal::because("the injected memfd_create"))?;
        let file = File::open(format!("/proc/{pid}/fd/{descriptor}"))
            .map_err(Refusal::because("the file that the program writes"));
        match file {
            Ok(file) => Ok(Self {
                puppet,
                descriptor,
                file,
            }),
            Err(refusal) => {
                let _ = puppet.call(libc::SYS_close, [descriptor, 0, 0, 0]);
                Err(refusal)
            }
        }
    }

    /// Reads memory; returns how many bytes there are to be had from `at` on.
    pub(super) fn read(&self, at: u64, place: &mut [u8]) -> usize {
        let arguments = [self.descriptor, at, place.len() as u64, 0];
        let written = match self.puppet.call(libc::SYS_pwrite64, arguments) {
            Ok(Ok(written)) => usize::try_from(written).unwrap_or(0),
            _ => 0,
        };
        let place = place.get_mut(..written).unwrap_or_default();
        self.file.read_at(place, 0).unwrap_or(0)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self
            .puppet
            .call(libc::SYS_close, [self.descriptor, 0, 0, 0]);
    }
}
