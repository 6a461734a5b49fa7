//! Build, test and bench strongroom.
fn main() {}
