//! Everything that looks at memory from outside: attackers, each bound to one protection.
//!
//! The probe knows nothing of the library's code: an attacker sees a victim as any
//! stranger does. Every claim is attacked beside a control on which the attack must
//! succeed, or the proof is void.
//!
//! * [`victim`]: the process with a secret.
//! * [`attack`]: the attackers, and the proof that they ran.
//! * [`audit`]: every mapping of a live process, and its holes.
//! * [`exposure`]: who can reach a mapping of a live process, from what the kernel tells.
//! * [`scan`]: key material in the memory of processes, in cores and in files.
//! * [`size`]: sizes as people write them.
//! * [`thief`]: the process that looks from outside, as another user where need be.

pub mod attack;
pub mod audit;
pub mod exposure;
mod masked;
pub mod scan;
pub mod size;
pub mod thief;
pub mod victim;
