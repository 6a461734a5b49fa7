//! Build, test and bench strongroom.

mod bench;
mod packages;
mod test;

use clap::Parser;
use std::path::Path;
use std::process::ExitCode;

/// Build, test and bench strongroom.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
enum Task {
    Test(test::Args),
    Bench(bench::Args),
}

fn main() -> ExitCode {
    // xtask lies one folder below the workspace.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."));
    let result = match Task::parse() {
        Task::Test(args) => test::run(&args, root),
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
