//! What the object inside a program cannot protect is refused, or told: a malloc of the
//! program's own, a root directory without the object, a process that watches the start.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

use std::path::Path;
use std::process::Command;
use support::room::WHO;
use support::{How, Inside, Room, Who, chance, need};

#[test]
fn a_malloc_of_the_programs_own_is_refused() {
    need!(secretmem);
    for &who in WHO() {
        let room = Room::new(who, How::HEAP);
        let program = room.program("own_malloc.c", &["-rdynamic"]);
        let end = room.run(&mut room.command(&program));
        assert_eq!(end.status, "exit 125", "{end}");
        assert!(
            end.stderr.contains("its own malloc") && end.stderr.contains("--scope locked"),
            "{end}"
        );
        assert_eq!(end.stdout, "");

        let room = Room::new(who, How::LOCKED);
        let program = room.program("own_malloc.c", &["-rdynamic"]);
        assert_eq!(room.succeed(&mut room.command(program)).stdout, "own\n");

        let room = Room::new(who, How::Run(&["--best-effort", "--receipt", "receipts"]));
        let program = room.program("own_malloc.c", &["-rdynamic"]);
        assert_eq!(room.succeed(&mut room.command(program)).stdout, "own\n");
        let line = std::fs::read_to_string(room.path().join("receipts")).unwrap();
        let receipt: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            receipt["missing"]["NoDirectMap"]["reason"], "own-allocator",
            "{line}"
        );
        assert_eq!(receipt["level"], serde_json::Value::Null, "{line}");
    }
}

/// Copies a file into a root directory of its own, with what it is linked to.
fn install(root: &Path, program: &str) {
    let linked = Command::new("ldd").arg(program).output().unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    let files = linked
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for file in files.chain([program]) {
        let place = root.join(file.trim_start_matches('/'));
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::copy(file, place).unwrap();
    }
}

#[test]
fn a_chroot_without_the_object_is_refused() {
    need!(root, secretmem);
    let room = Room::new(Who::Root, How::HEAP);
    let root = room.directory("root");
    install(&root, "/bin/true");
    let change = |room: &Room, root: &Path| {
        let mut command = room.command("/usr/sbin/chroot");
        command.arg(root).arg("/bin/true");
        room.run(&mut command)
    };
    let end = change(&room, &root);
    assert_eq!(end.status, "exit 126", "{end}");
    assert!(end.stderr.contains("is not there, as in a chroot"), "{end}");

    let going_on = Room::new(Who::Root, How::Run(&["--best-effort"]));
    let end = change(&going_on, &root);
    assert_eq!(end.status, "exit 0", "{end}");
    assert!(end.stderr.contains("runs unprotected"), "{end}");

    // With the object at its place the program is protected.
    let objects = room.directory("objects");
    let object = objects.join("libstrongroom_preload.so");
    std::fs::copy(embedded_object(&room), &object).unwrap();
    std::fs::create_dir_all(root.join(objects.strip_prefix("/").unwrap())).unwrap();
    std::fs::copy(&object, root.join(object.strip_prefix("/").unwrap())).unwrap();
    let given = Room::new(Who::Root, How::HEAP).with_env("STRONGROOM_PRELOAD_DIR", &objects);
    let end = change(&given, &root);
    assert_eq!(end.status, "exit 0", "{end}");
}

/// Where `run` has put the object that it carries.
fn embedded_object(room: &Room) -> String {
    let mut command = room.command("/bin/sh");
    command.args(["-c", "echo ${LD_PRELOAD%%:*}"]);
    room.succeed(&mut command).stdout.trim().to_owned()
}

#[test]
fn a_debuggers_core_is_small_and_holds_no_secret() {
    need!(root, secretmem);
    if Command::new("gcore").arg("--help").output().is_err() {
        return support::skip("it needs gcore (Debian package gdb)");
    }
    for how in [How::Plain, How::HEAP] {
        let room = Room::new(Who::Root, how);
        let secret = chance::bytes::<64>();
        let file = room.file("secret", secret);
        let victim = room.program("heap_secret.c", &[]);
        let mut session = room.session(room.command(victim).arg(file));
        let stage = session.stage("ready");
        let core = room.path().join("core");
        let done = Command::new("gcore")
            .arg("-o")
            .arg(&core)
            .arg(stage.pid.to_string())
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        let core = std::fs::read(room.path().join(format!("core.{}", stage.pid))).unwrap();
        assert!(core.len() < 64 << 20, "{} bytes", core.len());
        let hits = support::outside::count(&core, &secret);
        if how == How::Plain {
            assert_ne!(hits, 0, "the control did not leak: the test proves nothing");
        } else {
            assert_eq!(hits, 0, "the core holds the secret");
            assert_eq!(
                Inside::of(stage.pid).bytes(stage.address, stage.length),
                secret
            );
        }
        session.go();
        drop(session);
    }
}

/// Starts a command under a tracer, which lets it run to its end.
fn traced(command: &mut Command) -> std::process::ExitStatus {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    // SAFETY: ptrace is a system call that touches no memory here.
    unsafe {
        command.pre_exec(|| {
            let none = std::ptr::null_mut::<libc::c_void>();
            match libc::ptrace(libc::PTRACE_TRACEME, 0, none, none) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let pid = command.spawn().unwrap().id().cast_signed();
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        if !libc::WIFSTOPPED(status) {
            return std::process::ExitStatus::from_raw(status);
        }
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the process is a stopped tracee of this thread's.
        let went_on = unsafe { libc::ptrace(libc::PTRACE_CONT, pid, none, none) };
        assert_eq!(went_on, 0);
    }
}

#[test]
fn a_tracer_is_refused_or_told() {
    need!(secretmem);
    for &who in WHO() {
        let room = Room::new(who, How::Run(&["--receipt", "receipts"]));
        assert_eq!(traced(&mut room.command("/bin/true")).code(), Some(125));

        let room = Room::new(who, How::Run(&["--best-effort", "--receipt", "receipts"]));
        assert_eq!(traced(&mut room.command("/bin/true")).code(), Some(0));
        let line = std::fs::read_to_string(room.path().join("receipts")).unwrap();
        let receipt: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(receipt["missing"]["NoInject"]["reason"], "traced", "{line}");
    }
}
