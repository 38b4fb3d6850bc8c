//! What becomes of each command that a device's type knows: the policy's verdict, what the host lets
//! a VMM send, and how long it may take.
//!
//! It must not know what a command does.

use storage::lun::passthrough::policy::{Explained, Policy, Standing, bare_cdb};
use storage::lun::passthrough::view::View;
use storage::lun::spec::PassthroughSpec;
use storage::scsi::cdb::Cdb;
use storage::scsi::command::{self, TimeClass};

use super::model::{self, Command, Verdict};
use crate::spec::PRESETS;

/// Whether somebody sends a command.
type Sends<'a> = &'a dyn Fn(&[u8]) -> bool;

/// Who sends what.
pub(super) struct Senders<'a> {
    /// Whether the host lets the VMM itself send a command.
    pub(super) direct: Sends<'a>,
    /// Whether the broker sends it; `None` where there is no broker.
    pub(super) broker: Option<Sends<'a>>,
}

/// The verdict on every command.
pub(super) fn policy(spec: &PassthroughSpec, view: &View, senders: &Senders<'_>) -> model::Policy {
    let device_type = view.facts.device_type();
    // Not the view's own, which withholds what nobody sends.
    let policy = Policy::new(&spec.policy, spec.read_only, spec.shared_nexus, device_type);
    let preset = PRESETS.iter().find(|(_, preset)| *preset == spec.policy.preset);
    model::Policy {
        preset: preset.map_or("", |(name, _)| *name),
        read_only: spec.read_only,
        shared_nexus: spec.shared_nexus,
        commands: policy.explain().map(|it| command(&it, spec, view, senders)).collect(),
    }
}

fn command(
    explained: &Explained,
    spec: &PassthroughSpec,
    view: &View,
    senders: &Senders<'_>,
) -> Command {
    let Explained { command, standing } = explained;
    let cdb = bare_cdb(command.opcode, command.service_action);
    let bytes = cdb.0.get(..usize::from(command.cdb_len)).unwrap_or(&cdb.0);
    let (verdict, why) = verdict(*standing, bytes, senders);
    let known = view.facts.commands.as_ref().map(|known| known.find(&cdb));
    let (why, timeout) = match (verdict, known) {
        (Verdict::Allowed, Some(None)) => (Some("the device does not list it".into()), None),
        (Verdict::Allowed, _) => (why, Some(view.timeout(spec, &cdb).as_secs())),
        _ => (why, None),
    };
    Command {
        name: command.name.into(),
        opcode: format!("{:02x}", command.opcode),
        service_action: command.service_action.map(|action| format!("{action:02x}")),
        verdict,
        why,
        timeout,
        timeout_from: timeout.map(|_| timeout_from(command, &cdb, spec, view)),
    }
}

fn verdict(standing: Standing, cdb: &[u8], senders: &Senders<'_>) -> (Verdict, Option<String>) {
    let limit = match standing {
        Standing::Forwarded => None,
        Standing::Limited(limit) => Some(limit.to_owned()),
        Standing::Virtual(_) => return (Verdict::Virtual, None),
        Standing::WriteProtected => return (Verdict::Refused, Some("read-only".into())),
        Standing::Refused => return (Verdict::Refused, Some("policy".into())),
    };
    if (senders.direct)(cdb) {
        return (Verdict::Allowed, limit);
    }
    match senders.broker.map(|can| can(cdb)) {
        Some(true) => {
            let limit = limit.map_or(String::new(), |limit| format!(", {limit}"));
            (Verdict::Allowed, Some(format!("by the broker{limit}")))
        }
        Some(false) => (Verdict::Refused, Some("not sent by the broker".into())),
        None => (Verdict::Refused, Some(NEEDS_PRIVILEGE.into())),
    }
}

/// Why a command is refused that the policy allows.
pub(super) const NEEDS_PRIVILEGE: &str = "needs CAP_SYS_RAWIO or a broker";

/// Who says how long a command may take.
fn timeout_from(
    command: &command::Command,
    cdb: &Cdb,
    spec: &PassthroughSpec,
    view: &View,
) -> &'static str {
    let ordinary = matches!(command.time, TimeClass::Short | TimeClass::Access);
    let device = || view.facts.commands.as_ref()?.find(cdb)?.timeouts?.recommended;
    match spec.timeout {
        Some(_) if ordinary => "configured",
        _ if device().is_some() => "the device",
        _ => "its kind",
    }
}

