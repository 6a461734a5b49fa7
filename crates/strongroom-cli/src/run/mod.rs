//! `strongroom run`: becomes the program, with the preload object in it.

mod environment;
mod launch;
mod limits;
mod one_processor;
mod preload;
mod receipt;
mod verify;

use crate::args::{RunArgs, ScopeArg};
use crate::failure::{Failure, warn};
use crate::locate::{self, Executable};
use launch::Launch;
use receipt::{Sink, Unprotected};
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;
use strongroom::keeper;
use strongroom::launch::config::{Config, Scope};
use strongroom::launch::program::{self, Program, Unprotectable};
use strongroom::{Policy, Refused};
use strongroom_core::Level;

/// Does all of it. Where it succeeds this process is the program.
pub(crate) fn run(args: &RunArgs) -> Result<Infallible, Failure> {
    let mut config = Config {
        scope: scope(args.scope)?,
        level: args.level.map(Level::from),
        fork: args.fork.into(),
        dumpable: args.dumpable,
        best_effort: args.best_effort,
        receipt_fd: None,
        receipt_path: None,
    };
    if args.no_new_privs {
        rustix::thread::set_no_new_privs(true)
            .map_err(|errno| Failure::new(format!("--no-new-privs cannot be had: {errno}"), ""))?;
    }
    let (executable, program) = find(args)?;
    let sink = args.receipt.as_deref().map(Sink::open).transpose()?;
    let protection = program
        .map_err(|error| unprotectable(&executable, &error))
        .and_then(|program| Ok((program, preload::object(args.preload_dir.as_deref())?)));
    let (program, object) = match protection {
        Ok(both) => both,
        Err(failure) if args.best_effort => {
            failure.print_as_warning();
            let unprotected = Unprotected {
                sink: sink.as_ref(),
                command: &args.command,
                config: &config,
            };
            unprotected.record(std::process::id().cast_signed());
            return Err(plainly(&executable));
        }
        Err(failure) => return Err(failure),
    };
    match limits::prepare().and_then(|()| enough_for(&config)) {
        Err(failure) if args.best_effort => failure.print_as_warning(),
        other => other?,
    }
    if let Some(sink) = &sink {
        config.receipt_fd = Some(sink.descriptor());
        config.receipt_path = sink.path();
    }
    let launch = Launch {
        path: &executable.path,
        arguments: c_strings(&executable.arguments)?,
        environment: environment::protected(&config, &object, program.python)?,
        object: &object,
        unprotected: Unprotected {
            sink: sink.as_ref(),
            command: &args.command,
            config: &config,
        },
    };
    Err(launch.start())
}

fn scope(scope: ScopeArg) -> Result<Scope, Failure> {
    match scope {
        ScopeArg::Locked => Ok(Scope::Locked),
        ScopeArg::Heap => Ok(Scope::Heap),
        ScopeArg::Process => Err(Failure::new(
            "--scope process is not built yet",
            "use --scope heap, which is the default",
        )),
    }
}

/// The file that the command names, and whether it can be protected.
fn find(args: &RunArgs) -> Result<(Executable, Result<Program, Unprotectable>), Failure> {
    let executable = locate::find(&args.command)?;
    match program::inspect(&executable.path) {
        // As execvp(3): what is no program is for the shell.
        Err(error) if error.cause == program::Cause::NoFormat && error.interpreter.is_none() => {
            let executable = executable.by_shell();
            let program = program::inspect(&executable.path);
            Ok((executable, program))
        }
        Err(error) if error.cause.stops_exec() => {
            let name = executable.name();
            let failure = Failure::new(format!("cannot run {name}: {error}"), error.cause.fix());
            let missing = error.cause == program::Cause::NotFound;
            Err(failure.with_status(if missing {
                locate::NOT_FOUND
            } else {
                locate::NOT_EXECUTABLE
            }))
        }
        program => Ok((executable, program)),
    }
}

fn unprotectable(executable: &Executable, error: &Unprotectable) -> Failure {
    Failure::new(
        format!("{} cannot be protected: {error}", executable.name()),
        error.cause.fix(),
    )
}

/// Whether the machine can give what is asked, before anything is started.
///
/// Where no level is named, less than hidden is said and not refused.
fn enough_for(config: &Config<'_>) -> Result<(), Failure> {
    let hidden = Policy::require(Level::Hidden).on_fork(config.fork);
    let Err(Refused { reason, .. }) = keeper::choose(&hidden) else {
        return Ok(());
    };
    match config.level {
        Some(Level::Locked) => {}
        Some(_) => {
            return Err(Failure::new(
                format!("--level hidden cannot be had: {reason}"),
                reason.fix(),
            ));
        }
        None => {
            let fix = if reason.fix().is_empty() {
                String::new()
            } else {
                format!("; {}", reason.fix())
            };
            warn(&format!("secrets are locked, not hidden: {reason}{fix}"));
        }
    }
    Ok(())
}

/// Becomes the program as it is, which the user asked for by --best-effort.
fn plainly(executable: &Executable) -> Failure {
    match c_strings(&executable.arguments) {
        Ok(arguments) => launch::exec(&executable.path, &arguments, &environment::unprotected()),
        Err(failure) => failure,
    }
}

/// `texts` as C strings.
fn c_strings(texts: &[OsString]) -> Result<Vec<CString>, Failure> {
    texts
        .iter()
        .map(|text| CString::new(text.as_bytes()))
        .collect::<Result<_, _>>()
        .map_err(|_| Failure::new("an argument holds a zero byte", ""))
}
