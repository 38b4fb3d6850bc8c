//! The command line.

use std::path::PathBuf;

use broker::policy::file;
use clap::Parser;

/// Sends the SCSI commands that take privilege, for those who may not send them.
///
/// It speaks the protocol of qemu-pr-helper, and more with a vmm.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "vmm-broker", version, after_help = MORE)]
pub(crate) struct Cli {
    /// The socket to listen on; none where systemd passes one
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Who may do what; root's own file
    #[arg(long, value_name = "FILE", default_value = file::DEFAULT_PATH)]
    pub(crate) policy: PathBuf,
    /// Read the policy, tell what is wrong with it, and start nothing
    #[arg(long)]
    pub(crate) check: bool,
}

/// A command line that is none, in one line.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    // Behind an empty line is how it is used.
    let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
    let line = lines.collect::<Vec<_>>().join(" ");
    format!("{}; see --help", line.replace(char::is_control, "?"))
}

const MORE: &str = "\
Exit status:
  0  it was told to end; nothing is wrong (--check)
  1  it failed
  2  bad command line or policy, nothing was started

Signals:
  SIGTERM, SIGINT  end it, once commands under way have ended, or after ten seconds
  SIGHUP           read the policy again";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_bad_command_line_is_told_in_one_line() {
        let error = Cli::try_parse_from(["vmm-broker", "--sock"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(one_line(&error), "error: unexpected argument '--sock' found; see --help");
    }
}
