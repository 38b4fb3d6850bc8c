use std::collections::BTreeMap;

use super::*;
use crate::scsi::wire::{put_u16, put_u32, put_u64, u16_at, u64_at};

const TIMEOUT: Duration = Duration::from_secs(1);
/// The nexus of another host; those before it are the paths.
const STRANGER: usize = 3;
const K: u64 = 0xa1;
const WERO: u8 = 5;
const ALL_REGISTRANTS: u8 = 8;

/// A device with persistent reservations, and what a test does to its nexuses.
#[derive(Debug, Default)]
struct Target {
    keys: BTreeMap<usize, u64>,
    holder: Option<(usize, u8)>,
    attentions: BTreeMap<usize, VecDeque<(u8, u8)>>,
    offline: Vec<usize>,
    /// Ends PERSISTENT RESERVE OUT by this nexus so, once the device has carried it out or not.
    fails: BTreeMap<usize, (Completion, bool)>,
    no_full_status: bool,
    seen: Vec<(usize, u8, u8)>,
    written: u32,
}

/// One nexus of it.
#[derive(Clone, Debug)]
struct Leg(Arc<Mutex<Target>>, usize);

fn check(key: u8, asc: u8, ascq: u8) -> Completion {
    let code = SenseCode { key: SenseKey(key), asc, ascq };
    refusal(code.into())
}

fn conflict() -> Completion {
    Completion { status: Status::RESERVATION_CONFLICT, ..Completion::default() }
}

impl Target {
    fn attend(&mut self, but: usize, ascq: u8) {
        for nexus in self.keys.keys().filter(|nexus| **nexus != but) {
            self.attentions.entry(*nexus).or_default().push_back((0x2a, ascq));
        }
    }

    fn out(&mut self, nexus: usize, cdb: &[u8], list: &[u8]) -> Completion {
        let (action, kind) = (cdb[1], cdb[2] & 0x0f);
        if list.len() < 24 {
            return check(5, 0x1a, 0);
        }
        let (key, new) = (u64_at(list, 0), u64_at(list, 8));
        let own = self.keys.get(&nexus).copied();
        if action != 6 && own.unwrap_or(0) != key || (action > 0 && action < 6 && own.is_none()) {
            return conflict();
        }
        match action {
            0 | 6 if new == 0 => self.unregister(nexus),
            0 | 6 => drop(self.keys.insert(nexus, new)),
            1 => match self.holder {
                None => self.holder = Some((nexus, kind)),
                Some(held) if held == (nexus, kind) => {}
                Some(_) => return conflict(),
            },
            2 if self.holder.is_some_and(|(holder, _)| holder == nexus) => {
                self.holder = None;
                self.attend(nexus, 4);
            }
            3 => {
                self.attend(nexus, 3);
                self.keys.clear();
                self.holder = None;
            }
            4 | 5 => return self.preempt(nexus, new, kind),
            _ => {}
        }
        Completion::default()
    }

    fn unregister(&mut self, nexus: usize) {
        self.keys.remove(&nexus);
        if self.holder.is_some_and(|(holder, _)| holder == nexus) {
            self.holder = None;
            self.attend(nexus, 4);
        }
    }

    fn preempt(&mut self, nexus: usize, victim: u64, kind: u8) -> Completion {
        if !self.keys.values().any(|key| *key == victim) {
            return conflict();
        }
        let held = self.holder.is_some_and(|(holder, _)| self.keys.get(&holder) == Some(&victim));
        for (loser, _) in self.keys.iter().filter(|(n, key)| **key == victim && **n != nexus) {
            self.attentions.entry(*loser).or_default().push_back((0x2a, 5));
        }
        self.keys.retain(|n, key| *key != victim || *n == nexus);
        if held {
            self.holder = Some((nexus, kind));
        }
        Completion::default()
    }

