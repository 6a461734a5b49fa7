//! Builds the preload object and has the command carry it: `cargo run` and
//! `cargo install` build one package, and the command needs both.

use std::env;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A prebuilt object to carry instead, for packagers who build each package by itself.
const PREBUILT: &str = "STRONGROOM_PRELOAD_OBJECT";
/// The object is loaded by glibc's loader, whatever the command is linked to.
const TARGET: &str = "x86_64-unknown-linux-gnu";

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    println!("cargo::rerun-if-env-changed={PREBUILT}");
    println!("cargo::rerun-if-changed=build.rs");
    let object = match env::var_os(PREBUILT) {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", Path::new(&path).display());
            std::path::absolute(path)?
        }
        None => build()?,
    };
    let mut hasher = DefaultHasher::new();
    std::fs::read(&object)?.hash(&mut hasher);
    println!(
        "cargo::rustc-env=STRONGROOM_PRELOAD_FILE={}",
        object.display()
    );
    println!(
        "cargo::rustc-env=STRONGROOM_PRELOAD_HASH={:016x}",
        hasher.finish()
    );
    Ok(())
}

fn build() -> Result<PathBuf> {
    let package = variable("CARGO_MANIFEST_DIR")?;
    let workspace = package
        .ancestors()
        .nth(2)
        .ok_or("this package is in no workspace")?;
    for source in [
        "Cargo.toml",
        "Cargo.lock",
        "crates/strongroom",
        "crates/strongroom-core",
        "crates/strongroom-preload",
        "crates/strongroom-sys",
    ] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(source).display()
        );
    }
    // A target directory of its own: the outer cargo holds the lock of the usual one.
    let target = variable("OUT_DIR")?.join("preload");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .args([
            "build",
            "--quiet",
            "--package",
            "strongroom-preload",
            "--profile",
            "preload",
        ])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target)
        .current_dir(workspace);
    if workspace.join("Cargo.lock").exists() {
        cargo.arg("--locked");
    }
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(concerns_the_outer_build) {
            cargo.env_remove(name);
        }
    }
    // Most of its size would be line tables, and each start compares it byte by byte.
    cargo.env("CARGO_PROFILE_PRELOAD_STRIP", "debuginfo");
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("building the preload object failed: {status}").into());
    }
    Ok(target.join(TARGET).join("preload/libstrongroom_preload.so"))
}

/// Flags, wrappers and settings of the outer build: sanitizers, coverage and clippy
/// are about the command, not about what goes into other people's programs.
fn concerns_the_outer_build(name: &str) -> bool {
    const KEPT: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER",
    ];
    let rust = [
        "CARGO",
        "RUSTFLAGS",
        "RUSTDOC",
        "RUSTC_W",
        "CLIPPY_",
        "MIRI",
        "LLVM_PROFILE_FILE",
    ];
    rust.iter().any(|prefix| name.starts_with(prefix))
        && !KEPT.iter().any(|prefix| name.starts_with(prefix))
}

fn variable(name: &str) -> Result<PathBuf> {
    env::var_os(name)
        .map(PathBuf::from)
        .ok_or_else(|| format!("cargo did not set {name}").into())
}
