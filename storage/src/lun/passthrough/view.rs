//! What is known of a device: what it is, what it can be sent, and what of that is allowed. Made
//! as a whole, and replaced as a whole.

use std::time::Duration;

use super::facts::{self, ExamineError, Facts};
use super::fixup::{Context, Promises};
use super::limits::Limits;
use super::policy::{Policy, Verdict};
use crate::host::{HostLimits, ScsiHost};
use crate::lun::spec::PassthroughSpec;
use crate::scsi::cdb::Cdb;
use crate::scsi::command::{BlockFormat, Command, TimeClass};

/// What is known of a device at one moment.
#[derive(Debug)]
pub struct View {
    /// What it is.
    pub facts: Facts,
    /// What the host carries to it.
    pub host: HostLimits,
    /// How much a command may carry to it.
    pub limits: Limits,
    /// What its initiator may ask of it.
    pub policy: Policy,
}

impl View {
    /// What the host gives a command at least (`BLK_MIN_SG_TIMEOUT` of Linux).
    const LEAST_TIMEOUT: Duration = Duration::from_secs(7);

    /// Asks the device behind `host`.
    ///
    /// # Errors
    /// When it cannot be asked, or says nothing of use.
    pub fn of(spec: &PassthroughSpec, host: &dyn ScsiHost) -> Result<View, ExamineError> {
        let facts = facts::examine(host)?;
        let carried = host.limits()?;
        let limits = Limits::of(carried, &facts);
        let device_type = facts.device_type();
        let mut policy = Policy::new(&spec.policy, spec.read_only, spec.shared_nexus, device_type);
        policy.withhold(|cdb| host.carries(&cdb.0));
        Ok(View { facts, host: carried, limits, policy })
    }

    /// What `cdb` means to the device, if the standards say.
    #[must_use]
    pub fn command(&self, cdb: &Cdb) -> Option<&'static Command> {
        Command::find(self.facts.device_type(), cdb)
    }

    /// Bytes of data that go with `cdb`, if anybody can tell.
    #[must_use]
    pub fn transfer_length(&self, command: &Command, cdb: &Cdb) -> Option<u64> {
        let of = |size| command.transfer_length(cdb, BlockFormat { size, protection: 0 });
        if of(1) == of(2) {
            return of(1);
        }
        let medium = self.facts.medium?;
        let protection = if medium.protection == 0 { 0 } else { 8 };
        command.transfer_length(cdb, BlockFormat { size: medium.block_size, protection })
    }

    /// How long `cdb` may take: what the device recommends, or else what its kind of command
    /// usually takes; what the user says, where that is no reason for it to take longer.
    #[must_use]
    pub fn timeout(&self, spec: &PassthroughSpec, cdb: &Cdb) -> Duration {
        let class = self.command(cdb).map_or(TimeClass::Access, |command| command.time);
        let ordinary = matches!(class, TimeClass::Short | TimeClass::Access);
        let own = || self.facts.commands.as_ref()?.find(cdb)?.timeouts?.recommended;
        let timeout = spec.timeout.filter(|_| ordinary).or_else(own);
        let timeout = timeout.unwrap_or_else(|| class.timeout());
        timeout.clamp(View::LEAST_TIMEOUT, TimeClass::Whole.timeout())
    }

    /// What edits of its responses go by.
    #[must_use]
    pub fn context<'a>(&'a self, spec: &'a PassthroughSpec) -> Context<'a> {
        let allows = |opcode, action| {
            matches!(self.policy.judge(&Cdb::new(&[opcode, action])), Verdict::Forward)
        };
        Context {
            facts: &self.facts,
            limits: &self.limits,
            overlay: &spec.overlay,
            write_protected: self.policy.write_protected(),
            promises: Promises {
                third_party_copy: allows(0x83, 0) && allows(0x84, 0),
                report_target_port_groups: allows(0xa3, 0x0a),
                set_target_port_groups: allows(0xa4, 0x0a),
            },
        }
    }
}
