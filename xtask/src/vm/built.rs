//! A kernel of our own configuration, from Debian's source, with Rust for drivers.
//!
//! The source tree stays where it was built, so that another configuration takes less time.

use super::cache::{Cache, because};
use super::kernel::Kernel;
use super::{debian, say};
use crate::packages;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SOURCE: &str = "linux-source-6.12";
const FRAGMENT: &str = include_str!("../../kernel/fragment.config");
/// The version that 6.12 asks for (scripts/min-tool-version.sh, Documentation/rust/quick-start.rst);
/// Debian 12's own is older.
const BINDGEN: &str = "0.71.1";
/// Debian's compiler: another one that comes earlier in PATH does not fit the library's source.
const RUSTC: &str = "/usr/bin/rustc";

pub(super) fn get(cache: &Cache, install: bool) -> Result<Kernel, String> {
    let _lock = cache.lock("built-kernel")?;
    let version = debian::candidate(SOURCE)
        .or_else(|| earlier(cache))
        .ok_or_else(|| format!("apt knows no package {SOURCE}: did `apt-get update` run?"))?;
    let mut hasher = DefaultHasher::new();
    (FRAGMENT, BINDGEN, &version).hash(&mut hasher);
    let key = format!("{version}-{:016x}", hasher.finish());
    let place = cache.path("kernels").join(&key);
    let kernel = Kernel {
        name: format!("our build of {version} ({:016x})", hasher.finish()),
        image: place.join("bzImage"),
        modules: None,
    };
    if kernel.image.exists() {
        return Ok(kernel);
    }
    if install {
        packages::ensure_kernel()?;
    }
    let bindgen = bindgen(cache)?;
    let tree = tree(cache, &version)?;
    build(&tree, &bindgen)?;
    // What is there is whole: the directory gets its name last.
    let work = tempfile::tempdir_in(cache.path("")).map_err(because(&place))?;
    let files = work.path().join("files");
    fs::create_dir_all(&files).map_err(because(&files))?;
    for (from, to) in [
        ("arch/x86/boot/bzImage", "bzImage"),
        (".config", "config"),
        ("System.map", "System.map"),
    ] {
        fs::copy(tree.join(from), files.join(to)).map_err(because(&tree.join(from)))?;
    }
    let kernels = cache.path("kernels");
    let _ = fs::remove_dir_all(&kernels);
    fs::create_dir_all(&kernels).map_err(because(&kernels))?;
    fs::rename(&files, &place).map_err(because(&place))?;
    Ok(kernel)
}

/// The tree that the kernel was built in, configured as it.
pub(crate) fn tree_of_kernel(cache: &Cache, install: bool) -> Result<PathBuf, String> {
    get(cache, install)?;
    let version = debian::candidate(SOURCE)
        .or_else(|| earlier(cache))
        .ok_or("the version of the built kernel is not known")?;
    Ok(cache.path(&format!("source-{version}")))
}

/// The version of a tree that is there.
fn earlier(cache: &Cache) -> Option<String> {
    let kernels = fs::read_dir(cache.path("kernels")).ok()?;
    let name = kernels.flatten().next()?.file_name().into_string().ok()?;
    name.rsplit_once('-').map(|(version, _)| version.to_owned())
}

/// The source, unpacked and never changed but by its own build.
fn tree(cache: &Cache, version: &str) -> Result<PathBuf, String> {
    let tree = cache.path(&format!("source-{version}"));
    if tree.exists() {
        return Ok(tree);
    }
    let files = debian::unpacked(cache, SOURCE)?;
    let archive = files.join(format!("usr/src/{SOURCE}.tar.xz"));
    say("unpacking the kernel's source");
    let work = tempfile::tempdir_in(cache.path("")).map_err(because(&tree))?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(&archive).arg("-C").arg(work.path());
    run(&mut tar, "tar")?;
    for old in fs::read_dir(cache.path(""))
        .map_err(because(&tree))?
        .flatten()
    {
        if old.file_name().to_string_lossy().starts_with("source-") {
            let _ = fs::remove_dir_all(old.path());
        }
    }
    fs::rename(work.path().join(SOURCE), &tree).map_err(because(&tree))?;
    Ok(tree)
}

fn bindgen(cache: &Cache) -> Result<PathBuf, String> {
    let place = cache.path(&format!("bindgen-{BINDGEN}"));
    let program = place.join("bin/bindgen");
    if program.exists() {
        return Ok(program);
    }
    say(&format!("building bindgen {BINDGEN}"));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["install", "--quiet", "--locked", "bindgen-cli"])
        .args(["--version", BINDGEN, "--root"])
        .arg(&place);
    run(&mut cargo, "cargo install bindgen-cli")?;
    Ok(program)
}

fn build(tree: &Path, bindgen: &Path) -> Result<(), String> {
    say("configuring the kernel");
    let fragment = tree.join("strongroom.config");
    fs::write(&fragment, FRAGMENT).map_err(because(&fragment))?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let make = |targets: &[&str]| {
        let mut make = Command::new("make");
        make.current_dir(tree)
            .args(["--silent", &format!("-j{processors}"), "ARCH=x86_64"])
            .arg(format!("RUSTC={RUSTC}"))
            .arg(format!("HOSTRUSTC={RUSTC}"))
            .arg(format!("BINDGEN={}", bindgen.display()))
            .args(targets)
            .stdout(Stdio::null());
        for name in [
            "RUSTC",
            "RUSTFLAGS",
            "CARGO",
            "MAKEFLAGS",
            "LD_LIBRARY_PATH",
        ] {
            make.env_remove(name);
        }
        run(&mut make, &format!("make {}", targets.join(" ")))
    };
    make(&["rustavailable"])?;
    make(&["tinyconfig"])?;
    let mut merge = Command::new("scripts/kconfig/merge_config.sh");
    merge
        .current_dir(tree)
        .args(["-m", ".config", "strongroom.config"])
        .stdout(Stdio::null());
    run(&mut merge, "merge_config.sh")?;
    make(&["olddefconfig"])?;
    let config = fs::read_to_string(tree.join(".config")).map_err(because(tree))?;
    let lost = lost(&config);
    if !lost.is_empty() {
        return Err(format!(
            "these options of xtask/kernel/fragment.config took no effect: {}",
            lost.join(" ")
        ));
    }
    say("building the kernel; some 5 minutes on 2 processors");
    make(&["bzImage"])
}

/// What of the fragment is not in the configuration.
fn lost(config: &str) -> Vec<&'static str> {
    FRAGMENT
        .lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter(|wanted| !config.lines().any(|line| line == *wanted))
        .collect()
}

fn run(command: &mut Command, what: &str) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{what}: {status}")),
        Err(error) => Err(format!("{what} cannot be started: {error}")),
    }
}
