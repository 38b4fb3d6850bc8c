//! The command line.
//!
//! This file owns its options and the text of `--help`. It must not know what a configuration
//! holds.

use std::path::PathBuf;

use clap::Parser;

use crate::printable::printable;

/// Boots a guest whose only storage is virtio-scsi from one TOML file.
///
/// The guest runs in the foreground, with its serial console on stdio unless the file says
/// otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "vmm", version, after_help = MORE)]
pub(crate) struct Cli {
    /// The guest's configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Tell every problem of the configuration and of what it needs from this host; start nothing
    #[arg(long)]
    pub(crate) check: bool,
}

/// A command line that is none, in one line.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    // Behind an empty line is how it is used.
    let lines: Vec<&str> =
        text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    printable(&format!("{}; see --help", lines.join(" ")))
}

const MORE: &str = "\
Exit status:
  0  the guest powered off, or rebooted where on_reboot = \"exit\"; nothing wrong (--check)
  1  the VMM failed at run time, or was forced to end
  2  bad command line or configuration, nothing was started
  3  the guest crashed, where on_crash = \"exit\"

Signals:
  SIGTERM, SIGINT, SIGHUP  press the power button; a second one, or stop_timeout passing, ends
                           the VMM

Keys, where standard input is a terminal:
  Ctrl-A X       end the VMM at once
  Ctrl-A Ctrl-A  send Ctrl-A to the guest";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["vmm"], arguments].concat())
    }

    #[test]
    fn the_command_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn config_names_the_file() {
        let cli = Cli { config: "guest.toml".into(), check: false };
        assert_eq!(parse(&["--config", "guest.toml"]).unwrap(), cli);
        assert_eq!(parse(&["--config=guest.toml"]).unwrap(), cli);
        let check = Cli { check: true, ..cli };
        assert_eq!(parse(&["--check", "--config", "guest.toml"]).unwrap(), check);
    }

    #[test]
    fn a_bad_command_line_exits_with_2() {
        let bad: [&[&str]; 8] = [
            &[],
            &["--check"],
            &["--config", "a", "--check=no"],
            &["--config"],
            &["guest.toml"],
            &["--config", "a", "--config", "b"],
            &["--config", "a", "--chek"],
            &["prob", "/dev/sg0"],
        ];
        for arguments in bad {
            assert_eq!(parse(arguments).unwrap_err().exit_code(), 2, "{arguments:?}");
        }
        let line = |arguments| one_line(&parse(arguments).unwrap_err());
        let missing = "error: the following required arguments were not provided: --config <FILE>; \
                       see --help";
        assert_eq!(line(&[]), missing);
        let unknown = "error: unexpected argument 'prob' found; see --help";
        assert_eq!(line(&["prob", "/dev/sg0"]), unknown);
    }

    #[test]
    fn help_and_version_exit_with_0() {
        let help = parse(&["--help"]).unwrap_err();
        assert_eq!((help.kind(), help.exit_code()), (ErrorKind::DisplayHelp, 0));
        for word in ["--config <FILE>", "--check", "SIGTERM", "Ctrl-A X", "  3  "] {
            assert!(help.to_string().contains(word), "{word} {help}");
        }
        assert!(help.to_string().lines().all(|line| line.len() <= 100), "{help}");
        let version = parse(&["--version"]).unwrap_err();
        assert_eq!((version.kind(), version.exit_code()), (ErrorKind::DisplayVersion, 0));
        assert_eq!(version.to_string(), format!("vmm {}\n", env!("CARGO_PKG_VERSION")));
    }
}
