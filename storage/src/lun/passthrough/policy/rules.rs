//! What a specification comes down to: a rule for each opcode and service action of one device.

use super::fields::Fields;
use super::{CommandPattern, PolicySpec, Preset, Virtual};
use crate::scsi::command::{Command, Effect, Purpose, device_type};

/// What is done with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) ruling: Ruling,
    /// It would pass if the logical unit were not write-protected.
    pub(super) protected: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    Refuse,
    Virtual(Virtual),
    Forward(Fields),
}

impl Rule {
    const REFUSED: Rule = Rule { ruling: Ruling::Refuse, protected: false };

    /// Whether the logical unit supports the command.
    pub(super) fn is_supported(self) -> bool {
        self.ruling != Ruling::Refuse
    }

    /// Whether some of its CDBs go to the device.
    pub(super) fn is_forwarded(self) -> bool {
        matches!(self.ruling, Ruling::Forward(_)) && !self.protected
    }

    fn withhold(&mut self, carries: impl FnOnce() -> bool) {
        if matches!(self.ruling, Ruling::Forward(_)) && !carries() {
            *self = Rule::REFUSED;
        }
    }
}

/// The rules of an opcode.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// By service action, in ascending order.
    actions: Vec<(u16, Rule)>,
    /// For all others, or for an opcode that has none.
    others: Rule,
}

impl Slot {
    /// The rule of a service action.
    pub(super) fn rule(&self, action: u16) -> Rule {
        let found = self.actions.iter().find(|(of, _)| *of == action);
        found.map_or(self.others, |(_, rule)| *rule)
    }

    /// Whether nothing of the opcode is supported.
    pub(super) fn is_refused(&self) -> bool {
        !self.others.is_supported() && !self.actions.iter().any(|(_, rule)| rule.is_supported())
    }

    /// Whether the opcode has no service actions.
    pub(super) fn is_plain(&self) -> bool {
        self.actions.is_empty()
    }

    pub(super) fn withhold(&mut self, carries: impl Fn(Option<u16>) -> bool) {
        self.others.withhold(|| carries(None));
        for (action, rule) in &mut self.actions {
            rule.withhold(|| carries(Some(*action)));
        }
    }
}

/// What rules are made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    pub(super) spec: &'a PolicySpec,
    pub(super) read_only: bool,
    pub(super) shared_nexus: bool,
    pub(super) device_type: u8,
}

