//! PERSISTENT RESERVE OUT: one nexus's registration and reservation, kept on several (SPC-6,
//! PERSISTENT RESERVE OUT command).

use std::io;
use std::time::Duration;

use super::{Multipath, Outcome, Reservations, refusal, report, whole};
use super::{attention_of, is_of_reservations, sent};
use crate::host::{Completion, Data, Request};
use crate::scsi::sense::Sense;
use crate::scsi::status::Status;
use crate::scsi::wire::{put_u64, u64_at};

const REGISTER: u8 = 0x00;
const RESERVE: u8 = 0x01;
const RELEASE: u8 = 0x02;
const CLEAR: u8 = 0x03;
const PREEMPT: u8 = 0x04;
const PREEMPT_AND_ABORT: u8 = 0x05;
const REGISTER_AND_IGNORE_EXISTING_KEY: u8 = 0x06;

/// Bytes of a basic parameter list.
const BASIC: usize = 24;
const SPEC_I_PT: u8 = 0x08;
const ALL_TG_PT: u8 = 0x04;
const APTPL: u8 = 0x01;

/// A command of the initiator.
struct Command<'a> {
    cdb: &'a [u8],
    list: &'a [u8],
    timeout: Duration,
}

impl Command<'_> {
    fn action(&self) -> u8 {
        action(self.cdb)
    }

    /// RESERVATION KEY
    fn key(&self) -> u64 {
        u64_at(self.list, 0)
    }

    /// SERVICE ACTION RESERVATION KEY
    fn other_key(&self) -> u64 {
        u64_at(self.list, 8)
    }

    fn flags(&self) -> u8 {
        self.list.get(20).copied().unwrap_or(0)
    }

    /// What one nexus may ask for, and several cannot be given.
    fn refused(&self) -> Option<Sense> {
        let registers = matches!(self.action(), REGISTER | REGISTER_AND_IGNORE_EXISTING_KEY);
        match self.flags() {
            _ if !is_for_several(self.cdb) => Some(Sense::invalid_field(1, Some(4))),
            flags if registers && flags & SPEC_I_PT != 0 => {
                Some(Sense::invalid_parameter(20, Some(3)))
            }
            flags if registers && flags & ALL_TG_PT != 0 => {
                Some(Sense::invalid_parameter(20, Some(2)))
            }
            _ => None,
        }
    }
}

fn action(cdb: &[u8]) -> u8 {
    cdb.get(1).copied().unwrap_or(0) & 0x1f
}

/// Whether one nexus's command can be carried out for several.
pub(super) fn is_for_several(cdb: &[u8]) -> bool {
    action(cdb) <= REGISTER_AND_IGNORE_EXISTING_KEY
}

/// A parameter list that says only this.
fn parameters(key: u64, other_key: u64, aptpl: bool) -> [u8; BASIC] {
    let mut list = [0; BASIC];
    put_u64(&mut list, 0, key);
    put_u64(&mut list, 8, other_key);
    list[20] = if aptpl { APTPL } else { 0 };
    list
}

fn cdb(action: u8, scope_and_type: u8) -> [u8; 10] {
    [0x5f, action, scope_and_type, 0, 0, 0, 0, 0, 24, 0]
}

fn is_good(completion: &Completion) -> bool {
    completion.status == Status::GOOD
}

fn no_path() -> io::Result<Completion> {
    Err(io::Error::from_raw_os_error(libc::ENODEV))
}

/// Sends the initiator's own command by a path. Its unit attentions are its own, too.
fn send_own(reservations: &Reservations, path: usize, command: &Command<'_>) -> Outcome {
    match reservations.paths.get(path) {
        Some(path) => sent(whole::send(&*path.host, command.cdb, command.list, command.timeout)),
        None => Outcome::NotSent(no_path()),
    }
}

/// Sends a command by the path that holds the reservation or by one with the key, and by the
/// next where it does not get through; which it was.
fn by_one(reservations: &Reservations, command: &Command<'_>) -> io::Result<(usize, Completion)> {
    let mut last = no_path();
    for index in reservations.known.by_preference() {
        match send_own(reservations, index, command) {
            Outcome::Answered(completion) => return Ok((index, completion)),
            Outcome::NotSent(outcome) => last = outcome,
            Outcome::Unknown(outcome) => return outcome.map(|completion| (index, completion)),
        }
    }
    last.map(|completion| (0, completion))
}

