//! strongroom.ko, by the kernel's own build: the shim in C, and the Rust part by `driver/rust/object.sh`.

use super::tree::{self, Tree};
use super::{Sources, Target, package, source};
use crate::packages;
use crate::vm::Cache;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Builds the module for a kernel and returns its path.
///
/// # Errors
/// Where something is missing, does not compile, or the Rust object holds a panic.
pub(crate) fn build(
    cache: &Cache,
    root: &Path,
    target: &Target,
    sources: Sources,
    install: bool,
) -> Result<PathBuf, String> {
    if install {
        packages::ensure_driver()?;
    }
    let kernel = Tree::get(cache, target, install)?.directory;
    let _lock = cache.lock("driver")?;
    let kept = cache.path("driver");
    let mut hasher = DefaultHasher::new();
    (&kernel, sources).hash(&mut hasher);
    let work = kept.join(format!("module-{:016x}", hasher.finish()));
    tree::fresh(&work)?;
    let directory = match sources {
        Sources::Tree => {
            let directory = work.join("strongroom");
            source::assemble(root, &directory)?;
            directory
        }
        Sources::Package => package::unpacked(root, &work)?,
    };
    let mut make = Command::new("make");
    make.arg("--silent")
        .arg("-C")
        .arg(&directory)
        .arg(format!("KERNEL={}", kernel.display()))
        .args(["W=1", "KCFLAGS=-Werror"])
        .stdin(Stdio::null());
    let exported = kernel.join("vmlinux.symvers");
    if exported.exists() && !kernel.join("Module.symvers").exists() {
        make.arg(format!("KBUILD_EXTRA_SYMBOLS={}", exported.display()));
    }
    for name in [
        "MAKEFLAGS",
        "CARGO",
        "RUSTC",
        "RUSTFLAGS",
        "LD_LIBRARY_PATH",
    ] {
        make.env_remove(name);
    }
    // A package's user has nothing that is kept.
    if sources == Sources::Tree {
        make.env("STRONGROOM_RUST_KEPT", &kept);
    }
    let output = make
        .arg("modules")
        .output()
        .map_err(|error| format!("make cannot be started: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // A warning of objtool or modpost is a mistake here; the missing vmlinux is not.
    let warned = said
        .lines()
        .any(|line| line.contains("warning:") || line.contains("WARNING:"));
    let module = directory.join("strongroom.ko");
    if output.status.success() && !warned && module.exists() {
        Ok(module)
    } else {
        Err(format!("the module is not built:\n{said}"))
    }
}
