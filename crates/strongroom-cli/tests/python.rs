//! python3, protected.
