//! The Rust part of the driver as one object: core, bitflags, strongroom-core and the driver's crate, compiled as
//! the kernel's own Makefiles compile Rust (6.12: Makefile, arch/x86/Makefile, rust/Makefile), whether this
//! kernel was built with Rust or not.

use super::tree::Tree;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's compiler: its library's source is packaged beside it.
const RUSTC: &str = "/usr/bin/rustc";
/// scripts/generate_rust_target.rs gives this for x86-64.
const TARGET: &str = r#"{
  "arch": "x86_64",
  "cpu": "x86-64",
  "rustc-abi": "x86-softfloat",
  "data-layout": "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128",
  "features": "-mmx,+soft-float",
  "llvm-target": "x86_64-linux-gnu",
  "max-atomic-width": 64,
  "stack-probes": { "kind": "none" },
  "target-endian": "little",
  "target-pointer-width": 64,
  "emit-debug-gdb-scripts": false
}
"#;

/// Builds the object into `work` and returns its path. What depends on the compiler and the kernel's options alone is
/// kept in `kept`.
pub(super) fn object(
    root: &Path,
    tree: &Tree,
    kept: &Path,
    work: &Path,
) -> Result<PathBuf, String> {
    let library = library()?;
    let flags = flags(tree);
    let mut hasher = DefaultHasher::new();
    (&flags, TARGET, output(Command::new(RUSTC).arg("-vV"))?).hash(&mut hasher);
    let base = kept.join(format!("rust-{:016x}", hasher.finish()));
    if !base.join("core.o").exists() {
        eprintln!("xtask: driver: compiling core for the kernel");
        super::tree::fresh(&base)?;
        write(&base.join("target.json"), TARGET)?;
        write(
            &base.join("compiler_builtins.rs"),
            "#![no_std]\n#![feature(compiler_builtins)]\n#![compiler_builtins]\n#![allow(internal_features)]\n",
        )?;
        let core = library.join("core/src/lib.rs");
        // The object last: with it everything is there.
        let compile = |name, edition, source: &Path, emit, more: &[&str]| {
            let mut rustc = rustc(&base, &flags);
            rustc
                .args([
                    "--cap-lints",
                    "allow",
                    "--crate-name",
                    name,
                    "--edition",
                    edition,
                ])
                .arg(format!("--emit={emit}"))
                .args(more)
                .arg(source);
            quiet(&mut rustc, name)
        };
        let partial = "metadata=libcore.rmeta,obj=core.part.o";
        compile(
            "core",
            "2024",
            &core,
            partial,
            &["--cfg", "no_fp_fmt_parse"],
        )?;
        let builtins = base.join("compiler_builtins.rs");
        let emit = "metadata=libcompiler_builtins.rmeta";
        compile("compiler_builtins", "2021", &builtins, emit, &[])?;
        fs::rename(base.join("core.part.o"), base.join("core.o"))
            .map_err(|error| format!("{}: {error}", base.display()))?;
    }
    let crates = [
        ("bitflags", "2021", bitflags(root)?, None),
        (
            "strongroom_core",
            "2024",
            root.join("crates/strongroom-core/src/lib.rs"),
            None,
        ),
        (
            "strongroom_driver",
            "2024",
            root.join("driver/src/lib.rs"),
            Some("strongroom_kernel"),
        ),
    ];
    let mut objects = Vec::new();
    let mut before: Option<(&str, PathBuf)> = None;
    for (name, edition, source, cfg) in &crates {
        let (object, metadata) = (format!("{name}.o"), format!("lib{name}.rmeta"));
        let mut rustc = rustc(&base, &flags);
        rustc
            .args(["--crate-name", name, "--edition", edition])
            .arg("-L")
            .arg(work)
            .arg(format!(
                "--emit=obj={},metadata={}",
                work.join(&object).display(),
                work.join(&metadata).display()
            ));
        if let Some((name, metadata)) = before {
            rustc.arg(format!("--extern={name}={}", metadata.display()));
        }
        if let Some(cfg) = cfg {
            rustc.args(["--cfg", cfg]);
        }
        if *name == "bitflags" {
            rustc.args(["--cap-lints", "allow"]);
        }
        quiet(rustc.arg(source), name)?;
        objects.push(work.join(object));
        before = Some((name, work.join(metadata)));
    }
    objects.push(base.join("core.o"));
    link(&objects, work)
}

