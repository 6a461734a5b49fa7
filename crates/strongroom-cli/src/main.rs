//! The `strongroom` command.

// std's own entry point makes the process ignore SIGPIPE, and the program that `run`
// becomes would inherit that. Unit tests have the entry point of their harness.
#![cfg_attr(not(test), no_main)]

mod args;
mod attack;
mod audit;
mod doctor;
mod failure;
mod given;
mod json;
mod locate;
mod pages;
mod progress;
mod run;
mod scan;
mod style;
mod wrap;

use args::{Cli, Command};
use clap::Parser;
use failure::Failure;

/// The C entry point.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main(
    _count: std::ffi::c_int,
    _arguments: *const *const std::ffi::c_char,
) -> std::ffi::c_int {
    std::process::exit(i32::from(command()))
}

/// Does what the command line says and returns the exit status.
#[cfg_attr(test, expect(dead_code, reason = "called by the entry point"))]
fn command() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Whoever cannot be told sees the status.
            let _ = error.print();
            return if error.use_stderr() {
                failure::STATUS
            } else {
                0
            };
        }
    };
    let done = match cli.command {
        Command::Run(args) => match run::run(&args) {
            Err(failure) => Err(failure),
            Ok(never) => match never {},
        },
        Command::Attack(args) => attack::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Doctor(args) => doctor::run(args.json),
        Command::Scan(args) => scan::run(&args),
        Command::Victim { kind, kvm } => Ok(attack::victim(kind, kvm)),
        Command::Thief {
            way,
            pid,
            address,
            length,
        } => Ok(strongroom_probe::thief::steal(&way, pid, address, length)),
        Command::Completions { shell } => pages::completions(shell),
        Command::Man { directory } => pages::man(&directory),
    };
    done.unwrap_or_else(|failure: Failure| {
        failure.print();
        failure.status()
    })
}
