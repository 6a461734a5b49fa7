//! Marks the object to be initialised before all others.

fn main() {
    // Its constructor must arrange the protection before any other library's runs, and its
    // fork handlers must be the first ones registered: ld.so(8) initialises a DF_1_INITFIRST
    // object before the rest.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,initfirst");
    // Calls to its own exports stay inside, and every symbol is resolved at load time.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,now");
    println!("cargo:rerun-if-changed=build.rs");
}
