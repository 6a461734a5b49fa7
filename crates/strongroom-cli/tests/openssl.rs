//! openssl, protected.
