//! strongroom.ko: the shim, compiled by the kernel's own build, with the Rust object.

use super::tree::{self, Tree};
use super::{Target, rust};
use crate::packages;
use crate::vm::Cache;
use std::fs;
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
    install: bool,
) -> Result<PathBuf, String> {
    if install {
        packages::ensure_driver()?;
    }
    let tree = Tree::get(cache, target, install)?;
    let _lock = cache.lock("driver")?;
    let kept = cache.path("driver");
    let mut hasher = DefaultHasher::new();
    tree.directory.hash(&mut hasher);
    let work = kept.join(format!("module-{:016x}", hasher.finish()));
    tree::fresh(&work)?;
    let rust = work.join("rust");
    tree::fresh(&rust)?;
    let object = rust::object(root, &tree, &kept, &rust)?;
    let source = work.join("strongroom");
    tree::fresh(&source.join("shim"))?;
    let copy = |from: &Path, to: &Path| {
        fs::copy(from, to)
            .map(|_| ())
            .map_err(|error| format!("{}: {error}", from.display()))
    };
    copy(&root.join("driver/Kbuild"), &source.join("Kbuild"))?;
    copy(&object, &source.join("strongroom_rust.o_shipped"))?;
    let shim = root.join("driver/shim");
    for entry in fs::read_dir(&shim).map_err(|error| format!("{}: {error}", shim.display()))? {
        let entry = entry.map_err(|error| format!("{}: {error}", shim.display()))?;
        copy(&entry.path(), &source.join("shim").join(entry.file_name()))?;
    }
    // modpost asks which sources an object is from; this one has its own way.
    fs::write(source.join(".strongroom_rust.o.cmd"), "")
        .map_err(|error| format!("{}: {error}", source.display()))?;
    let mut make = Command::new("make");
    make.arg("--silent")
        .arg("-C")
        .arg(&tree.directory)
        .arg(format!("M={}", source.display()))
        .args(["W=1", "KCFLAGS=-Werror"])
        .stdin(Stdio::null());
    let exported = tree.directory.join("vmlinux.symvers");
    if exported.exists() && !tree.directory.join("Module.symvers").exists() {
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
    let output = make
        .arg("modules")
        .output()
        .map_err(|error| format!("make cannot be started: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // A warning of objtool or modpost is a mistake here; the missing vmlinux is not.
    let warned = said
        .lines()
        .any(|line| line.contains("warning:") || line.contains("WARNING:"));
    let module = source.join("strongroom.ko");
    if output.status.success() && !warned && module.exists() {
        Ok(module)
    } else {
        Err(format!("the module is not built:\n{said}"))
    }
}
