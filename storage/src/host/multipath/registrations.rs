//! What is known of an initiator's registrations, path by path, and how that is learned from the
//! device.

use std::time::Duration;

use super::report::{self, Descriptor};
use super::{Multipath, Path, Reservations};
use crate::host::whole;

/// The key of an initiator on each of its paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registrations {
    /// The key that it has registered last.
    key: Option<u64>,
    /// The key that the device has for each path.
    on_paths: Vec<Option<u64>>,
    /// The path by which it has reserved.
    holder: Option<usize>,
    /// Activate persist through power loss, as it said last.
    pub(super) aptpl: bool,
    /// The device knows better.
    in_doubt: bool,
}

impl Registrations {
    /// Of `count` paths nothing is known.
    pub(super) fn unknown(count: usize) -> Registrations {
        let on_paths = vec![None; count];
        Registrations { key: None, on_paths, holder: None, aptpl: false, in_doubt: true }
    }

    /// There are `count` other paths.
    pub(super) fn forget(&mut self, count: usize) {
        self.on_paths = vec![None; count];
        self.holder = None;
        self.in_doubt = true;
    }

    pub(super) fn doubt(&mut self) {
        self.in_doubt = true;
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    pub(super) fn key(&self) -> Option<u64> {
        self.key
    }

    pub(super) fn set_key(&mut self, key: Option<u64>) {
        self.key = key;
        if key.is_none() {
            self.holder = None;
        }
    }

    pub(super) fn on(&self, path: usize) -> Option<u64> {
        self.on_paths.get(path).copied().flatten()
    }

    pub(super) fn set_on(&mut self, path: usize, key: Option<u64>) {
        if let Some(on) = self.on_paths.get_mut(path) {
            *on = key;
        }
    }

    /// Whether a path has the initiator's key.
    pub(super) fn is_on(&self, path: usize) -> bool {
        self.key.is_some() && self.on(path) == self.key
    }

    /// Whether a path has no key, or another one.
    pub(super) fn is_partial(&self) -> bool {
        self.on_paths.iter().any(|on| *on != self.key)
    }

    pub(super) fn holder(&self) -> Option<usize> {
        self.holder
    }

    pub(super) fn set_holder(&mut self, holder: Option<usize>) {
        self.holder = holder;
    }

    /// The paths, those with the key first, and of those the holder.
    pub(super) fn by_preference(&self) -> Vec<usize> {
        let mut paths: Vec<usize> = (0..self.on_paths.len()).collect();
        paths.sort_by_key(|&path| (self.holder != Some(path), !self.is_on(path)));
        paths
    }

    /// Takes what the device says: for each path, the descriptor of its nexus.
    fn take(&mut self, found: &[Option<Descriptor>]) {
        let mut keys = found.iter().flatten().map(|descriptor| descriptor.key);
        // A key that was registered last stands as long as any path has it. When it is gone, one
        // that is older must not come back: somebody has preempted it.
        self.key = match self.key {
            Some(key) => keys.any(|found| found == key).then_some(key),
            None => keys.next(),
        };
        self.on_paths = found.iter().map(|found| found.as_ref().map(|it| it.key)).collect();
        let holds =
            |found: &Option<Descriptor>| found.as_ref().is_some_and(Descriptor::holds_alone);
        self.holder = found.iter().position(holds);
        self.in_doubt = false;
    }
}

impl Multipath {
    /// Asks the device what is registered, as far as it tells. Where it does not tell whose a
    /// registration is, what was recorded stands as long as the key does.
    pub(super) fn learn(&self, reservations: &mut Reservations, timeout: Duration) {
        let Ok(Ok(status)) = self.read_all(reservations, report::FULL_STATUS, timeout) else {
            self.learn_from_keys(reservations, timeout);
            return;
        };
        let descriptors = report::descriptors(&status);
        let own: Vec<_> = reservations.paths.iter().map(|path| Nexus::of(path, timeout)).collect();
        if own.iter().all(Nexus::is_unknown) {
            self.learn_from_keys(reservations, timeout);
            return;
        }
        let found = |nexus: &Nexus| descriptors.iter().find(|it| nexus.is(it)).cloned();
        let found: Vec<_> = own.iter().map(found).collect();
        reservations.known.take(&found);
    }

    fn learn_from_keys(&self, reservations: &mut Reservations, timeout: Duration) {
        let Ok(Ok(keys)) = self.read_all(reservations, report::KEYS, timeout) else { return };
        let known = &mut reservations.known;
        known.in_doubt = false;
        let Some(key) = known.key() else { return };
        if !report::keys(&keys).contains(&key) {
            known.set_key(None);
        }
        // Whose the key is that stands, nobody knows: all paths are to be registered again.
        let count = known.on_paths.len();
        known.on_paths = vec![None; count];
    }
}

/// What tells a path's registration from others.
struct Nexus<'a> {
    initiator: Option<&'a str>,
    /// RELATIVE TARGET PORT IDENTIFIER
    port: Option<u16>,
}

impl Nexus<'_> {
    fn of(path: &Path, timeout: Duration) -> Nexus<'_> {
        let cdb = [0x12, 0x01, 0x83, 0x04, 0x00, 0];
        let page = whole::receive(&*path.host, &cdb, 1024, timeout);
        let port = page.ok().and_then(|(_, page)| report::relative_port(&page));
        Nexus { initiator: path.initiator.as_deref(), port }
    }

    /// The port alone is not enough: other hosts use it too.
    fn is_unknown(&self) -> bool {
        self.initiator.is_none() || self.port.is_none()
    }

    fn is(&self, descriptor: &Descriptor) -> bool {
        self.port == Some(descriptor.port)
            && self.initiator.is_some_and(|name| descriptor.is_initiator(name))
    }
}
