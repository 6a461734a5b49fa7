//! Where things are in guest memory. Virtual addresses are physical ones.

use strongroom_guest::PAGE;

/// Tables of the guest's contexts.
pub(crate) const TABLES: u64 = 0;
/// Bytes of them.
pub(crate) const TABLES_LEN: u64 = 1 << 20;
/// The exit stub's page, which stays shared.
pub(crate) const STUB: u64 = 1 << 20;
/// Requests to the guest; a page, shared.
pub(crate) const REQUESTS: u64 = STUB + 2 * PAGE as u64;
/// Answers of the guest; a page, shared.
pub(crate) const ANSWERS: u64 = STUB + 3 * PAGE as u64;
/// The program. From here on everything is private at first.
pub(crate) const PROGRAM: u64 = 2 << 20;
/// The program's state: two pages and its stack.
pub(crate) const STATE: u64 = PROGRAM + (1 << 16);
/// Where its stack ends.
pub(crate) const STACK_END: u64 = STATE + (1 << 16);
/// A page that one context has alone.
pub(crate) const SECRET: u64 = PROGRAM + (3 << 16);
/// What is in it, to be recognised.
pub(crate) const MARK: u64 = 0x7365_6372_6574_2021;
/// The pages that it works on, to the end of memory.
pub(crate) const WORK: u64 = 4 << 20;
