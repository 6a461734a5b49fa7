//! How the shared library is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The number is SR_ABI: programs are bound to it, whatever the file is called.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libstrongroom.so.0");
    // It is not unloaded: libc calls it when a thread ends and when the process forks.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // Every symbol is resolved at load time: none can be missing, or be looked up, in a signal handler.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,now");
}