#[cfg(test)]
mod tests {
    use storage::lun::passthrough::facts::Commands;
    use storage::lun::passthrough::policy::Preset;
    use storage::testing::{FakeDevice, FakeHost};

    use super::*;

    fn view() -> View {
        View::of(&spec(Preset::DiskRw), &FakeHost::new(FakeDevice::default())).unwrap()
    }

    fn spec(preset: Preset) -> PassthroughSpec {
        let mut spec = PassthroughSpec::new("x".as_ref());
        spec.policy.preset = preset;
        spec
    }

    /// The verdicts on some opcodes, with their reasons.
    fn verdicts(
        spec: &PassthroughSpec,
        senders: &Senders<'_>,
        names: &[&str],
    ) -> Vec<(Verdict, Option<String>)> {
        let policy = policy(spec, &view(), senders);
        let find = |name: &&str| policy.commands.iter().find(|command| command.name == *name);
        let found = |name| find(name).unwrap_or_else(|| panic!("{name}"));
        names.iter().map(|name| (found(name).verdict, found(name).why.clone())).collect()
    }

    const ALL: Senders<'_> = Senders { direct: &|_| true, broker: None };

    #[test]
    fn each_verdict_has_its_reason() {
        let names = ["READ(10)", "WRITE(10)", "REPORT LUNS", "FORMAT UNIT"];
        let told = verdicts(&spec(Preset::DiskRw), &ALL, &names);
        assert_eq!(told[0], (Verdict::Allowed, None));
        assert_eq!(told[1], (Verdict::Allowed, None));
        assert_eq!(told[2], (Verdict::Virtual, None));
        assert_eq!(told[3], (Verdict::Refused, Some("policy".into())));
        let read_only = PassthroughSpec { read_only: true, ..spec(Preset::Full) };
        let told = verdicts(&read_only, &ALL, &names);
        assert_eq!(told[0], (Verdict::Allowed, None));
        assert_eq!(told[1], (Verdict::Refused, Some("read-only".into())));
    }

    #[test]
    fn who_sends_a_command_decides_too() {
        let direct = |cdb: &[u8]| cdb[0] != 0x89;
        let (yes, no) = (|_: &[u8]| true, |_: &[u8]| false);
        let told = |broker| {
            let senders = Senders { direct: &direct, broker };
            verdicts(&spec(Preset::Cluster), &senders, &["COMPARE AND WRITE"]).remove(0)
        };
        assert_eq!(told(None), (Verdict::Refused, Some(NEEDS_PRIVILEGE.into())));
        assert_eq!(told(Some(&yes)), (Verdict::Allowed, Some("by the broker".into())));
        assert_eq!(told(Some(&no)), (Verdict::Refused, Some("not sent by the broker".into())));
    }

    #[test]
    fn a_timeout_is_somebodys() {
        // READ(10) with a recommended time-out of 77 seconds.
        let mut data = vec![0, 0, 0, 20, 0x28, 0, 0, 0, 0, 0x02, 0, 10, 0, 10, 0, 0];
        data.extend([0, 0, 0, 0, 0, 0, 0, 77]);
        let mut lists = view();
        lists.facts.commands = Some(Commands::parse(&data));
        let one = |spec: &PassthroughSpec, view: &View, name: &str| {
            let all = policy(spec, view, &ALL).commands;
            let found = all.into_iter().find(|command| command.name == name).unwrap();
            (found.timeout, found.timeout_from, found.why)
        };
        let usual = spec(Preset::DiskRw);
        let mut configured = spec(Preset::DiskRw);
        configured.timeout = Some(std::time::Duration::from_secs(9));
        let (read, silent) = (|spec, facts| one(spec, facts, "READ(10)"), view());
        assert_eq!(read(&usual, &silent), (Some(60), Some("its kind"), None));
        assert_eq!(read(&usual, &lists), (Some(77), Some("the device"), None));
        assert_eq!(read(&configured, &lists), (Some(9), Some("configured"), None));
        let why = Some("the device does not list it".into());
        assert_eq!(one(&usual, &lists, "WRITE(10)"), (None, None, why));
    }
}
