//! Manual pages and shell completions, made from the command line's own definition.

use crate::args::Cli;
use crate::failure::Failure;
use clap::CommandFactory;
use clap_complete::Shell;
use std::path::Path;

/// Prints the completion script.
pub(crate) fn completions(shell: Shell) -> Result<u8, Failure> {
    clap_complete::generate(
        shell,
        &mut Cli::command(),
        "strongroom",
        &mut std::io::stdout(),
    );
    Ok(0)
}

/// Writes strongroom.1 and one page a subcommand.
pub(crate) fn man(directory: &Path) -> Result<u8, Failure> {
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
        .map_err(|error| {
            Failure::new(
                format!("writing manual pages to {}: {error}", directory.display()),
                "",
            )
        })?;
    Ok(0)
}
