//! What becomes of an initiator's registration and of the reservation that it is subject to
//! (SPC-6, Persistent reservations).
//!
//! A device tells of a preemption by a unit attention, which the host's own drivers may swallow;
//! nothing else of it reaches user space. So the initiator's key is learnt from its own PERSISTENT
//! RESERVE OUT, and PERSISTENT RESERVE IN is asked again and again, only while it has one: who is
//! not registered is told nothing by the standard either.
//!
//! A key is not a nexus: initiators may register the same key by several nexuses, as multipath does.
//! Therefore the loss of one of several equal keys counts as the loss of ours. That tells too much
//! where another nexus gave up its registration by itself, never too little.
//!
//! Only for a nexus that nobody else uses. Sends nothing that changes anything.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::host::{HostStatus, ScsiHost, whole};
use crate::scsi::cdb::Cdb;
use crate::scsi::sense::{SenseCode, SenseKey};
use crate::scsi::status::Status;

/// What is known of the registration of one nexus.
#[derive(Debug, Default)]
pub struct Reservations(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Orders of the initiator that are at the device.
    under_way: usize,
    /// How many have ended.
    ended: u64,
    /// The initiator's key, from its own registration on.
    key: Option<u64>,
    /// What was there at the last look, as changed by the initiator's own orders since.
    known: Option<Known>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    /// How many nexuses are registered with the initiator's key.
    registrations: usize,
    holder: Option<Holder>,
}

/// A reservation (SPC-6, READ RESERVATION parameter data).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    key: u64,
    scope_and_type: u8,
}

/// A PERSISTENT RESERVE OUT of the initiator's, from before it is sent until its end is known.
/// Meanwhile nothing that is read counts.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Order<'a> {
    reservations: &'a Reservations,
    action: u8,
    scope_and_type: u8,
    /// SERVICE ACTION RESERVATION KEY
    new_key: u64,
    unregister_after_move: bool,
}

/// Service actions of PERSISTENT RESERVE OUT.
mod action {
    pub const REGISTER: u8 = 0x00;
    pub const RESERVE: u8 = 0x01;
    pub const RELEASE: u8 = 0x02;
    pub const CLEAR: u8 = 0x03;
    pub const PREEMPT: u8 = 0x04;
    pub const PREEMPT_AND_ABORT: u8 = 0x05;
    pub const REGISTER_AND_IGNORE_EXISTING_KEY: u8 = 0x06;
    pub const REGISTER_AND_MOVE: u8 = 0x07;
}

