//! Kernels of our own configuration, from Debian's source: one with Rust for drivers, one that finds
//! mistakes.
//!
//! The source is unpacked once and each kernel is built in a directory of its own, which stays: a
//! changed configuration takes less time, and modules are built against it.

use super::cache::{Cache, because};
use super::kernel::Kernel;
use super::{debian, say};
use crate::packages;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SOURCE: &str = "linux-source-6.12";
const FRAGMENT: Fragment = Fragment {
    path: "xtask/kernel/fragment.config",
    text: include_str!("../../kernel/fragment.config"),
};
const DEBUG: Fragment = Fragment {
    path: "xtask/kernel/debug.config",
    text: include_str!("../../kernel/debug.config"),
};
/// What the driver's second kind of pool needs, for all kernels that are built here.
const PATCH: &str = include_str!("../../kernel/direct-map.patch");
/// The version that 6.12 asks for (scripts/min-tool-version.sh, Documentation/rust/quick-start.rst);
/// Debian 12's own is older.
const BINDGEN: &str = "0.71.1";
/// Debian's compiler: another one that comes earlier in PATH does not fit the library's source.
const RUSTC: &str = "/usr/bin/rustc";

/// Options that are put upon tinyconfig's.
#[derive(Debug)]
struct Fragment {
    /// Where it is in the repository.
    path: &'static str,
    text: &'static str,
}

/// What is built.
#[derive(Debug)]
pub(crate) struct Configuration {
    /// What people call it.
    name: &'static str,
    /// The directory of the cache with what came of the build.
    kept: &'static str,
    /// The later one counts where they differ.
    fragments: &'static [Fragment],
    /// For the kernel's command line.
    append: &'static str,
    /// A run fails of what the kernel reports, too.
    reports: bool,
}

/// `--kernel built`.
pub(crate) const BUILT: Configuration = Configuration {
    name: "built",
    kept: "kernels",
    fragments: &[FRAGMENT],
    append: "",
    reports: false,
};

/// `--kernel debug`. The taints are those of a bad page, an oops, a warning and a soft lockup: not
/// everything that sets one is a warning to `panic_on_warn`. Seconds for RCU, as the kernel that
/// unpacks its files on a busy machine is no stall.
pub(crate) const DEBUGGING: Configuration = Configuration {
    name: "debug",
    kept: "kernels-debug",
    fragments: &[FRAGMENT, DEBUG],
    append: "panic_on_warn=1 panic_on_taint=0x42a0 rcupdate.rcu_cpu_stall_timeout=120",
    reports: true,
};

pub(super) fn get(
    cache: &Cache,
    configuration: &'static Configuration,
    install: bool,
) -> Result<Kernel, String> {
    Ok(made(cache, configuration, install, false)?.0)
}

/// Where the kernel was built, configured as it: what a module is built against.
pub(crate) fn tree(
    cache: &Cache,
    configuration: &'static Configuration,
    install: bool,
) -> Result<PathBuf, String> {
    Ok(made(cache, configuration, install, true)?.1)
}

