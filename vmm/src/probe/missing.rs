//! What stands in the way of a guest that is to have a device, and what to do about it.
//!
//! It must not know how any of it was found out.

use storage::lun::passthrough::facts::Facts;
use storage::lun::passthrough::policy::Preset;
use storage::lun::spec::PassthroughSpec;

use super::commands::NEEDS_PRIVILEGE;
use super::model::{Missing, Policy};

/// A line of the list.
pub(super) fn line(
    what: impl Into<String>,
    effect: impl Into<String>,
    remedy: impl Into<String>,
) -> Missing {
    Missing { what: what.into(), effect: effect.into(), remedy: remedy.into() }
}

/// What is missing for the LUN `spec` on a device of which `facts` are known, and for whose
/// commands `policy` gives the verdicts.
pub(super) fn of(spec: &PassthroughSpec, facts: &Facts, policy: &Policy) -> Vec<Missing> {
    let mut missing = Vec::new();
    let unsent =
        policy.commands.iter().filter(|command| command.why.as_deref() == Some(NEEDS_PRIVILEGE));
    // One name for all service actions.
    let mut unsent: Vec<&str> =
        unsent.map(|command| command.name.split(" - ").next().unwrap_or(&command.name)).collect();
    unsent.dedup();
    if !unsent.is_empty() {
        let effect = format!("the host does not let this user send {}", unsent.join(", "));
        missing.push(line("CAP_SYS_RAWIO", effect, "set broker, if the guest needs them"));
    }
    if spec.shared_nexus && spec.policy.preset >= Preset::Cluster {
        missing.push(line(
            "a nexus of the guest's own",
            "reservations would be those of all who share it, and so PERSISTENT RESERVE OUT is \
             refused",
            "use a virtual port, an iSCSI session or a tcm_loop port of its own, without \
             shared_nexus",
        ));
    }
    if facts.identity().is_none() {
        missing.push(line(
            "a designator of the logical unit",
            "it cannot be told apart from another one of its model",
            "have the device report one, if it can",
        ));
    }
    missing
}

#[cfg(test)]
mod tests {
    use storage::lun::passthrough::view::View;
    use storage::testing::{FakeDevice, FakeHost};

    use super::*;
    use crate::probe::commands::{self, Senders};

    fn whats(spec: &PassthroughSpec, device: FakeDevice, rawio: bool) -> Vec<String> {
        let view = View::of(spec, &FakeHost::new(device)).unwrap();
        let direct = |cdb: &[u8]| rawio || cdb[0] != 0x5f;
        let senders = Senders { direct: &direct, broker: None };
        let policy = commands::policy(spec, &view, &senders);
        of(spec, &view.facts, &policy).into_iter().map(|missing| missing.what).collect()
    }

    #[test]
    fn what_is_missing_is_told_and_nothing_else() {
        let mut spec = PassthroughSpec::new("x".as_ref());
        let none: [&str; 0] = [];
        assert_eq!(whats(&spec, FakeDevice::default(), false), none);
        spec.policy.preset = Preset::Cluster;
        assert_eq!(whats(&spec, FakeDevice::default(), true), none);
        assert_eq!(whats(&spec, FakeDevice::default(), false), ["CAP_SYS_RAWIO"]);
        spec.shared_nexus = true;
        assert_eq!(whats(&spec, FakeDevice::default(), false), ["a nexus of the guest's own"]);
        let mut nameless = FakeDevice::default();
        nameless.vpd.remove(&0x83);
        spec.shared_nexus = false;
        assert_eq!(whats(&spec, nameless, true), ["a designator of the logical unit"]);
    }
}