impl Reservations {
    /// A command of the initiator's is about to be sent with this parameter list: what is returned
    /// is told how it ended. `None` where it is no PERSISTENT RESERVE OUT.
    pub fn order(&self, cdb: &Cdb, parameters: &[u8]) -> Option<Order<'_>> {
        const PERSISTENT_RESERVE_OUT: u8 = 0x5f;
        if cdb.opcode() != PERSISTENT_RESERVE_OUT {
            return None;
        }
        self.lock().under_way += 1;
        Some(Order {
            reservations: self,
            action: cdb.u8(1) & 0x1f,
            scope_and_type: cdb.u8(2),
            new_key: parameters.get(8..16).map_or(0, be),
            unregister_after_move: parameters.get(17).is_some_and(|byte| byte & 0x02 != 0),
        })
    }

    /// Whether there is anything to look after.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.lock().key.is_some()
    }

    /// Looks what has changed without the initiator's doing; returns what it should hear.
    ///
    /// # Errors
    /// Where the device does not say.
    pub fn poll(&self, host: &dyn ScsiHost) -> io::Result<Vec<SenseCode>> {
        let Some((key, ended)) = self.lock().quiet() else { return Ok(Vec::new()) };
        let registrations = read_keys(host)?.iter().filter(|&&other| other == key).count();
        let seen = Known { registrations, holder: read_reservation(host)? };
        let mut state = self.lock();
        // An order that came between leaves nobody knowing what was read before it.
        if state.quiet() != Some((key, ended)) {
            return Ok(Vec::new());
        }
        if registrations == 0 {
            state.key = None;
        }
        Ok(changes(state.known.replace(seen), seen))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a registered initiator is told of the way from one state to the other.
fn changes(known: Option<Known>, seen: Known) -> Vec<SenseCode> {
    // Where nothing is known yet, there was at least its own registration.
    let known = known.unwrap_or(Known { registrations: 1, holder: None });
    let mut changes = Vec::new();
    if seen.registrations < known.registrations {
        changes.push(SenseCode::REGISTRATIONS_PREEMPTED);
    }
    match (known.holder, seen.holder) {
        (Some(old), Some(new)) if old == new => {}
        (Some(_), Some(_)) => changes.push(SenseCode::RESERVATIONS_PREEMPTED),
        // CLEAR: the registration went along (SPC-6, Clearing).
        (Some(_), None) if seen.registrations == 0 => {
            changes.push(SenseCode::RESERVATIONS_PREEMPTED);
        }
        (Some(old), None) if old.concerns_registrants() => {
            changes.push(SenseCode::RESERVATIONS_RELEASED);
        }
        // A reservation where there was none, and the release of another, are told to nobody.
        (None, _) | (Some(_), None) => {}
    }
    changes
}

impl Holder {
    /// Of a type of which all who are registered have a part: its release is told to them (SPC-6,
    /// Releasing).
    fn concerns_registrants(self) -> bool {
        matches!(self.scope_and_type & 0x0f, 5..=8)
    }

    /// Of a type that every registered nexus holds, under no key.
    fn is_held_by_all(scope_and_type: u8) -> bool {
        matches!(scope_and_type & 0x0f, 7 | 8)
    }
}

impl State {
    /// The key and how many orders have ended, if there is a key and no order is under way.
    fn quiet(&self) -> Option<(u64, u64)> {
        let key = self.key?;
        (self.under_way == 0).then_some((key, self.ended))
    }

    /// The initiator's registration is `key` from now on, or none where that is zero.
    fn register(&mut self, key: u64) {
        self.key = (key != 0).then_some(key);
        // How many have that key already, only the device knows.
        self.known = None;
    }

    fn carry_out(&mut self, order: &Order<'_>) {
        match order.action {
            action::REGISTER | action::REGISTER_AND_IGNORE_EXISTING_KEY => {
                self.register(order.new_key);
            }
            action::CLEAR => self.register(0),
            action::REGISTER_AND_MOVE if order.unregister_after_move => self.register(0),
            action::RESERVE => {
                let scope_and_type = order.scope_and_type;
                let own = self.key.filter(|_| !Holder::is_held_by_all(scope_and_type));
                self.hold(Holder { key: own.unwrap_or(0), scope_and_type });
            }
            // What they lead to depends on what the device knew; the next look shows it.
            action::RELEASE
            | action::PREEMPT
            | action::PREEMPT_AND_ABORT
            | action::REGISTER_AND_MOVE => self.known = None,
            _ => {}
        }
    }

    fn hold(&mut self, holder: Holder) {
        if let Some(known) = &mut self.known {
            known.holder = Some(holder);
        }
    }
}

impl Order<'_> {
    /// It ended with this status, which the device itself reported.
    pub fn ended(self, status: Status) {
        if status == Status::GOOD {
            self.reservations.lock().carry_out(&self);
        }
    }
}

impl Drop for Order<'_> {
    fn drop(&mut self) {
        let mut state = self.reservations.lock();
        state.under_way = state.under_way.saturating_sub(1);
        state.ended += 1;
    }
}