/// The kernel, and where it was built; that is there for certain if `modules` are to be built.
fn made(
    cache: &Cache,
    configuration: &'static Configuration,
    install: bool,
    modules: bool,
) -> Result<(Kernel, PathBuf), String> {
    let name = configuration.name;
    let _lock = cache.lock(&format!("{name}-kernel"))?;
    let version = debian::candidate(SOURCE)
        .or_else(|| earlier(cache, configuration))
        .ok_or_else(|| format!("apt knows no package {SOURCE}: did `apt-get update` run?"))?;
    let mut hasher = DefaultHasher::new();
    for fragment in configuration.fragments {
        fragment.text.hash(&mut hasher);
    }
    (PATCH, BINDGEN, &version).hash(&mut hasher);
    let key = format!("{version}-{:016x}", hasher.finish());
    let kernels = cache.path(configuration.kept);
    let place = kernels.join(&key);
    let kernel = Kernel {
        name: format!("our {name} build of {version} ({:016x})", hasher.finish()),
        image: place.join("bzImage"),
        modules: None,
        append: configuration.append,
        reports: configuration.reports,
    };
    let out = cache.path(&format!("build-{name}"));
    let stamp = out.join("built");
    let is_built = || fs::read_to_string(&stamp).is_ok_and(|of| of == key);
    if kernel.image.exists() && (!modules || is_built()) {
        return Ok((kernel, out));
    }
    if install {
        packages::ensure_kernel()?;
    }
    let source = source(cache, &version)?;
    prepare(&out, &source)?;
    Build {
        source: &source,
        out: &out,
        bindgen: bindgen(cache)?,
    }
    .run(configuration)?;
    // What is there is whole: the directory gets its name last.
    let work = tempfile::tempdir_in(cache.path("")).map_err(because(&place))?;
    let files = work.path().join("files");
    fs::create_dir_all(&files).map_err(because(&files))?;
    for (from, to) in [
        ("arch/x86/boot/bzImage", "bzImage"),
        (".config", "config"),
        ("System.map", "System.map"),
    ] {
        fs::copy(out.join(from), files.join(to)).map_err(because(&out.join(from)))?;
    }
    let _ = fs::remove_dir_all(&kernels);
    fs::create_dir_all(&kernels).map_err(because(&kernels))?;
    fs::rename(&files, &place).map_err(because(&place))?;
    fs::write(&stamp, key).map_err(because(&stamp))?;
    Ok((kernel, out))
}

/// The version of a kernel that is there.
fn earlier(cache: &Cache, configuration: &Configuration) -> Option<String> {
    let kernels = fs::read_dir(cache.path(configuration.kept)).ok()?;
    let name = kernels.flatten().next()?.file_name().into_string().ok()?;
    name.rsplit_once('-').map(|(version, _)| version.to_owned())
}

/// The source, unpacked, with the patch, and not changed after that.
fn source(cache: &Cache, version: &str) -> Result<PathBuf, String> {
    let _lock = cache.lock("kernel-source")?;
    let mut hasher = DefaultHasher::new();
    PATCH.hash(&mut hasher);
    let source = cache.path(&format!("linux-{version}-{:016x}", hasher.finish()));
    if source.exists() {
        return Ok(source);
    }
    let files = debian::unpacked(cache, SOURCE)?;
    let archive = files.join(format!("usr/src/{SOURCE}.tar.xz"));
    say("unpacking the kernel's source");
    let work = tempfile::tempdir_in(cache.path("")).map_err(because(&source))?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(&archive).arg("-C").arg(work.path());
    run(&mut tar, "tar")?;
    let unpacked = work.path().join(SOURCE);
    let diff = work.path().join("patch");
    fs::write(&diff, PATCH).map_err(because(&diff))?;
    let mut patch = Command::new("patch");
    patch
        .args(["--silent", "--strip=1", "--input"])
        .arg(&diff)
        .current_dir(&unpacked);
    run(&mut patch, "patch")?;
    let others = fs::read_dir(cache.path("")).map_err(because(&source))?;
    for other in others.flatten() {
        let name = other.file_name().to_string_lossy().into_owned();
        let rest = name.strip_prefix("linux-").unwrap_or_default();
        if rest.starts_with(|first: char| first.is_ascii_digit()) {
            let _ = fs::remove_dir_all(other.path());
        }
    }
    fs::rename(unpacked, &source).map_err(because(&source))?;
    Ok(source)
}

/// Makes the directory in which a configuration is built. Objects of another source are removed.
fn prepare(out: &Path, source: &Path) -> Result<(), String> {
    let stamp = out.join("source-version");
    let name = source.file_name().unwrap_or_default().to_string_lossy();
    if fs::read_to_string(&stamp).is_ok_and(|of| of == name) {
        return Ok(());
    }
    let _ = fs::remove_dir_all(out);
    fs::create_dir_all(out).map_err(because(out))?;
    fs::write(&stamp, name.as_bytes()).map_err(because(&stamp))
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

/// One build: of this source, in this directory.
struct Build<'a> {
    source: &'a Path,
    out: &'a Path,
    bindgen: PathBuf,
}

