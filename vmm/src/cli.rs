//! The command line.
//!
//! This file owns its options and the text of `--help`. It must not know what a configuration
//! holds, but for how a time is written.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use storage::lun::passthrough::policy::{CommandPattern, PolicySpec, Preset};
use storage::lun::spec::{Identity, Naa, Overlay, PassthroughSpec, is_printable};
use storage::scsi::designator::Designator;

use crate::config;
use crate::printable::printable;
use crate::spec::PRESETS;

/// Boots a guest whose only storage is virtio-scsi from one TOML file.
///
/// The guest runs in the foreground, with its serial console on stdio unless the file says
/// otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "vmm", version, after_help = MORE, disable_help_subcommand = true)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Cli {
    /// The guest's configuration
    // It is there unless there is a subcommand.
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) config: Option<PathBuf>,
    /// Tell every problem of the configuration and of what it needs from this host; start nothing
    #[arg(long)]
    pub(crate) check: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What is done instead of running a guest.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum Command {
    Probe(Probe),
}

/// Show a SCSI device of this host as a guest would see it.
///
/// Looks only: nothing is taken or changed, and the device may be in use. The options are those of
/// a LUN with passthrough.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(after_help = PROBE_MORE)]
pub(crate) struct Probe {
    /// The device: a /dev/sg or /dev/sd node, or a link to one
    pub(crate) path: PathBuf,
    /// For programs: one JSON object, as docs/passthrough.md describes it
    #[arg(long)]
    pub(crate) json: bool,
    /// What the guest may send
    #[arg(long, default_value = "disk-rw")]
    #[arg(value_parser = PossibleValuesParser::new(PRESETS.map(|(name, _)| name)))]
    policy: String,
    /// Besides that: names, or hex as in 4c, 5e/00, c0-ff
    #[arg(long, value_name = "COMMAND", value_delimiter = ',')]
    allow: Vec<CommandPattern>,
    /// Not even then
    #[arg(long, value_name = "COMMAND", value_delimiter = ',')]
    deny: Vec<CommandPattern>,
    /// What the device must be: naa.…, eui.…, t10.… or name.…
    #[arg(long, value_name = "DESIGNATOR")]
    expect: Option<Designator>,
    /// Refuse whatever modifies anything
    #[arg(long)]
    read_only: bool,
    /// How long a command may take, as in 90s
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    timeout: Option<Duration>,
    /// Others use the same nexus
    #[arg(long)]
    shared_nexus: bool,
    /// Even though the host uses it
    #[arg(long)]
    force: bool,
    /// The socket of a broker
    #[arg(long, value_name = "SOCKET")]
    broker: Option<PathBuf>,
    /// A serial number in place of the device's
    #[arg(long, value_parser = serial)]
    serial: Option<String>,
    /// A designator in place of the device's
    #[arg(long, value_parser = Naa::parse)]
    wwn: Option<Naa>,
}

fn serial(text: &str) -> Result<String, String> {
    let fits = (1..=Identity::SERIAL_MAX).contains(&text.len()) && is_printable(text);
    let why = || format!("must be 1 to {} printable ASCII characters", Identity::SERIAL_MAX);
    if fits { Ok(text.to_owned()) } else { Err(why()) }
}

fn timeout(text: &str) -> Result<Duration, String> {
    config::time(text).ok_or_else(|| "must be a time from 1ms to 24h".into())
}

impl Probe {
    /// The LUN that the device would be.
    pub(crate) fn spec(&self) -> PassthroughSpec {
        let preset = PRESETS.iter().find(|(name, _)| *name == self.policy);
        PassthroughSpec {
            policy: PolicySpec {
                preset: preset.map_or(Preset::default(), |(_, preset)| *preset),
                allow: self.allow.clone(),
                deny: self.deny.clone(),
            },
            expect: self.expect.clone(),
            read_only: self.read_only,
            timeout: self.timeout,
            shared_nexus: self.shared_nexus,
            force: self.force,
            broker: self.broker.clone(),
            overlay: Overlay { serial: self.serial.clone(), wwn: self.wwn },
            ..PassthroughSpec::new(&self.path)
        }
    }
}