impl Rules<'_> {
    /// Whether a command that modifies is refused for that.
    pub(super) fn protects(&self) -> bool {
        self.read_only || self.spec.preset == Preset::ReadOnly
    }

    /// The rules of each opcode.
    pub(super) fn slots(&self) -> Box<[Slot; 256]> {
        let slot = |opcode: usize| self.slot(u8::try_from(opcode).unwrap_or(0));
        Box::new(std::array::from_fn(slot))
    }

    fn slot(&self, opcode: u8) -> Slot {
        let rows = || Command::of_opcode(self.device_type, opcode);
        let plain = rows().find(|row| row.service_action.is_none());
        let patterns = self.spec.allow.iter().chain(&self.spec.deny);
        let mut actions: Vec<u16> = patterns
            .filter_map(|pattern| pattern.service_action_of(opcode))
            .chain(rows().filter_map(|row| row.service_action))
            .collect();
        actions.sort_unstable();
        actions.dedup();
        let rule = |action: u16| {
            let row = rows().find(|row| row.service_action == Some(action)).or(plain);
            (action, self.rule(opcode, Some(action), row))
        };
        Slot {
            actions: actions.into_iter().map(rule).collect(),
            others: self.rule(opcode, None, plain),
        }
    }

    fn rule(&self, opcode: u8, action: Option<u16>, command: Option<&Command>) -> Rule {
        let is_in = |patterns: &[CommandPattern]| {
            patterns.iter().any(|pattern| pattern.matches(opcode, action, command))
        };
        let answered = command.is_some_and(Virtual::answers_always);
        let denied = is_in(&self.spec.deny) && !answered;
        if denied || self.is_out_of_the_question(opcode, command) {
            return Rule::REFUSED;
        }
        self.allowed(command, is_in(&self.spec.allow))
    }

    /// An unknown service action of an opcode that is there for reservations makes no exception.
    fn is_out_of_the_question(&self, opcode: u8, command: Option<&Command>) -> bool {
        let reserves = |command: &Command| command.effect == Effect::Reservations;
        match command {
            Some(command) if command.purpose == Purpose::Never => true,
            Some(command) => self.shared_nexus && reserves(command),
            None => self.shared_nexus && Command::of_opcode(self.device_type, opcode).any(reserves),
        }
    }

    /// The rule of a command that is not denied; `named` if it is explicitly allowed. Nobody knows
    /// what an unknown one does.
    fn allowed(&self, command: Option<&Command>, named: bool) -> Rule {
        let everything = named || self.spec.preset == Preset::Full;
        if let Some(answer) = command.and_then(|command| self.answered(command, everything)) {
            return Rule { ruling: Ruling::Virtual(answer), protected: false };
        }
        let fields = command.map_or(Fields::Any, |command| Fields::of(command, self.device_type));
        let lifted = everything && !(self.read_only && fields.protects());
        let fields = if lifted { Fields::Any } else { fields };
        let modifies =
            command.is_none_or(|command| command.effect.modifies()) && !fields.is_harmless();
        let purpose = command.map_or(Purpose::Administering, |command| command.purpose);
        // With this preset a write is refused as on a medium that is write-protected.
        let looked_for = self.spec.preset == Preset::ReadOnly && modifies;
        let ceiling = if looked_for { Purpose::Using } else { ceiling(self.spec.preset) };
        if !named && purpose > ceiling {
            return Rule::REFUSED;
        }
        let protected = modifies && (self.read_only || looked_for && !named);
        Rule { ruling: Ruling::Forward(fields), protected }
    }

    /// How `command` is answered here, if it is.
    fn answered(&self, command: &Command, everything: bool) -> Option<Virtual> {
        let disk = [device_type::DISK, device_type::ZONED].contains(&self.device_type);
        let stays = disk && self.spec.preset >= Preset::DiskRw && !everything;
        Virtual::of(command).filter(|answer| stays || *answer != Virtual::StartStopUnit)
    }
}

impl Virtual {
    const ALL: [Virtual; 3] = [
        Virtual::StartStopUnit,
        Virtual::ReportLuns,
        Virtual::ReportSupportedTaskManagementFunctions,
    ];

    /// The answers that there can be, in order of opcode.
    pub(super) fn all() -> impl Iterator<Item = Virtual> {
        Virtual::ALL.into_iter()
    }

    /// Its opcode and service action.
    pub(super) fn codes(self) -> (u8, Option<u16>) {
        match self {
            Virtual::StartStopUnit => (0x1b, None),
            Virtual::ReportLuns => (0xa0, None),
            Virtual::ReportSupportedTaskManagementFunctions => (0xa3, Some(0x0d)),
        }
    }

    fn of(command: &Command) -> Option<Virtual> {
        let codes = (command.opcode, command.service_action);
        Virtual::all().find(|answer| answer.codes() == codes)
    }

    /// Whether `command` is answered here for every device and every specification.
    pub(super) fn answers_always(command: &Command) -> bool {
        Virtual::of(command).is_some_and(|answer| answer != Virtual::StartStopUnit)
    }
}

/// The last purpose that a preset allows.
fn ceiling(preset: Preset) -> Purpose {
    match preset {
        Preset::ReadOnly => Purpose::Reading,
        Preset::DiskRw => Purpose::Using,
        Preset::Cluster => Purpose::Sharing,
        Preset::Full => Purpose::Administering,
    }
}
