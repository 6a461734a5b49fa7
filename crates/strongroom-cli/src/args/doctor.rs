//! The options of `doctor`.

use clap::Args;

/// The options of `doctor`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  strongroom doctor
      What works here, what falls short, why that matters, and how to mend it.
  systemd-run --pipe -p User=www-data strongroom doctor
      The same for a service: limits and filters belong to whoever runs it.
  strongroom doctor --json | jq -r '.checks[] | select(.fix) | .check + \": \" + .fix'
      The fixes alone.

What the words mean:
  ok       as it should be
  limited  works, with less than there could be
  missing  is not there, or was tried and does not work

Exit status:
  0    `strongroom run` reaches the level hidden here
  1    it reaches less, or would start nothing
  125  the findings could not be made or written")]
pub(crate) struct DoctorArgs {
    /// An object with "schema": 1, for machines; sizes are in bytes
    #[arg(long)]
    pub(crate) json: bool,
}