fn read_keys(host: &dyn ScsiHost) -> io::Result<Vec<u64>> {
    const READ_KEYS: u8 = 0x00;
    /// What holds the keys of every nexus that one is likely to meet.
    const USUAL: u16 = 8 << 10;
    let mut data = read(host, READ_KEYS, USUAL)?;
    let len = data.get(4..8).map_or(0, be);
    if len > u64::from(USUAL) - 8 {
        data = read(host, READ_KEYS, u16::MAX)?;
    }
    let list = data.get(8..).unwrap_or_default();
    let list = usize::try_from(len).ok().and_then(|len| list.get(..len)).unwrap_or(list);
    Ok(list.chunks_exact(8).map(be).collect())
}

fn read_reservation(host: &dyn ScsiHost) -> io::Result<Option<Holder>> {
    const READ_RESERVATION: u8 = 0x01;
    let data = read(host, READ_RESERVATION, 24)?;
    let is_held = data.get(4..8).is_some_and(|len| be(len) >= 16);
    let holder = (data.get(8..16), data.get(21));
    let (true, (Some(key), Some(&scope_and_type))) = (is_held, holder) else { return Ok(None) };
    Ok(Some(Holder { key: be(key), scope_and_type }))
}

/// PERSISTENT RESERVE IN (SPC-6). Unit attentions are reported once each, and then it answers.
fn read(host: &dyn ScsiHost, action: u8, len: u16) -> io::Result<Vec<u8>> {
    const TIMEOUT: Duration = Duration::from_secs(30);
    const ATTEMPTS: usize = 8;
    let [high, low] = len.to_be_bytes();
    let cdb = [0x5e, action, 0, 0, 0, 0, 0, high, low, 0];
    for _ in 0..ATTEMPTS {
        let (end, data) = whole::receive(host, &cdb, len.into(), TIMEOUT)?;
        let is_attention =
            SenseCode::of(&end.sense).is_some_and(|it| it.key == SenseKey::UNIT_ATTENTION);
        match (end.host_status, end.status) {
            (HostStatus::OK, Status::GOOD) => return Ok(data),
            (HostStatus::OK, Status::CHECK_CONDITION) if is_attention => {}
            (host, status) => {
                let why = format!("status {:#04x}, host status {:#04x}", status.0, host.0);
                return Err(io::Error::other(why));
            }
        }
    }
    Err(io::Error::other("too many unit attentions"))
}

