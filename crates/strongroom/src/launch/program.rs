//! Whether the preload object can be loaded into a program file.
