//! Secret memory.
pub mod fork;
pub mod launch;
