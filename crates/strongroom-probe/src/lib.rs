//! Everything that looks at memory from outside: attackers, each bound to one protection.
//!
//! The probe knows nothing of the library's code: an attacker sees a victim as any
//! stranger does. Every claim is attacked beside a control on which the attack must
//! succeed, or the proof is void.
//!
//! * [`victim`]: the process with a secret.
//! * [`attack`]: the attackers, and the proof that they ran.
//! * [`thief`]: the process that looks from outside, as another user where need be.

pub mod attack;
pub mod thief;
pub mod victim;
