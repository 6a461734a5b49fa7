//! What a guest has in its memory: programs, modules, jobs.

use super::initramfs::{self, Initramfs, Script};
use super::kernel::Kernel;
use super::modules::{Module, Modules};
use super::suites::{Job, Work};
use super::{Args, Cache, debian, outside, programs};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a guest needs of modules: disks, a file system on one.
const MODULES: [&str; 3] = ["virtio_blk", "crc32c_generic", "ext4"];
/// Programs of this machine that its tests or its init use, beside busybox.
const PROGRAMS: [&str; 3] = ["bash", "install", "setpriv"];

/// Debian packages that the guest's programs are from, unpacked.
pub(super) struct Userland {
    busybox: PathBuf,
    /// Without Python, whose library would be as large as everything else.
    gdb: PathBuf,
}

impl Userland {
    pub(super) fn get(cache: &Cache) -> Result<Self, String> {
        Ok(Self {
            busybox: debian::unpacked(cache, "busybox-static")?,
            gdb: debian::unpacked(cache, "gdb-minimal")?,
        })
    }
}

/// Where the programs of this workspace come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workspace<'a> {
    pub(super) root: &'a Path,
    /// A directory for copies of them, until the guest's memory is written.
    pub(super) copies: &'a Path,
}

pub(super) fn assemble(
    args: &Args,
    workspace: Workspace<'_>,
    userland: &Userland,
    kernel: &Kernel,
    token: &str,
    jobs: &[Job],
    environment: &str,
) -> Result<Initramfs, String> {
    let mut initramfs = Initramfs::new(
        &userland.busybox.join("bin/busybox"),
        &format!("token={token}\nmemlock={}\n", args.memlock),
    );
    let of_jobs = jobs.iter().flat_map(|job| job.needs.host).copied();
    for program in PROGRAMS.into_iter().chain(of_jobs) {
        if !initramfs.own(program)? {
            return Err(format!("{program} is not here, which the guest needs"));
        }
    }
    initramfs.program("/usr/bin/gdb", &userland.gdb.join("usr/bin/gdb"))?;
    initramfs.program("/usr/bin/gcore", &userland.gdb.join("usr/bin/gcore"))?;
    initramfs.symlink("/usr/bin/env", "/bin/busybox");
    let strongroom = programs::program(workspace.root, "strongroom-cli", "strongroom")?;
    let stripped = |program: &Path| programs::stripped(program, workspace.copies);
    initramfs.program("/usr/local/bin/strongroom", &stripped(&strongroom))?;
    let modules = Modules::of(kernel.modules.as_deref())?;
    let (files, named): (Vec<_>, Vec<_>) =
        args.modules.iter().partition(|name| name.ends_with(".ko"));
    for name in &named {
        if kernel.modules.is_some() && !modules.know(name) {
            return Err(format!("{} has no module {name}", kernel.name));
        }
    }
    let wanted: Vec<String> = MODULES
        .into_iter()
        .chain(jobs.iter().flat_map(|job| job.needs.modules).copied())
        .map(str::to_owned)
        .chain(named.into_iter().cloned())
        .collect();
    let mut loaded = modules.closure(&wanted)?;
    for file in files {
        loaded.push(Module::of(Path::new(file))?);
    }
    initramfs.modules(loaded);
    let mut places = vec![strongroom];
    let needed: BTreeSet<_> = jobs.iter().flat_map(|job| job.needs.programs).collect();
    for name in needed {
        let program = programs::program(workspace.root, name, name)?;
        initramfs.program(&format!("/usr/local/bin/{name}"), &stripped(&program))?;
        places.push(program);
    }
    // Tests of a program were built with its path here.
    let links: String = places.iter().map(|place| link(place)).collect();
    let mut scripts = Vec::new();
    for (number, job) in jobs.iter().enumerate() {
        let work = match &job.work {
            Work::Script(script) => script.clone(),
            Work::Tests(test) => {
                let program = programs::tests(workspace.root, test)?;
                let name = format!("/usr/local/lib/tests/{number:03}-{}", test.target);
                initramfs.program(&name, &stripped(&program))?;
                let arguments = test.bench.as_deref().unwrap_or_default();
                format!("{links}{name} {arguments}")
            }
        };
        let title = format!("printf '\\n== %s\\n' '{}'", job.name.replace('\'', "'\\''"));
        scripts.push(Script {
            user: job.user,
            before: format!("{title}\n{}", job.before),
            run: format!("{environment}{}\n{work}\n", job.variables),
        });
    }
    initramfs.jobs(&scripts);
    Ok(initramfs)
}

/// Has a program of the guest be where it is here.
fn link(place: &Path) -> String {
    let directory = place.parent().unwrap_or(Path::new("/")).display();
    let name = place.file_name().unwrap_or_default().display();
    format!("mkdir -p '{directory}' && ln -sf '/usr/local/bin/{name}' '{directory}/{name}'\n")
}

/// What the tests here are told by the environment, those in the guest are told too.
pub(super) fn environment(args: &Args, driver: bool) -> String {
    let set = std::env::var_os("STRONGROOM_NO_SKIP").is_some_and(|v| v != "0" && !v.is_empty());
    let no_skip = if set {
        "export STRONGROOM_NO_SKIP=1\n"
    } else {
        ""
    };
    let driver = if driver {
        let fuzz = &args.fuzz;
        format!(
            "export STRONGROOM_MODULE={} STRONGROOM_OUTSIDE={}\n\
             export STRONGROOM_FUZZ_STEPS={} STRONGROOM_FUZZ_SEED={} STRONGROOM_FUZZ_FAIL={}\n",
            initramfs::DRIVER,
            outside::PORT,
            fuzz.steps,
            fuzz.seed,
            u8::from(fuzz.fail),
        )
    } else {
        String::new()
    };
    format!("cd /tmp\nexport STRONGROOM_SKIP_LOG=/run/skips\n{no_skip}{driver}")
}