/// A command line that is none, in one line.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    // Behind an empty line is how it is used.
    let lines: Vec<&str> =
        text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    printable(&format!("{}; see --help", lines.join(" ")))
}

const PROBE_MORE: &str = "\
Exit status:
  0  the device was looked at
  1  it does not answer
  2  bad command line, or the device cannot be opened";

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
        let cli = Cli { config: Some("guest.toml".into()), check: false, command: None };
        assert_eq!(parse(&["--config", "guest.toml"]).unwrap(), cli);
        assert_eq!(parse(&["--config=guest.toml"]).unwrap(), cli);
        let check = Cli { check: true, ..cli };
        assert_eq!(parse(&["--check", "--config", "guest.toml"]).unwrap(), check);
    }

    #[test]
    fn a_bad_command_line_exits_with_2() {
        let bad: [&[&str]; 17] = [
            &[],
            &["--check"],
            &["--config", "a", "--check=no"],
            &["--config"],
            &["guest.toml"],
            &["--config", "a", "--config", "b"],
            &["--config", "a", "--chek"],
            &["prob", "/dev/sg0"],
            &["probe"],
            &["probe", "a", "b"],
            &["probe", "a", "--policy", "all"],
            &["probe", "a", "--deny", "x"],
            &["probe", "a", "--serial", ""],
            &["probe", "a", "--expect", "5001405000000001"],
            &["probe", "a", "--timeout", "90"],
            &["probe", "a", "--timeout", "0s"],
            &["--config", "a", "probe", "b"],
        ];
        for arguments in bad {
            assert_eq!(parse(arguments).unwrap_err().exit_code(), 2, "{arguments:?}");
        }
        let line = |arguments| one_line(&parse(arguments).unwrap_err());
        let missing = "error: the following required arguments were not provided: --config <FILE>; \
                       see --help";
        assert_eq!(line(&[]), missing);
        let unknown = "error: unrecognized subcommand 'prob'; see --help";
        assert_eq!(line(&["prob", "/dev/sg0"]), unknown);
        let policy = "error: invalid value 'all' for '--policy <POLICY>' [possible values: \
                      read-only, disk-rw, cluster, full]; see --help";
        assert_eq!(line(&["probe", "x", "--policy", "all"]), policy);
    }

    #[test]
    fn a_probe_has_the_options_of_a_lun() {
        let probe = |arguments: &[&str]| {
            let cli = parse(&[&["probe", "/dev/sg1"], arguments].concat()).unwrap();
            let Some(Command::Probe(probe)) = cli.command else { panic!("{arguments:?}") };
            (probe.json, probe.spec())
        };
        let default = PassthroughSpec::new("/dev/sg1".as_ref());
        assert_eq!(probe(&[]), (false, default.clone()));
        let all = "--json --policy cluster --allow 4c,5e/01 --allow c0-ff --deny 42 --read-only \
                   --expect naa.5001405000000001 --timeout 90s --force --shared-nexus --broker s --serial S1 --wwn naa.5001438012345678";
        let spec = PassthroughSpec {
            policy: PolicySpec {
                preset: Preset::Cluster,
                allow: ["4c", "5e/01", "c0-ff"].map(|text| text.parse().unwrap()).into(),
                deny: vec!["42".parse().unwrap()],
            },
            expect: Some("naa.5001405000000001".parse().unwrap()),
            read_only: true,
            timeout: Some(Duration::from_secs(90)),
            shared_nexus: true,
            force: true,
            broker: Some("s".into()),
            overlay: Overlay {
                serial: Some("S1".into()),
                wwn: Some(Naa::parse("5001438012345678").unwrap()),
            },
            ..default
        };
        assert_eq!(probe(&all.split_ascii_whitespace().collect::<Vec<_>>()), (true, spec));
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