/// The compiler's flags for the kernel's options.
fn flags(tree: &Tree) -> Vec<String> {
    let mut features = "-sse,-sse2,-sse3,-ssse3,-sse4.1,-sse4.2,-avx,-avx2".to_owned();
    let mut flags: Vec<String> = [
        "--crate-type=rlib",
        "--sysroot=/dev/null",
        "-Copt-level=2",
        "-Cpanic=abort",
        "-Cembed-bitcode=n",
        "-Clto=n",
        "-Cforce-unwind-tables=n",
        "-Ccodegen-units=1",
        "-Crelocation-model=static",
        "-Ccode-model=kernel",
        "-Cno-redzone=y",
        "-Cforce-frame-pointers=y",
        "-Cjump-tables=n",
        "-Zfunction-sections=y",
        "-Zunstable-options",
    ]
    .map(str::to_owned)
    .to_vec();
    if tree.has("X86_KERNEL_IBT") {
        flags.push("-Zcf-protection=branch".to_owned());
    }
    if tree.has("MITIGATION_RETPOLINE") {
        flags.push("-Zretpoline-external-thunk".to_owned());
    }
    if tree.has("MITIGATION_RETHUNK") {
        flags.push("-Zfunction-return=thunk-extern".to_owned());
    }
    if tree.has("MITIGATION_SLS") {
        features.push_str(",+harden-sls-ijmp,+harden-sls-ret");
    }
    if tree.has("CALL_PADDING")
        && let Some(bytes) = tree.option("FUNCTION_PADDING_BYTES")
    {
        flags.push(format!("-Zpatchable-function-entry={bytes},{bytes}"));
    }
    flags.push(format!("-Ctarget-feature={features}"));
    flags
}

fn rustc(base: &Path, flags: &[String]) -> Command {
    let mut rustc = Command::new(RUSTC);
    // It names what it emits as it is told, in the directory where it runs.
    rustc
        .current_dir(base)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("RUSTC_BOOTSTRAP", "1")
        .arg("--target=./target.json")
        .args(["-L", "."])
        .args(flags);
    rustc
}

/// One object of all, without what nothing needs; and without a panic.
fn link(objects: &[PathBuf], work: &Path) -> Result<PathBuf, String> {
    let driver = objects
        .iter()
        .find(|object| object.ends_with("strongroom_driver.o"));
    let roots: Vec<String> = symbols(driver.ok_or("there is no object of the driver")?, "T")?
        .into_iter()
        .filter(|name| name.starts_with("strongroom_"))
        .collect();
    let (all, needed, object) = (
        work.join("all.o"),
        work.join("needed.o"),
        work.join("strongroom_rust.o"),
    );
    let mut ld = Command::new("ld");
    ld.args(["-r", "--gc-sections"]);
    for root in &roots {
        ld.args(["-u", root]);
    }
    quiet(ld.arg("-o").arg(&all).args(objects), "ld")?;
    let strip = |how: &[String], to: &Path| {
        let mut objcopy = Command::new("objcopy");
        quiet(
            objcopy
                .args(how)
                .arg("--remove-section=.comment")
                .arg(&all)
                .arg(to),
            "objcopy",
        )
    };
    // objtool wants the names of local functions, which --strip-unneeded takes; the names of undefined
    // ones that only removed sections used have to go.
    strip(&["--strip-unneeded".to_owned()], &needed)?;
    let used = symbols(&needed, "U")?;
    let mut how = vec!["--strip-debug".to_owned()];
    for name in symbols(&all, "U")? {
        if !used.contains(&name) {
            how.push(format!("--strip-symbol={name}"));
        }
    }
    strip(&how, &object)?;
    let panics: Vec<String> = symbols(&object, "tTU")?
        .into_iter()
        .filter(|name| name.contains("panic") || name == "sr_bug")
        .collect();
    if panics.is_empty() {
        Ok(object)
    } else {
        Err(format!(
            "the driver's Rust can panic: {}",
            panics.join(", ")
        ))
    }
}

/// The names of an object's symbols of these kinds (nm).
fn symbols(object: &Path, kinds: &str) -> Result<Vec<String>, String> {
    let text = output(Command::new("nm").arg(object))?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().rev();
            let (name, kind) = (words.next()?, words.next()?);
            kinds.contains(kind).then(|| name.to_owned())
        })
        .collect())
}

/// The standard library's source.
fn library() -> Result<PathBuf, String> {
    let sysroot = output(Command::new(RUSTC).args(["--print", "sysroot"]))?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    if library.join("core/src/lib.rs").exists() {
        Ok(library)
    } else {
        Err(format!(
            "{} is not there (Debian: rust-web-src)",
            library.display()
        ))
    }
}

/// The source of the bitflags that strongroom-core uses.
fn bitflags(root: &Path) -> Result<PathBuf, String> {
    let text = output(
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["metadata", "--format-version", "1", "--locked"])
            .current_dir(root),
    )?;
    let metadata: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))?;
    let manifest = metadata
        .get("packages")
        .and_then(|packages| packages.as_array())
        .into_iter()
        .flatten()
        .filter(|package| package.get("name").is_some_and(|name| name == "bitflags"))
        .find(|package| {
            let version = package.get("version").and_then(|version| version.as_str());
            version.is_some_and(|version| version.starts_with("2."))
        })
        .and_then(|package| package.get("manifest_path")?.as_str());
    let manifest = manifest.ok_or("cargo metadata knows no bitflags 2")?;
    let directory = Path::new(manifest).parent().unwrap_or(Path::new("."));
    Ok(directory.join("src/lib.rs"))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Ok(output) => Err(format!(
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!("{name} cannot be started: {error}")),
    }
}

/// Runs it, and shows what it writes only where it fails: rustc warns of every flag that only kernels use.
fn quiet(command: &mut Command, what: &str) -> Result<(), String> {
    output(command)
        .map(|_| ())
        .map_err(|why| format!("{what}: {why}"))
}
