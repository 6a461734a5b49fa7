//! One thin function a kernel interface.