    fn report(&self, action: u8) -> Option<Vec<u8>> {
        let mut data = vec![0, 0, 0, 1, 0, 0, 0, 0];
        match action {
            0 => data.extend(self.keys.values().flat_map(|key| key.to_be_bytes())),
            1 => {
                if let Some((holder, kind)) = self.holder {
                    data.extend(self.keys.get(&holder).copied().unwrap_or(0).to_be_bytes());
                    data.extend([0, 0, 0, 0, 0, kind, 0, 0]);
                }
            }
            2 => return Some(vec![0, 8, 0x1d, 0x80, 0xea, 1, 0, 0]),
            3 if self.no_full_status => return None,
            _ => {
                for (&nexus, &key) in &self.keys {
                    let mut it = [0; 48];
                    put_u64(&mut it, 0, key);
                    it[12] = u8::from(self.holder.is_some_and(|(holder, _)| holder == nexus));
                    it[13] = self.holder.map_or(0, |(_, kind)| kind);
                    put_u16(&mut it, 18, port(nexus));
                    put_u32(&mut it, 20, 24);
                    it[24] = 6;
                    put_u64(&mut it, 28, initiator(nexus));
                    data.extend(it);
                }
            }
        }
        let len = u32::try_from(data.len() - 8).unwrap();
        put_u32(&mut data, 4, len);
        Some(data)
    }
}

fn initiator(nexus: usize) -> u64 {
    0x5000_0000_0000_00a0 + nexus as u64
}

/// The stranger comes by the port of the first path.
fn port(nexus: usize) -> u16 {
    u16::try_from(nexus % STRANGER).unwrap() + 1
}

impl ScsiHost for Leg {
    fn carries(&self, _: &[u8]) -> bool {
        true
    }

    fn execute(&self, request: Request<'_>) -> io::Result<Completion> {
        let (mut target, nexus, cdb) = (self.0.lock().unwrap(), self.1, request.cdb);
        if target.offline.contains(&nexus) {
            let host_status = HostStatus::NO_CONNECT;
            return Ok(Completion { host_status, ..Completion::default() });
        }
        target.seen.push((nexus, cdb[0], cdb[1]));
        if cdb[0] != 0x12
            && let Some((asc, ascq)) =
                target.attentions.get_mut(&nexus).and_then(VecDeque::pop_front)
        {
            return Ok(check(6, asc, ascq));
        }
        let data = match (cdb[0], request.data) {
            (0x12, data) => {
                let mut page = vec![0, 0x83, 0, 8, 0x51, 0x94, 0, 4, 0, 0, 0, 0];
                put_u16(&mut page, 10, port(nexus));
                (data, page)
            }
            (0x5e, data) => match target.report(cdb[1]) {
                Some(report) => (data, report),
                None => return Ok(check(5, 0x24, 0)),
            },
            (0x5f, Data::Out(buf)) => {
                let mut list = vec![0; buf.len()];
                buf.read(&mut list);
                if let Some((completion, carried_out)) = target.fails.remove(&nexus) {
                    if carried_out {
                        target.out(nexus, cdb, &list);
                    }
                    return Ok(completion);
                }
                return Ok(target.out(nexus, cdb, &list));
            }
            (0x2a, _) => {
                let allowed = target.holder.is_none_or(|(holder, kind)| {
                    holder == nexus || kind >= WERO && target.keys.contains_key(&nexus)
                });
                target.written += u32::from(allowed);
                return Ok(if allowed { Completion::default() } else { conflict() });
            }
            _ => return Ok(Completion::default()),
        };
        let (Data::In(buf), bytes) = data else { return Ok(Completion::default()) };
        let asked = if cdb[0] == 0x5e { usize::from(u16_at(cdb, 7)) } else { bytes.len() };
        let moved = buf.write(&bytes[..bytes.len().min(asked)]);
        let resid = i32::try_from(buf.len() - moved).unwrap();
        Ok(Completion { resid, ..Completion::default() })
    }

