//! What `strongroom run` and the preload object agree on.
//!
//! * [`config`]: the settings that travel in the environment variable [`config::VARIABLE`].
//! * [`handshake`]: how the object inside the program tells the verifier outside
//!   that protection is active, before the program's own code runs.
//! * [`program`]: whether the object can be loaded into a program file at all.

pub mod config;
pub mod handshake;
pub mod program;
