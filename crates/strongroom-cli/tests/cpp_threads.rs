//! A C++ program with threads, protected.
