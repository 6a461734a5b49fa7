//! What runs first: before the constructor of any other object (build.rs), and before the program.

use crate::{receipts, start};
use core::ffi::{c_char, c_int};

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = constructor;

extern "C" fn constructor(_: c_int, _: *const *const c_char, _: *const *const c_char) {
    let _ = start::source();
    receipts::prepare();
    start::announce();
}
