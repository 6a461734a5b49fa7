//! Marks the object to be initialised before all others.

fn main() {
    // Its constructor must arrange the protection before any other library's runs, and its
    // fork handlers must be the first ones registered: ld.so(8) initialises a DF_1_INITFIRST
    // object before the rest.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,initfirst");
    // Every symbol is resolved at load time.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,now");
    // The address of `malloc` in here is this object's, also where a program brings its own.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic-functions");
    println!("cargo:rerun-if-changed=build.rs");
    link_unwinder_statically();
}

/// Rust's std refers to the unwinder, which nothing here calls (panics abort). From libgcc_eh.a it
/// costs a few kilobytes; from libgcc_s.so.1 it would cost every protected program one more
/// library to load, and a chroot without it would not start anything.
fn link_unwinder_statically() {
    let found = std::process::Command::new("cc")
        .arg("-print-file-name=libgcc_eh.a")
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok());
    // A compiler that does not know the file prints its bare name.
    let path = found
        .as_deref()
        .map(|path| std::path::Path::new(path.trim()));
    if let Some(directory) = path
        .filter(|path| path.is_absolute())
        .and_then(|path| path.parent())
    {
        println!("cargo:rustc-link-search=native={}", directory.display());
        println!("cargo:rustc-link-lib=static:-bundle=gcc_eh");
    }
}