impl Multipath {
    /// Carries out PERSISTENT RESERVE OUT.
    pub(super) fn out(&self, request: &Request<'_>) -> io::Result<Completion> {
        let mut list = vec![0; if let Data::Out(buf) = &request.data { buf.len() } else { 0 }];
        if let Data::Out(buf) = &request.data {
            buf.read(&mut list);
        }
        let command = Command { cdb: request.cdb, list: &list, timeout: request.timeout };
        let mut reservations = self.lock();
        if list.len() < BASIC {
            // The device says what is wrong with it.
            return by_one(&reservations, &command).map(|(_, completion)| completion);
        }
        if let Some(sense) = command.refused() {
            return Ok(refusal(sense));
        }
        if reservations.known.is_in_doubt() {
            self.learn(&mut reservations, command.timeout);
        }
        match command.action() {
            RESERVE => self.reserve(&mut reservations, &command),
            RELEASE => self.release(&mut reservations, &command),
            CLEAR => self.clear(&mut reservations, &command),
            PREEMPT | PREEMPT_AND_ABORT => self.preempt(&mut reservations, &command),
            _ => self.register(&mut reservations, &command),
        }
    }

    /// Registers on every path, or on none. The first decides whether the initiator's key is the
    /// right one; a path that does not carry the command now is registered when it comes back.
    fn register(
        &self,
        reservations: &mut Reservations,
        command: &Command<'_>,
    ) -> io::Result<Completion> {
        let key = Some(command.other_key()).filter(|&key| key != 0);
        let mut order = reservations.known.by_preference();
        if key.is_none() {
            // With the holder's registration its reservation goes, which nothing brings back.
            if let Some(holder) = reservations.known.holder() {
                order.retain(|&path| path != holder);
                order.push(holder);
            }
        }
        let before = reservations.known.clone();
        let (mut done, mut last) = (Vec::new(), no_path());
        for &path in &order {
            let outcome = match done.is_empty() {
                true => send_own(reservations, path, command),
                false => self.overwrite(reservations, path, key, command),
            };
            match outcome {
                Outcome::Answered(completion) if is_good(&completion) => {
                    reservations.known.set_on(path, key);
                    done.push(path);
                    last = Ok(completion);
                }
                Outcome::Answered(completion) => {
                    self.roll_back(reservations, &done, &before, command.timeout);
                    return Ok(completion);
                }
                Outcome::NotSent(outcome) if done.is_empty() => last = outcome,
                Outcome::Unknown(outcome) if done.is_empty() => {
                    reservations.known.doubt();
                    return outcome;
                }
                Outcome::NotSent(_) | Outcome::Unknown(_) => {}
            }
        }
        if !done.is_empty() {
            reservations.known.set_key(key);
            reservations.known.aptpl = command.flags() & APTPL != 0;
        }
        last
    }

    /// Registers `key` on a path, whatever was there.
    fn overwrite(
        &self,
        reservations: &Reservations,
        path: usize,
        key: Option<u64>,
        command: &Command<'_>,
    ) -> Outcome {
        let aptpl = command.flags() & APTPL != 0;
        self.put_key(reservations, path, key, aptpl, command.timeout)
    }

    fn put_key(
        &self,
        reservations: &Reservations,
        path: usize,
        key: Option<u64>,
        aptpl: bool,
        timeout: Duration,
    ) -> Outcome {
        let Some(path) = reservations.paths.get(path) else { return Outcome::NotSent(no_path()) };
        let list = parameters(0, key.unwrap_or(0), aptpl);
        self.send(path, &cdb(REGISTER_AND_IGNORE_EXISTING_KEY, 0), &list, timeout)
    }

    /// Gives back to the paths in `done` the keys that they had.
    fn roll_back(
        &self,
        reservations: &mut Reservations,
        done: &[usize],
        before: &super::Registrations,
        timeout: Duration,
    ) {
        for &path in done.iter().rev() {
            let key = before.on(path);
            match self.put_key(reservations, path, key, before.aptpl, timeout) {
                Outcome::Answered(completion) if is_good(&completion) => {
                    reservations.known.set_on(path, key);
                }
                _ => reservations.known.doubt(),
            }
        }
    }

    /// Gives the initiator's key to the paths that do not have it, and takes what is left of one
    /// that it has given up. Whether there was such a path.
    pub(super) fn register_the_rest(
        &self,
        reservations: &mut Reservations,
        timeout: Duration,
    ) -> bool {
        let key = reservations.known.key();
        let aptpl = reservations.known.aptpl;
        let mut any = false;
        for path in 0..reservations.paths.len() {
            if reservations.known.on(path) == key {
                continue;
            }
            if let Outcome::Answered(completion) =
                self.put_key(reservations, path, key, aptpl, timeout)
                && is_good(&completion)
            {
                reservations.known.set_on(path, key);
                any = true;
            }
        }
        any && key.is_some()
    }

