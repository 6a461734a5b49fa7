//! Build, test and bench strongroom, here and in a virtual machine.

mod bench;
mod driver;
mod packages;
mod test;
mod vm;

use clap::Parser;
use std::path::Path;
use std::process::ExitCode;

/// Build, test and bench strongroom.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
enum Task {
    Test(test::Args),
    Bench(bench::Args),
    Vm(vm::Args),
    Driver(driver::Args),
}

fn main() -> ExitCode {
    // xtask lies one folder below the workspace.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."));
    let result = match Task::parse() {
        Task::Test(args) => test::run(&args, root),
        Task::Vm(args) => match vm::run(&args, root) {
            Ok(_) => Ok(()),
            Err(vm::Error::Unavailable(why)) => {
                eprintln!("xtask: {why}");
                return ExitCode::from(vm::UNAVAILABLE);
            }
            Err(vm::Error::Failed(why)) => Err(why),
        },
        Task::Driver(args) => match driver::run(&args, root) {
            Ok(()) => Ok(()),
            Err(vm::Error::Unavailable(why)) => {
                eprintln!("xtask: {why}");
                return ExitCode::from(vm::UNAVAILABLE);
            }
            Err(vm::Error::Failed(why)) => Err(why),
        },
        Task::Bench(args) => match bench::run(&args, root) {
            Ok(true) => Ok(()),
            Ok(false) => Err("a target was not met".to_owned()),
            Err(error) => Err(error.to_string()),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