/// A big-endian number of at most eight bytes.
fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeHost, Outcome};

    const OURS: u64 = 0x1122_3344_5566_7788;
    const THEIRS: u64 = 0xaa;
    const WRITE_EXCLUSIVE: u8 = 1;
    const WRITE_EXCLUSIVE_REGISTRANTS_ONLY: u8 = 5;
    const WRITE_EXCLUSIVE_ALL_REGISTRANTS: u8 = 7;

    fn order(reservations: &Reservations, action: u8, kind: u8, key: u64, status: Status) {
        let parameters = [&[0; 8], &key.to_be_bytes()[..], &[0; 8]].concat();
        let cdb = Cdb::new(&[0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0]);
        reservations.order(&cdb, &parameters).unwrap().ended(status);
    }

    fn registered() -> Reservations {
        let reservations = Reservations::default();
        order(&reservations, action::REGISTER, 0, OURS, Status::GOOD);
        reservations
    }

    fn keys(keys: &[u64]) -> Vec<u8> {
        let len = u8::try_from(keys.len() * 8).unwrap();
        let mut data = vec![0, 0, 0, 1, 0, 0, 0, len];
        keys.iter().for_each(|key| data.extend(key.to_be_bytes()));
        data
    }

    fn holder(holder: Option<(u64, u8)>) -> Vec<u8> {
        let Some((key, kind)) = holder else { return vec![0; 8] };
        let mut data = vec![0, 0, 0, 1, 0, 0, 0, 16];
        data.extend(key.to_be_bytes());
        data.extend([0, 0, 0, 0, 0, kind, 0, 0]);
        data
    }

    fn answers(host: &FakeHost, list: &[u64], held: Option<(u64, u8)>) {
        host.next(Outcome::data(&keys(list)));
        host.next(Outcome::data(&holder(held)));
    }

    fn poll(it: &Reservations, list: &[u64], held: Option<(u64, u8)>) -> Vec<SenseCode> {
        let host = FakeHost::default();
        answers(&host, list, held);
        it.poll(&host).unwrap()
    }

    #[test]
    fn nothing_is_asked_before_the_initiator_has_registered() {
        let (reservations, host) = (Reservations::default(), FakeHost::default());
        assert_eq!(reservations.poll(&host).unwrap(), []);
        order(&reservations, action::REGISTER, 0, OURS, Status::RESERVATION_CONFLICT);
        assert!(reservations.order(&Cdb::new(&[0x2a]), &[]).is_none());
        assert_eq!(reservations.poll(&host).unwrap(), []);
        assert_eq!(host.take_sent(), []);
        order(&reservations, action::REGISTER_AND_IGNORE_EXISTING_KEY, 0, OURS, Status::GOOD);
        assert!(reservations.is_registered());
        order(&reservations, action::REGISTER, 0, 0, Status::GOOD);
        assert!(!reservations.is_registered());
    }

    #[test]
    fn a_lost_key_is_told_once() {
        let it = registered();
        assert_eq!(poll(&it, &[THEIRS, OURS], None), []);
        assert_eq!(poll(&it, &[THEIRS], None), [SenseCode::REGISTRATIONS_PREEMPTED]);
        assert!(!it.is_registered());
        let at_once = registered();
        assert_eq!(poll(&at_once, &[THEIRS], None), [SenseCode::REGISTRATIONS_PREEMPTED]);
    }

    #[test]
    fn one_of_several_equal_keys_may_have_been_ours() {
        let it = registered();
        assert_eq!(poll(&it, &[OURS, OURS], None), []);
        assert_eq!(poll(&it, &[OURS], None), [SenseCode::REGISTRATIONS_PREEMPTED]);
        assert_eq!(poll(&it, &[OURS], None), []);
        assert!(it.is_registered());
    }

    #[test]
    fn another_holder_and_a_release_are_told() {
        let it = registered();
        let all = [OURS, THEIRS];
        let registrants = WRITE_EXCLUSIVE_REGISTRANTS_ONLY;
        assert_eq!(poll(&it, &all, None), []);
        assert_eq!(poll(&it, &all, Some((THEIRS, registrants))), []);
        let changed = poll(&it, &all, Some((0xbb, registrants)));
        assert_eq!(changed, [SenseCode::RESERVATIONS_PREEMPTED]);
        assert_eq!(poll(&it, &all, None), [SenseCode::RESERVATIONS_RELEASED]);
        assert_eq!(poll(&it, &all, Some((THEIRS, WRITE_EXCLUSIVE))), []);
        assert_eq!(poll(&it, &all, None), [], "the standard tells nobody");
        assert_eq!(poll(&it, &all, Some((THEIRS, WRITE_EXCLUSIVE))), []);
        let cleared = [SenseCode::REGISTRATIONS_PREEMPTED, SenseCode::RESERVATIONS_PREEMPTED];
        assert_eq!(poll(&it, &[], None), cleared);
    }

    #[test]
    fn what_the_initiator_did_itself_is_no_news_to_it() {
        let it = registered();
        assert_eq!(poll(&it, &[OURS], None), []);
        order(&it, action::RESERVE, WRITE_EXCLUSIVE_REGISTRANTS_ONLY, 0, Status::GOOD);
        assert_eq!(poll(&it, &[OURS], Some((OURS, WRITE_EXCLUSIVE_REGISTRANTS_ONLY))), []);
        order(&it, action::RELEASE, WRITE_EXCLUSIVE_REGISTRANTS_ONLY, 0, Status::GOOD);
        assert_eq!(poll(&it, &[OURS], None), []);
        order(&it, action::RESERVE, WRITE_EXCLUSIVE_ALL_REGISTRANTS, 0, Status::GOOD);
        assert_eq!(poll(&it, &[OURS], Some((0, WRITE_EXCLUSIVE_ALL_REGISTRANTS))), []);
        order(&it, action::CLEAR, 0, 0, Status::GOOD);
        assert_eq!(poll(&it, &[], None), []);
        let it = registered();
        assert_eq!(poll(&it, &[OURS, THEIRS], Some((THEIRS, 5))), []);
        order(&it, action::PREEMPT, 5, THEIRS, Status::GOOD);
        assert_eq!(poll(&it, &[OURS], Some((OURS, 5))), []);
    }

    #[test]
    fn its_own_reservation_does_not_go_unnoticed() {
        let it = registered();
        assert_eq!(poll(&it, &[OURS, THEIRS], None), []);
        order(&it, action::RESERVE, WRITE_EXCLUSIVE_REGISTRANTS_ONLY, 0, Status::GOOD);
        let lost = [SenseCode::REGISTRATIONS_PREEMPTED, SenseCode::RESERVATIONS_PREEMPTED];
        assert_eq!(poll(&it, &[THEIRS], Some((THEIRS, 5))), lost);
    }

    #[test]
    fn an_order_under_way_makes_what_is_read_worthless() {
        let it = registered();
        assert_eq!(poll(&it, &[OURS], None), []);
        let cdb = Cdb::new(&[0x5f, action::REGISTER]);
        let order = it.order(&cdb, &[0; 24]).unwrap();
        let (host, (outcome, hold)) = (FakeHost::default(), Outcome::stuck());
        assert_eq!(it.poll(&host).unwrap(), []);
        assert_eq!(host.take_sent(), [], "not even asked");
        drop(order);
        host.next(outcome);
        host.next(Outcome::data(&holder(None)));
        std::thread::scope(|scope| {
            let polled = scope.spawn(|| it.poll(&host).unwrap());
            hold.wait_for_arrival();
            self::order(&it, action::REGISTER, 0, 0, Status::GOOD);
            hold.release_with(Outcome::data(&keys(&[])));
            assert_eq!(polled.join().unwrap(), []);
        });
    }

    #[test]
    fn moving_a_registration_away_ends_it() {
        let it = registered();
        let cdb = Cdb::new(&[0x5f, action::REGISTER_AND_MOVE]);
        let mut parameters = [0; 24];
        it.order(&cdb, &parameters).unwrap().ended(Status::GOOD);
        assert!(it.is_registered());
        parameters[17] = 0x02;
        it.order(&cdb, &parameters).unwrap().ended(Status::GOOD);
        assert!(!it.is_registered());
    }

    #[test]
    fn answers_of_any_shape_do_no_harm() {
        for (list, held) in [
            (&[][..], &[][..]),
            (&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 2], &[0, 0, 0, 0, 0, 0, 0, 16, 1]),
            (&[0; 7], &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]),
        ] {
            let host = FakeHost::default();
            host.on(0x5e, Outcome::data(list));
            if list.len() > 8 {
                host.on(0x5e, Outcome::data(list));
            }
            host.on(0x5e, Outcome::data(held));
            assert_eq!(registered().poll(&host).unwrap(), [SenseCode::REGISTRATIONS_PREEMPTED]);
        }
        let host = FakeHost::default();
        (0..100).for_each(|_| host.next(Outcome::check(SenseCode::POWER_ON_OCCURRED)));
        assert!(registered().poll(&host).is_err());
        let host = FakeHost::default();
        host.next(Outcome::status(Status::BUSY));
        assert!(registered().poll(&host).is_err());
    }

    #[test]
    fn many_keys_are_read_whole() {
        let (it, host) = (registered(), FakeHost::default());
        let mut data = vec![0, 0, 0, 1, 0, 0, 0x40, 0];
        data.extend([0; 0x4000 - 8]);
        data.extend(OURS.to_be_bytes());
        host.next(Outcome::data(&data));
        host.next(Outcome::data(&data));
        host.next(Outcome::data(&holder(None)));
        assert_eq!(it.poll(&host).unwrap(), []);
        assert!(it.is_registered());
    }
}
