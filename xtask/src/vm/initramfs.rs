//! The guest's root file system, all of it in memory.

use super::cache::because;
use super::cpio::Archive;
use super::libraries;
use super::modules::Module;
use super::suites::User;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The driver's place in the guest.
pub(super) const DRIVER: &str = "/lib/strongroom/strongroom.ko";

/// What is put together for one run.
#[derive(Debug, Default)]
pub(super) struct Initramfs {
    archive: Archive,
}

/// A job as the guest has it: two shell scripts.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) user: User,
    pub(super) before: String,
    pub(super) run: String,
}

impl Initramfs {
    /// busybox, the users, and an init with these settings, a variable a line.
    pub(super) fn new(busybox: &Path, settings: &str) -> Self {
        let mut archive = Archive::default();
        for directory in [
            "/proc",
            "/sys",
            "/dev",
            "/tmp",
            "/run",
            "/var/tmp",
            "/root",
            "/mnt",
            "/lib/modules",
            "/lib/strongroom",
            "/etc/vm/jobs",
            "/home/user",
        ] {
            archive.directory(directory);
        }
        // The kernel opens it before anything is mounted.
        archive.device("/dev/console", 5, 1);
        archive.program("/bin/busybox", busybox);
        archive.symlink("/bin/sh", "busybox");
        archive.file("/init", include_str!("init.sh"), 0o755);
        archive.file("/etc/passwd", "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\n", 0o644);
        archive.file(
            "/etc/group",
            "root:x:0:\nuser:x:1000:\nnogroup:x:65534:\n",
            0o644,
        );
        archive.file("/etc/vm/settings", settings, 0o600);
        Self { archive }
    }

    /// A program and the libraries that it needs.
    pub(super) fn program(&mut self, name: &str, source: &Path) -> Result<(), String> {
        for library in libraries::of(source)? {
            let place = library.to_string_lossy().into_owned();
            if !self.archive.has(&place) {
                self.archive.program(&place, &library);
            }
        }
        self.archive.program(name, source);
        Ok(())
    }

    pub(super) fn symlink(&mut self, name: &str, target: &str) {
        self.archive.symlink(name, target);
    }

    /// A program of this machine, at the place where it is here; `false` where it is not.
    pub(super) fn own(&mut self, name: &str) -> Result<bool, String> {
        let places = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];
        let found = places.map(|place| PathBuf::from(place).join(name));
        let Some(found) = found.into_iter().find(|path| path.exists()) else {
            return Ok(false);
        };
        self.program(&format!("/usr/bin/{name}"), &found)?;
        Ok(true)
    }

    /// Modules in the order of their names here, which is that of loading.
    pub(super) fn modules(&mut self, modules: Vec<Module>) {
        for (number, module) in modules.into_iter().enumerate() {
            let name = format!("/lib/modules/{number:03}-{}.ko", module.name);
            self.archive.file(&name, module.image, 0o644);
        }
    }

    /// The driver, which init loads.
    pub(super) fn driver(&mut self, module: &Path) -> Result<(), String> {
        let image = std::fs::read(module).map_err(because(module))?;
        self.archive.file(DRIVER, image, 0o644);
        Ok(())
    }

    pub(super) fn shell(&mut self) {
        self.archive.file("/etc/vm/shell", "", 0o644);
    }

    pub(super) fn jobs(&mut self, jobs: &[Script]) {
        for (number, job) in jobs.iter().enumerate() {
            let place = format!("/etc/vm/jobs/{number:03}");
            let before = format!("{}\n", job.before);
            self.archive.file(&format!("{place}/before"), before, 0o644);
            self.archive
                .file(&format!("{place}/run"), job.run.clone(), 0o644);
            if job.user == User::Ordinary {
                self.archive.file(&format!("{place}/ordinary"), "", 0o644);
            }
        }
    }

    /// Writes the image.
    pub(super) fn write(&self, path: &Path) -> Result<(), String> {
        let file = File::create(path).map_err(because(path))?;
        let mut out = BufWriter::new(file);
        self.archive
            .write(&mut out)
            .and_then(|()| out.flush())
            .map_err(because(path))
    }
}