    fn reset_logical_unit(&self) -> io::Result<()> {
        if self.0.lock().unwrap().offline.contains(&self.1) {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        Ok(())
    }

    fn limits(&self) -> io::Result<HostLimits> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// What the device mapper has chosen.
#[derive(Clone, Debug)]
struct Map(Arc<Mutex<Target>>, Arc<Mutex<usize>>);

impl ScsiHost for Map {
    fn carries(&self, _: &[u8]) -> bool {
        true
    }

    fn execute(&self, request: Request<'_>) -> io::Result<Completion> {
        Leg(Arc::clone(&self.0), *self.1.lock().unwrap()).execute(request)
    }

    fn reset_logical_unit(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn limits(&self) -> io::Result<HostLimits> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

struct Rig {
    target: Arc<Mutex<Target>>,
    multipath: Multipath,
    chosen: Arc<Mutex<usize>>,
}

impl Rig {
    fn new() -> Rig {
        Rig::over(Arc::default(), true)
    }

    fn over(target: Arc<Mutex<Target>>, named: bool) -> Rig {
        let chosen = Arc::new(Mutex::new(0));
        let path = |nexus| Path {
            host: Arc::new(Leg(Arc::clone(&target), nexus)),
            initiator: named.then(|| format!("naa.{:016x}", initiator(nexus))),
        };
        let paths = (0..STRANGER).map(path).collect();
        let map = Arc::new(Map(Arc::clone(&target), Arc::clone(&chosen)));
        Rig { multipath: Multipath::new(map, paths), target, chosen }
    }

    fn target(&self) -> MutexGuard<'_, Target> {
        self.target.lock().unwrap()
    }

    fn list(host: &dyn ScsiHost, action: u8, kind: u8, list: &[u8]) -> Completion {
        let len = u8::try_from(list.len()).unwrap();
        whole::send(host, &[0x5f, action, kind, 0, 0, 0, 0, 0, len, 0], list, TIMEOUT).unwrap()
    }

    fn out(&self, action: u8, kind: u8, key: u64, new: u64) -> Completion {
        let mut list = [0; 24];
        put_u64(&mut list, 0, key);
        put_u64(&mut list, 8, new);
        Rig::list(&self.multipath, action, kind, &list)
    }

    fn good(&self, action: u8, kind: u8, key: u64, new: u64) {
        let completion = self.out(action, kind, key, new);
        assert_eq!(completion, Completion::default(), "{action}");
    }

    fn stranger(&self, action: u8, kind: u8, key: u64, new: u64) -> Status {
        let mut list = [0; 24];
        put_u64(&mut list, 0, key);
        put_u64(&mut list, 8, new);
        Rig::list(&Leg(Arc::clone(&self.target), STRANGER), action, kind, &list).status
    }

    fn report(&self, action: u8) -> Vec<u8> {
        let cdb = [0x5e, action, 0, 0, 0, 0, 0, 4, 0, 0];
        let (completion, data) = whole::receive(&self.multipath, &cdb, 1024, TIMEOUT).unwrap();
        assert_eq!(completion.status, Status::GOOD, "{completion:x?}");
        data
    }

    fn write(&self, path: usize) -> Completion {
        *self.chosen.lock().unwrap() = path;
        whole::receive(&self.multipath, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0, TIMEOUT).unwrap().0
    }

    fn keys(&self) -> Vec<(usize, u64)> {
        self.target().keys.clone().into_iter().collect()
    }

    fn fail(&self, nexus: usize, completion: Completion, carried_out: bool) {
        self.target().fails.insert(nexus, (completion, carried_out));
    }
}

const EVERYWHERE: [(usize, u64); 3] = [(0, K), (1, K), (2, K)];

#[test]
fn a_registration_is_on_every_path_and_goes_from_every_path() {
    let rig = Rig::new();
    rig.good(0, 0, 0, K);
    assert_eq!(rig.keys(), EVERYWHERE);
    assert_eq!(rig.out(0, 0, 7, 8), conflict());
    rig.good(0, 0, K, 0xa2);
    assert_eq!(rig.keys(), [(0, 0xa2), (1, 0xa2), (2, 0xa2)]);
    rig.good(6, 0, 0, K);
    rig.good(1, WERO, K, 0);
    rig.good(0, 0, K, 0);
    assert_eq!((rig.keys(), rig.target().holder), (vec![], None));
}

#[test]
fn what_fails_on_one_path_holds_on_none() {
    let no_room = check(5, 0x55, 0x04);
    for failing in 0..STRANGER {
        for (before, action) in [(None, 0), (None, 6), (Some(0xa9), 0), (Some(0xa9), 6)] {
            let rig = Rig::new();
            if let Some(key) = before {
                rig.good(0, 0, 0, key);
            }
            let keys = rig.keys();
            rig.fail(failing, no_room.clone(), false);
            assert_eq!(rig.out(action, 0, before.unwrap_or(0), K), no_room);
            assert_eq!(rig.keys(), keys, "{failing} {before:?}");
            rig.good(action, 0, before.unwrap_or(0), K);
            assert_eq!(rig.keys(), EVERYWHERE);
        }
    }
}

#[test]
fn an_unregistration_that_fails_keeps_the_reservation() {
    for failing in 0..STRANGER {
        let rig = Rig::new();
        rig.good(0, 0, 0, K);
        rig.good(1, 1, K, 0);
        let holder = rig.target().holder;
        rig.fail(failing, check(4, 0x44, 0), false);
        assert_eq!(rig.out(0, 0, K, 0), check(4, 0x44, 0));
        assert_eq!((rig.keys(), rig.target().holder), (EVERYWHERE.to_vec(), holder), "{failing}");
    }
}

#[test]
fn a_path_that_is_away_is_registered_when_it_comes_back() {
    let rig = Rig::new();
    rig.target().offline = vec![1];
    rig.good(0, 0, 0, K);
    rig.good(1, WERO, K, 0);
    assert_eq!(rig.keys(), [(0, K), (2, K)]);
    rig.target().offline.clear();
    rig.multipath.refresh_paths();
    assert_eq!(rig.keys(), EVERYWHERE);
    assert_eq!(rig.write(1), Completion::default());
}

#[test]
fn a_path_that_nobody_noticed_is_registered_by_its_first_conflict() {
    let rig = Rig::new();
    rig.target().offline = vec![1];
    rig.good(0, 0, 0, K);
    rig.good(1, WERO, K, 0);
    rig.target().offline.clear();
    assert_eq!(rig.write(1), Completion::default());
    assert_eq!((rig.keys(), rig.target().written), (EVERYWHERE.to_vec(), 1));
}

#[test]
fn a_path_is_not_registered_again_once_the_key_is_gone() {
    let rig = Rig::new();
    rig.good(0, 0, 0, 0xa0);
    rig.target().offline = vec![1];
    // The path that is away keeps an older key.
    rig.good(0, 0, 0xa0, K);
    assert_eq!(rig.stranger(0, 0, 0, 0xb1), Status::GOOD);
    assert_eq!(rig.stranger(4, WERO, 0xb1, K), Status::GOOD);
    assert_eq!(rig.stranger(1, WERO, 0xb1, 0), Status::GOOD);
    rig.target().offline.clear();
    rig.target().attentions.clear();
    rig.multipath.refresh_paths();
    assert_eq!(rig.keys(), [(STRANGER, 0xb1)]);
    for path in 0..STRANGER {
        assert_eq!(rig.write(path), conflict());
    }
    assert_eq!(rig.target().written, 0);
}

#[test]
fn what_is_left_of_a_registration_goes_when_its_path_comes_back() {
    let rig = Rig::new();
    rig.good(0, 0, 0, K);
    rig.target().offline = vec![2];
    rig.good(0, 0, K, 0);
    assert_eq!(rig.keys(), [(2, K)]);
    rig.target().offline.clear();
    rig.multipath.refresh_paths();
    assert_eq!(rig.keys(), []);
}

#[test]
fn a_reservation_stays_with_its_path() {
    let rig = Rig::new();
    rig.target().offline = vec![0];
    rig.good(0, 0, 0, K);
    rig.good(1, 1, K, 0);
    rig.target().offline.clear();
    rig.multipath.refresh_paths();
    assert_eq!(rig.target().holder, Some((1, 1)));
    // Again by the holder's path, or the device would refuse it.
    rig.good(1, 1, K, 0);
    rig.good(2, 1, K, 0);
    assert_eq!(rig.target().holder, None);
    assert!(rig.target().attentions.values().all(VecDeque::is_empty), "of its own doing");
}

#[test]
fn a_reservation_whose_path_is_away_is_taken_over_by_another() {
    let rig = Rig::new();
    rig.good(0, 0, 0, K);
    rig.good(1, 1, K, 0);
    rig.target().offline = vec![0];
    rig.good(1, 1, K, 0);
    assert_eq!(rig.target().holder, Some((1, 1)));
    assert_eq!(rig.keys(), [(1, K), (2, K)]);
    rig.target().offline.clear();
    rig.multipath.refresh_paths();
    assert_eq!(rig.keys(), EVERYWHERE);
    rig.target().offline = vec![1];
    rig.good(2, 1, K, 0);
    assert_eq!(rig.target().holder, None);
}

#[test]
fn a_preemption_happens_once_and_spares_ones_own_paths() {
    let rig = Rig::new();
    assert_eq!(rig.stranger(0, 0, 0, 0xb1), Status::GOOD);
    assert_eq!(rig.stranger(1, 1, 0xb1, 0), Status::GOOD);
    rig.good(0, 0, 0, K);
    assert_eq!(rig.write(2), conflict());
    rig.good(4, 1, K, 0xb1);
    assert_eq!((rig.keys(), rig.target().holder), (EVERYWHERE.to_vec(), Some((0, 1))));
    let preempted = rig.target().seen.iter().filter(|seen| (seen.1, seen.2) == (0x5f, 4)).count();
    assert_eq!(preempted, 1);
    assert_eq!(rig.out(4, 1, K, 0xb1), conflict());
    // One's own key: what the device takes from the other paths comes back.
    rig.good(4, WERO, K, K);
    assert_eq!((rig.keys(), rig.target().holder), (EVERYWHERE.to_vec(), Some((0, WERO))));
    assert!(rig.target().attentions.iter().all(|(n, all)| *n == STRANGER || all.is_empty()));
    rig.good(3, 0, K, 0);
    assert_eq!((rig.keys(), rig.target().holder), (vec![], None));
    assert_eq!(rig.out(1, 1, K, 0), conflict());
}

#[test]
fn one_nexus_is_told_of() {
    let rig = Rig::new();
    assert_eq!(rig.stranger(0, 0, 0, K), Status::GOOD);
    rig.good(0, 0, 0, K);
    rig.good(1, WERO, K, 0);
    // The stranger happens to have the same key.
    let keys = rig.report(0);
    assert_eq!((keys.len(), report::keys(&keys)), (24, vec![K, K]));
    assert_eq!(keys[..8], [0, 0, 0, 1, 0, 0, 0, 16]);
    let status = rig.report(3);
    let all = report::descriptors(&status);
    assert_eq!((status.len(), all.len()), (8 + 2 * 48, 2));
    assert!(all[0].holds_alone() && all[0].is_initiator("naa.50000000000000a0"));
    assert!(all[1].is_initiator("naa.50000000000000a3"));
    assert_eq!(rig.report(2)[2], 0x11, "SIP_C and ATP_C are gone");
    assert_eq!(u64_at(&rig.report(1), 8), K);
    let cdb = [0x5e, 3, 0, 0, 0, 0, 0, 0, 20, 0];
    let (_, cut) = whole::receive(&rig.multipath, &cdb, 64, TIMEOUT).unwrap();
    assert_eq!(cut, status[..20]);
}

#[test]
fn what_several_nexuses_cannot_do_is_refused() {
    let rig = Rig::new();
    assert_eq!(rig.out(7, 0, 0, K), refusal(Sense::invalid_field(1, Some(4))));
    for (flag, bit) in [(0x08, 3), (0x04, 2)] {
        let mut list = [0; 28];
        (list[15], list[20]) = (1, flag);
        let refused = refusal(Sense::invalid_parameter(20, Some(bit)));
        assert_eq!(Rig::list(&rig.multipath, 0, 0, &list), refused);
    }
    assert_eq!(Rig::list(&rig.multipath, 0, 0, &[0; 8]), check(5, 0x1a, 0));
    assert_eq!(rig.keys(), []);
}

#[test]
fn another_process_finds_what_the_last_one_left() {
    let rig = Rig::new();
    rig.target().offline = vec![0];
    rig.good(0, 0, 0, K);
    rig.good(1, 1, K, 0);
    rig.target().offline.clear();
    let next = Rig::over(Arc::clone(&rig.target), true);
    assert_eq!(report::keys(&next.report(0)), [K]);
    next.good(2, 1, K, 0);
    assert_eq!(next.target().holder, None);
    next.multipath.refresh_paths();
    assert_eq!(next.keys(), EVERYWHERE);
}

#[test]
fn without_names_the_record_counts() {
    let rig = Rig::over(Arc::default(), false);
    rig.target().no_full_status = true;
    rig.target().offline = vec![2];
    rig.good(0, 0, 0, K);
    rig.good(1, WERO, K, 0);
    rig.target().offline.clear();
    assert_eq!(rig.write(2), Completion::default());
    assert_eq!(rig.keys(), EVERYWHERE);
    assert_eq!(rig.stranger(0, 0, 0, 0xb1), Status::GOOD);
    assert_eq!(rig.stranger(4, WERO, 0xb1, K), Status::GOOD);
    rig.target().attentions.clear();
    assert_eq!(rig.write(0), conflict());
    assert_eq!(rig.keys(), [(STRANGER, 0xb1)]);
}

#[test]
fn attentions_of_other_paths_come_once_and_late() {
    let rig = Rig::new();
    for path in 0..STRANGER {
        rig.target().attentions.insert(path, VecDeque::from([(0x29, 0x00)]));
    }
    let ready = |rig: &Rig| whole::receive(&rig.multipath, &[0; 6], 0, TIMEOUT).unwrap().0;
    // Found while the device was asked what is registered.
    rig.good(0, 0, 0, K);
    assert_eq!(rig.keys(), EVERYWHERE);
    assert_eq!(ready(&rig), check(6, 0x29, 0));
    assert_eq!(ready(&rig), Completion::default());
}

#[test]
fn an_outcome_that_nobody_knows_is_told_and_looked_after() {
    for carried_out in [false, true] {
        let rig = Rig::new();
        let lost = Completion { host_status: HostStatus::TIME_OUT, ..Completion::default() };
        rig.fail(0, lost.clone(), carried_out);
        assert_eq!(rig.out(6, 0, 0, K), lost);
        rig.multipath.refresh_paths();
        let expected = if carried_out { EVERYWHERE.to_vec() } else { vec![] };
        assert_eq!(rig.keys(), expected);
    }
}

#[test]
fn all_registrants_hold_together() {
    let rig = Rig::new();
    rig.good(0, 0, 0, K);
    rig.good(1, ALL_REGISTRANTS, K, 0);
    for path in 0..STRANGER {
        assert_eq!(rig.write(path), Completion::default());
    }
}

#[test]
fn no_path_is_a_failure_of_the_way() {
    let rig = Rig::new();
    rig.target().offline = vec![0, 1, 2];
    let gone = Completion { host_status: HostStatus::NO_CONNECT, ..Completion::default() };
    assert_eq!(rig.out(0, 0, 0, K), gone);
    let error = rig.multipath.reset_logical_unit().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    rig.target().offline = vec![0, 1];
    rig.multipath.reset_logical_unit().unwrap();
}

#[test]
fn what_several_nexuses_cannot_be_given_is_not_carried() {
    let rig = Rig::new();
    for action in 0..=0x1f {
        assert_eq!(rig.multipath.carries(&[0x5f, action]), action <= 6, "{action}");
    }
    assert!(rig.multipath.carries(&[0x5e, 3]));
}
