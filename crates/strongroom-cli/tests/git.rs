//! git, protected.
