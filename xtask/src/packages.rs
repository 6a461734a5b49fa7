//! The Debian packages that the tests and the benchmarks use.

use std::process::Command;

/// What is installed where it is missing.
const PACKAGES: [&str; 20] = [
    "binutils",
    "ca-certificates",
    "chromium",
    "cpio",
    "g++",
    "gcc",
    "gdb",
    "git",
    "gnupg",
    "gpg-agent",
    "libc6-dev",
    "libcap2-bin",
    "libgcrypt20-dev",
    "libsodium-dev",
    "libssl-dev",
    "openssh-client",
    "openssl",
    "pkgconf",
    "python3",
    "util-linux",
];

/// What a virtual machine needs. Its firmware, seabios, comes with QEMU; what goes into a guest is
/// downloaded and not installed.
const VM: [&str; 7] = [
    "apt",
    "bash",
    "dpkg",
    // For its libraries.
    "gdb",
    "qemu-system-x86",
    "util-linux",
    "xz-utils",
];

/// What a kernel is built with, its part in Rust too.
const KERNEL: [&str; 13] = [
    "bc",
    "bison",
    "flex",
    "gcc",
    "libc6-dev",
    "libclang-dev",
    "libelf-dev",
    "libssl-dev",
    "make",
    "patch",
    "rust-web-src",
    "rustc-web",
    "tar",
];

/// What the driver is built with, beside a kernel's tree.
const DRIVER: [&str; 7] = [
    "binutils",
    "gcc",
    "libc6-dev",
    "libelf1",
    "make",
    "rust-web-src",
    "rustc-web",
];

/// Installs what is missing, as root; names it otherwise.
///
/// # Errors
/// Where apt-get fails, or there is something to be installed and nobody to do it.
pub(crate) fn ensure() -> Result<(), String> {
    install(&PACKAGES)
}

/// The same for `vm`, and for what `test` runs there.
pub(crate) fn ensure_vm() -> Result<(), String> {
    install(&VM)
}

/// The same for building a kernel.
pub(crate) fn ensure_kernel() -> Result<(), String> {
    install(&KERNEL)
}

/// The same for building the driver.
pub(crate) fn ensure_driver() -> Result<(), String> {
    install(&DRIVER)
}

fn install(packages: &[&'static str]) -> Result<(), String> {
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !is_root() {
        return Err(format!(
            "these Debian packages are missing: {list}\n  as root: apt-get install {list}\n  or go on without them: --no-install"
        ));
    }
    eprintln!("xtask: installing {list}");
    apt_get(&["update", "--quiet"])?;
    let mut arguments = vec!["install", "--yes", "--quiet", "--no-install-recommends"];
    arguments.extend(missing);
    apt_get(&arguments)
}

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    let status = Command::new("apt-get")
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("apt-get {}: {status}", arguments.join(" "))),
        Err(error) => Err(format!(
            "apt-get cannot be started ({error}): is this Debian?"
        )),
    }
}

fn installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

/// Whether this process is root.
fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout == b"0\n")
}
