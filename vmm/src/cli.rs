//! The command line.
//!
//! This file owns its options and the text of `--help`. It must not know what a configuration
//! holds.

use std::path::PathBuf;

use clap::Parser;

/// Boots a guest whose only storage is virtio-scsi from one TOML file.
///
/// The guest runs in the foreground with its serial console on stdio.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "vmm", version, after_help = EXIT_STATUS)]
pub(crate) struct Cli {
    /// The guest's configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

const EXIT_STATUS: &str = "\
Exit status:
  0  the guest powered off or rebooted
  1  the VMM failed at run time, or was forced to end
  2  bad command line or configuration, nothing was started
  3  the guest crashed";

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
        let cli = Cli { config: "guest.toml".into() };
        assert_eq!(parse(&["--config", "guest.toml"]).unwrap(), cli);
        assert_eq!(parse(&["--config=guest.toml"]).unwrap(), cli);
    }

    #[test]
    fn a_bad_command_line_exits_with_2() {
        let bad: [&[&str]; 6] = [
            &[],
            &["--config"],
            &["guest.toml"],
            &["--config", "a", "--config", "b"],
            &["--config", "a", "--chek"],
            &["prob", "/dev/sg0"],
        ];
        for arguments in bad {
            assert_eq!(parse(arguments).unwrap_err().exit_code(), 2, "{arguments:?}");
        }
    }

    #[test]
    fn help_and_version_exit_with_0() {
        let help = parse(&["--help"]).unwrap_err();
        assert_eq!((help.kind(), help.exit_code()), (ErrorKind::DisplayHelp, 0));
        assert!(help.to_string().contains("--config <FILE>"), "{help}");
        let version = parse(&["--version"]).unwrap_err();
        assert_eq!((version.kind(), version.exit_code()), (ErrorKind::DisplayVersion, 0));
        assert_eq!(version.to_string(), format!("vmm {}\n", env!("CARGO_PKG_VERSION")));
    }
}
