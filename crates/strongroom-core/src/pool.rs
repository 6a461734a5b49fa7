//! Which pages of a range are free.