impl Build<'_> {
    fn run(&self, configuration: &Configuration) -> Result<(), String> {
        say(&format!("configuring the {} kernel", configuration.name));
        self.make(&["tinyconfig"])?;
        let mut merge = Command::new("scripts/kconfig/merge_config.sh");
        merge
            .current_dir(self.source)
            .args(["-m", "-O"])
            .arg(self.out)
            .arg(self.out.join(".config"))
            .stdout(Stdio::null());
        for fragment in configuration.fragments {
            let name = Path::new(fragment.path).file_name().unwrap_or_default();
            let path = self.out.join(name);
            fs::write(&path, fragment.text).map_err(because(&path))?;
            merge.arg(path);
        }
        run(&mut merge, "merge_config.sh")?;
        self.make(&["olddefconfig"])?;
        let path = self.out.join(".config");
        let config = fs::read_to_string(&path).map_err(because(&path))?;
        let lost = lost(configuration.fragments, &config);
        if !lost.is_empty() {
            let paths: Vec<&str> = configuration.fragments.iter().map(|f| f.path).collect();
            return Err(format!(
                "these options of {} took no effect: {}",
                paths.join(" and "),
                lost.join(", ")
            ));
        }
        if config.lines().any(|line| line == "CONFIG_RUST=y") {
            self.make(&["rustavailable"])?;
        }
        say(&format!(
            "building the {} kernel; 5 to 10 minutes on 2 processors",
            configuration.name
        ));
        // `modules` makes what a module is linked against, though none is built here.
        self.make(&["bzImage", "modules"])
    }

    fn make(&self, targets: &[&str]) -> Result<(), String> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let mut make = Command::new("make");
        make.current_dir(self.source)
            .args(["--silent", &format!("-j{processors}"), "ARCH=x86_64"])
            .arg(format!("O={}", self.out.display()))
            .arg(format!("RUSTC={RUSTC}"))
            .arg(format!("HOSTRUSTC={RUSTC}"))
            .arg(format!("BINDGEN={}", self.bindgen.display()))
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
    }
}

/// The option that a line of a configuration sets, or says not to be set.
fn option(line: &str) -> Option<&str> {
    match line.strip_prefix("# ") {
        Some(rest) => rest.strip_suffix(" is not set"),
        None => line.split_once('=').map(|(name, _)| name),
    }
    .filter(|name| name.starts_with("CONFIG_"))
}

/// What of the fragments is not so in the configuration. One that is not to be set may be unknown
/// to it, as where it depends on another.
fn lost(fragments: &[Fragment], config: &str) -> Vec<String> {
    let set: HashMap<&str, &str> = lines(config).collect();
    let wanted: BTreeMap<&str, &str> = fragments.iter().flat_map(|f| lines(f.text)).collect();
    wanted
        .into_iter()
        .filter(|(name, line)| match set.get(name) {
            Some(there) => there != line,
            None => !line.starts_with('#'),
        })
        .map(|(_, line)| line.to_owned())
        .collect()
}

fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| Some((option(line)?, line)))
}

fn run(command: &mut Command, what: &str) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{what}: {status}")),
        Err(error) => Err(format!("{what} cannot be started: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(text: &'static str) -> Fragment {
        Fragment { path: "x", text }
    }

    #[test]
    fn an_option_without_effect_is_named() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=16\n";
        let lost = |text| lost(&[fragment(text)], config);
        assert!(lost("# Why.\nCONFIG_A=y\nCONFIG_C=16\n# CONFIG_B is not set\n").is_empty());
        assert!(lost("# CONFIG_UNKNOWN is not set").is_empty());
        assert_eq!(lost("CONFIG_B=y"), ["CONFIG_B=y"]);
        assert_eq!(lost("CONFIG_C=17"), ["CONFIG_C=17"]);
        assert_eq!(lost("CONFIG_UNKNOWN=y"), ["CONFIG_UNKNOWN=y"]);
        assert_eq!(lost("# CONFIG_A is not set"), ["# CONFIG_A is not set"]);
    }

    #[test]
    fn the_later_fragment_counts() {
        let first = fragment("CONFIG_A=y\nCONFIG_B=y\n");
        let second = fragment("# CONFIG_A is not set\n");
        let both = [first, second];
        assert!(lost(&both, "CONFIG_B=y\n").is_empty());
        assert_eq!(lost(&both, "CONFIG_A=y\n").len(), 2);
    }
}
