//! Kernel modules: those asked for and what they depend on, in the order to load them.

use super::cache::because;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The modules of one kernel. A package that is not installed has no modules.dep, so each module's
/// own word is taken.
#[derive(Debug)]
pub(super) struct Modules {
    files: HashMap<String, PathBuf>,
    builtin: String,
}

/// A module as the kernel takes it.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) name: String,
    pub(super) image: Vec<u8>,
}

impl Module {
    /// One that is not the kernel's own, from its file.
    pub(super) fn of(file: &Path) -> Result<Self, String> {
        let name = name_of(file).ok_or_else(|| format!("{} is no module", file.display()))?;
        let image = contents(file)?;
        Ok(Self { name, image })
    }
}

impl Modules {
    /// Those below lib/modules/RELEASE; `None` for a kernel without.
    pub(super) fn of(directory: Option<&Path>) -> Result<Self, String> {
        let mut files = HashMap::new();
        let Some(directory) = directory else {
            let builtin = String::new();
            return Ok(Self { files, builtin });
        };
        let mut pending = vec![directory.join("kernel")];
        while let Some(next) = pending.pop() {
            for entry in fs::read_dir(&next).map_err(because(&next))?.flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    pending.push(path);
                } else if let Some(name) = name_of(&path) {
                    files.insert(name, path);
                }
            }
        }
        let list = directory.join("modules.builtin");
        let builtin = fs::read_to_string(&list).map_err(because(&list))?;
        Ok(Self { files, builtin })
    }

    /// These and what they depend on, dependencies first. What is built in, or does not exist in
    /// this kernel, is left out: the guest says what it lacks.
    pub(super) fn closure(&self, names: &[String]) -> Result<Vec<Module>, String> {
        let mut loaded = Vec::new();
        for name in names {
            self.add(&normal(name), &mut loaded)?;
        }
        Ok(loaded)
    }

    /// Whether there is such a module, or it is built in.
    pub(super) fn know(&self, name: &str) -> bool {
        let name = normal(name);
        self.files.contains_key(&name)
            || self
                .builtin
                .lines()
                .any(|line| name_of(Path::new(line)).is_some_and(|found| found == name))
    }

    fn add(&self, name: &str, loaded: &mut Vec<Module>) -> Result<(), String> {
        let Some(path) = self.files.get(name) else {
            return Ok(());
        };
        if loaded.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let image = contents(path)?;
        for needed in depends(&image) {
            self.add(&needed, loaded)?;
        }
        loaded.push(Module {
            name: name.to_owned(),
            image,
        });
        Ok(())
    }
}

/// virtio_blk for …/virtio_blk.ko.xz; dashes and underscores are the same to the kernel.
fn name_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (name, _) = name.split_once(".ko")?;
    Some(normal(name))
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn contents(path: &Path) -> Result<Vec<u8>, String> {
    if path.extension().is_none_or(|end| end != "xz") {
        return fs::read(path).map_err(because(path));
    }
    let output = Command::new("xz")
        .args(["--decompress", "--stdout"])
        .arg(path)
        .output()
        .map_err(|error| format!("xz cannot be started: {error}"))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!("xz did not unpack {}", path.display()))
    }
}

/// What its section .modinfo names after `depends=`.
fn depends(image: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let at = image.windows(KEY.len()).position(|window| window == KEY);
    let rest = at
        .and_then(|at| image.get(at + KEY.len()..))
        .unwrap_or_default();
    let text = rest.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(normal)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = directory.path().join("kernel/fs");
        fs::create_dir_all(&kernel).unwrap();
        fs::write(
            directory.path().join("modules.builtin"),
            "kernel/a/built-in.ko\n",
        )
        .unwrap();
        fs::write(kernel.join("top.ko"), b"x\0depends=left-side,right\0y").unwrap();
        fs::write(kernel.join("left_side.ko"), b"x\0depends=base\0").unwrap();
        fs::write(kernel.join("right.ko"), b"x\0depends=base,built-in\0").unwrap();
        fs::write(kernel.join("base.ko"), b"x\0depends=\0").unwrap();
        let modules = Modules::of(Some(directory.path())).unwrap();
        let all = modules.closure(&["top".into(), "base".into()]).unwrap();
        let names: Vec<_> = all.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["base", "left_side", "right", "top"]);
        assert!(modules.know("left-side") && modules.know("built_in") && !modules.know("x"));
    }
}