    /// As [`by_one`], for what belongs to the holder: where its path does not carry the
    /// command, another takes the reservation over first.
    fn by_holder(
        &self,
        reservations: &mut Reservations,
        command: &Command<'_>,
    ) -> io::Result<(usize, Completion)> {
        let Some(holder) = reservations.known.holder() else {
            return by_one(reservations, command);
        };
        match send_own(reservations, holder, command) {
            Outcome::Answered(completion) => Ok((holder, completion)),
            Outcome::Unknown(outcome) => outcome.map(|completion| (holder, completion)),
            Outcome::NotSent(outcome) => {
                if !self.take_over(reservations, command.timeout) {
                    return outcome.map(|completion| (holder, completion));
                }
                by_one(reservations, command)
            }
        }
    }

    /// Moves the reservation to another path: whoever preempts its own key keeps its registration
    /// and gets the reservation.
    fn take_over(&self, reservations: &mut Reservations, timeout: Duration) -> bool {
        let Some(key) = reservations.known.key() else { return false };
        let Ok(Ok(held)) = self.read_all(reservations, report::RESERVATION, timeout) else {
            return false;
        };
        let Some(&scope_and_type) = held.get(21).filter(|_| u64_at(&held, 8) == key) else {
            return false;
        };
        let list = parameters(key, key, false);
        let dead = reservations.known.holder();
        for index in reservations.known.by_preference() {
            let Some(path) = reservations.paths.get(index) else { continue };
            if Some(index) == dead || !reservations.known.is_on(index) {
                continue;
            }
            if let Outcome::Answered(completion) =
                self.send(path, &cdb(PREEMPT, scope_and_type), &list, timeout)
            {
                if is_good(&completion) {
                    self.preempted_own(reservations, index, timeout);
                }
                return is_good(&completion);
            }
        }
        false
    }

    /// All registrations with the initiator's key but that of one path are gone: they come back.
    fn preempted_own(&self, reservations: &mut Reservations, winner: usize, timeout: Duration) {
        reservations.known.set_holder(Some(winner));
        for path in (0..reservations.paths.len()).filter(|&path| path != winner) {
            reservations.known.set_on(path, None);
        }
        self.register_the_rest(reservations, timeout);
    }

    fn reserve(
        &self,
        reservations: &mut Reservations,
        command: &Command<'_>,
    ) -> io::Result<Completion> {
        let (path, completion) = self.by_holder(reservations, command)?;
        if is_good(&completion) {
            reservations.known.set_holder(Some(path));
        }
        Ok(completion)
    }

    fn release(
        &self,
        reservations: &mut Reservations,
        command: &Command<'_>,
    ) -> io::Result<Completion> {
        let (path, completion) = self.by_holder(reservations, command)?;
        if is_good(&completion) {
            reservations.known.set_holder(None);
            self.drain(reservations, path, command.timeout);
        }
        Ok(completion)
    }

    fn clear(
        &self,
        reservations: &mut Reservations,
        command: &Command<'_>,
    ) -> io::Result<Completion> {
        let (path, completion) = by_one(reservations, command)?;
        if is_good(&completion) {
            reservations.known.set_key(None);
            (0..reservations.paths.len()).for_each(|path| reservations.known.set_on(path, None));
            self.drain(reservations, path, command.timeout);
        }
        Ok(completion)
    }

    fn preempt(
        &self,
        reservations: &mut Reservations,
        command: &Command<'_>,
    ) -> io::Result<Completion> {
        let (path, completion) = self.by_holder(reservations, command)?;
        if !is_good(&completion) {
            return Ok(completion);
        }
        // A key of 0 means all others, where all registrants hold the reservation.
        if command.other_key() == command.key() || command.other_key() == 0 {
            self.preempted_own(reservations, path, command.timeout);
        } else if reservations.known.holder().is_none() {
            let held = self.read_all(reservations, report::RESERVATION, command.timeout);
            let own = held.is_ok_and(|held| held.is_ok_and(|held| is_by(&held, command.key())));
            reservations.known.set_holder(own.then_some(path));
        }
        self.drain(reservations, path, command.timeout);
        Ok(completion)
    }

    /// Takes the unit attentions that a command by `path` has caused on the other paths: the
    /// initiator has done that itself. Others are kept for it.
    fn drain(&self, reservations: &Reservations, path: usize, timeout: Duration) {
        let others = reservations.paths.iter().enumerate().filter(|(index, _)| *index != path);
        for (_, other) in others {
            for _ in 0..super::MOST_ATTENTIONS {
                let ready = whole::receive(&*other.host, &[0; 6], 0, timeout);
                let Ok((completion, _)) = ready else { break };
                let Some(code) = attention_of(&completion) else { break };
                if !is_of_reservations(code) {
                    self.keep(completion.sense);
                }
            }
        }
    }
}

/// Whether READ RESERVATION tells of a reservation by this key.
fn is_by(held: &[u8], key: u64) -> bool {
    held.len() >= 24 && u64_at(held, 8) == key
}
