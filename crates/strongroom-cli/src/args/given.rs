//! What the user gives to look for: the same for `scan` and `attack`.

use clap::Args;
use std::path::PathBuf;

/// Keys and bytes.
#[derive(Debug, Args)]
#[group(id = "given", multiple = true)]
pub(crate) struct GivenArgs {
    /// Look for the parts of this private key: OpenSSH, PEM, DER, or GnuPG's private-keys-v1.d
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Vec<PathBuf>,

    /// Read the passphrase of encrypted keys from the first line of FILE, or of standard input for `-`
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) passphrase_file: Option<PathBuf>,

    /// Look for these bytes, in hexadecimal
    #[arg(long, value_name = "HEX")]
    pub(crate) pattern: Vec<String>,

    /// Look for these bytes, as they stand
    ///
    /// Other users see a command line: `--text-file` is for secrets.
    #[arg(long, value_name = "TEXT")]
    pub(crate) text: Vec<String>,

    /// Look for the contents of FILE, without the line's end
    #[arg(long, value_name = "FILE")]
    pub(crate) text_file: Vec<PathBuf>,
}
