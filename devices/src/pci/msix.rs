//! MSI-X: the capability, the table and the pending bits of one function, and their delivery.
//!
//! Follows PCI 3.0, 6.8.2 (registers) and 6.8.3 (masking and pending). It owns the vectors of
//! the platform, and knows neither what raises them nor in which region the table lies.
//!
//! Delivery is lock-free while a vector is open: a sender counts itself into the vector's
//! gate and writes the eventfd. Whoever masks a vector closes the gate and waits until the
//! senders have left, so that after the guest's write no message is sent, and none is lost: a
//! sender that finds the gate closed goes on under the lock, where it sees the pending bit.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bus::read_bytes;
use crate::platform::{MsiMessage, MsiVector, Platform};

/// The capability's ID.
pub const CAPABILITY_ID: u8 = 0x11;
/// Bytes of a table entry.
pub const ENTRY_SIZE: u64 = 16;
/// The largest table.
pub const MAX_VECTORS: u16 = 2048;
/// Where Message Control lies in the capability.
pub const MESSAGE_CONTROL: u16 = 2;

const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_FUNCTION_MASK: u16 = 1 << 14;
const ENTRY_MASKED: u32 = 1;

/// The MSI-X vectors of one function.
pub struct Msix {
    vectors: Vec<Vector>,
    /// A copy of the enable bit, for senders.
    enabled: AtomicBool,
    table: Mutex<Table>,
}

/// A vector of the platform, given back when it is dropped.
struct Vector {
    platform: Arc<dyn Platform>,
    msi: MsiVector,
    gate: Gate,
}

impl Vector {
    fn new(platform: &Arc<dyn Platform>) -> io::Result<Vector> {
        let msi = platform.allocate_msi()?;
        Ok(Vector { platform: Arc::clone(platform), msi, gate: Gate::closed() })
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        self.platform.free_msi(&self.msi);
    }
}

struct Table {
    control: u16,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    message: MsiMessage,
    control: u32,
    pending: bool,
    /// The message that the platform has.
    routed: Option<MsiMessage>,
}

impl Msix {
    /// Reserves `vectors` vectors of `platform`, all masked.
    ///
    /// # Errors
    /// When the platform has no more, or `vectors` is not in 1 to [`MAX_VECTORS`].
    pub fn new(platform: &Arc<dyn Platform>, vectors: u16) -> io::Result<Msix> {
        if !(1..=MAX_VECTORS).contains(&vectors) {
            let what = format!("{vectors} MSI-X vectors: not in 1 to {MAX_VECTORS}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let vectors =
            (0..vectors).map(|_| Vector::new(platform)).collect::<io::Result<Vec<_>>>()?;
        let table = Table { control: 0, entries: vec![Entry::reset(); vectors.len()] };
        Ok(Msix { vectors, enabled: AtomicBool::new(false), table: Mutex::new(table) })
    }

    /// The number of vectors.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        // `new` admits no more than `MAX_VECTORS`.
        u16::try_from(self.vectors.len()).unwrap_or(MAX_VECTORS)
    }

    /// The capability's registers after its header, and the mask of their writable bits. The
    /// table lies at `table` bytes into the region `bar`, the pending bits at `pba`, both
    /// multiples of 8.
    #[must_use]
    pub fn capability(&self, bar: u8, table: u32, pba: u32) -> ([u8; 10], [u8; 2]) {
        let mut body = [0; 10];
        let last_entry = self.vectors().saturating_sub(1);
        let words = [table | u32::from(bar), pba | u32::from(bar)];
        let bytes = last_entry.to_le_bytes().into_iter();
        let bytes = bytes.chain(words.into_iter().flat_map(u32::to_le_bytes));
        body.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        (body, (CONTROL_ENABLE | CONTROL_FUNCTION_MASK).to_le_bytes())
    }

    /// Takes the value of Message Control: enables, and masks the whole function.
    pub fn set_control(&self, control: u16) {
        let mut table = self.lock();
        table.control = control;
        let enabled = control & CONTROL_ENABLE != 0;
        self.enabled.store(enabled, Ordering::Release);
        for (vector, entry) in self.vectors.iter().zip(&mut table.entries) {
            entry.pending &= enabled;
            settle(vector, entry, control);
        }
    }

    /// Whether the guest enabled MSI-X.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Sends vector `index`'s message, or remembers it in the pending bit while the vector is
    /// masked. An unknown vector (`NO_VECTOR`, for one) and disabled MSI-X are silent.
    pub fn deliver(&self, index: u16) {
        let Some(vector) = self.vectors.get(usize::from(index)) else { return };
        if !vector.gate.pass(|| signal(vector)) {
            self.deliver_masked(index, vector);
        }
    }

    /// Reads `data.len()` bytes at `offset` of the table.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let table = self.lock();
        let bytes = table.entry(offset).map(|entry| entry.to_bytes()).unwrap_or_default();
        read_bytes(&bytes, offset % ENTRY_SIZE, data);
    }

    /// Writes `data` at `offset` of the table. A write that crosses into another entry is cut.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        let Some(index) = entry_index(offset) else { return };
        let mut table = self.lock();
        let control = table.control;
        let Some((vector, entry)) = self.vectors.get(index).zip(table.entries.get_mut(index))
        else {
            return;
        };
        entry.write(offset % ENTRY_SIZE, data);
        settle(vector, entry, control);
    }

    /// Reads `data.len()` bytes at `offset` of the pending bit array.
    pub fn read_pba(&self, offset: u64, data: &mut [u8]) {
        let table = self.lock();
        let bits: Vec<u8> = table.entries.chunks(8).map(pending_bits).collect();
        read_bytes(&bits, offset, data);
    }

    #[cold]
    fn deliver_masked(&self, index: u16, vector: &Vector) {
        let mut table = self.lock();
        if vector.gate.pass(|| signal(vector)) || table.control & CONTROL_ENABLE == 0 {
            return;
        }
        if let Some(entry) = table.entries.get_mut(usize::from(index)) {
            entry.pending = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Msix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Msix")
            .field("vectors", &self.vectors.len())
            .field("enabled", &self.enabled())
            .finish_non_exhaustive()
    }
}

impl Table {
    fn entry(&self, offset: u64) -> Option<&Entry> {
        self.entries.get(entry_index(offset)?)
    }
}

impl Entry {
    /// PCI 3.0, 6.8.2: masked after reset.
    fn reset() -> Entry {
        let message = MsiMessage::default();
        Entry { message, control: ENTRY_MASKED, pending: false, routed: None }
    }

    fn open(&self, control: u16) -> bool {
        control & (CONTROL_ENABLE | CONTROL_FUNCTION_MASK) == CONTROL_ENABLE
            && self.control & ENTRY_MASKED == 0
    }

    fn to_bytes(self) -> [u8; 16] {
        let high = u128::from(self.control) << 32 | u128::from(self.message.data);
        (high << 64 | u128::from(self.message.address)).to_le_bytes()
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut bytes = self.to_bytes();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        bytes.iter_mut().skip(from).zip(data).for_each(|(to, from)| *to = *from);
        let [address @ .., d0, d1, d2, d3, c0, c1, c2, c3] = bytes;
        self.message.address = u64::from_le_bytes(address);
        self.message.data = u32::from_le_bytes([d0, d1, d2, d3]);
        self.control = u32::from_le_bytes([c0, c1, c2, c3]) & ENTRY_MASKED;
    }
}

/// Lets senders pass while it is open; closing waits until none is inside.
struct Gate(AtomicU32);

impl Gate {
    const CLOSED: u32 = 1 << 31;

    fn closed() -> Gate {
        Gate(AtomicU32::new(Gate::CLOSED))
    }

    /// Runs `send` inside the gate, unless it is closed. Returns whether it ran.
    fn pass(&self, send: impl FnOnce()) -> bool {
        let open = self.0.fetch_add(1, Ordering::SeqCst) & Gate::CLOSED == 0;
        if open {
            send();
        }
        self.0.fetch_sub(1, Ordering::SeqCst);
        open
    }

    fn open(&self) {
        self.0.fetch_and(!Gate::CLOSED, Ordering::SeqCst);
    }

    fn close(&self) {
        self.0.fetch_or(Gate::CLOSED, Ordering::SeqCst);
        while self.0.load(Ordering::SeqCst) != Gate::CLOSED {
            std::thread::yield_now();
        }
    }
}

/// Makes what is delivered agree with the registers.
fn settle(vector: &Vector, entry: &mut Entry, control: u16) {
    if !entry.open(control) || !route(vector, entry) {
        vector.gate.close();
        return;
    }
    vector.gate.open();
    if std::mem::take(&mut entry.pending) {
        signal(vector);
    }
}

/// Gives the platform the entry's message. It stays with the platform while the vector is
/// masked: unmasking, which guests do often, then costs nothing, and a signal that the host
/// delivers late is not lost.
fn route(vector: &Vector, entry: &mut Entry) -> bool {
    if entry.routed == Some(entry.message) {
        return true;
    }
    match vector.platform.route_msi(vector.msi.id, Some(entry.message)) {
        Ok(()) => entry.routed = Some(entry.message),
        Err(error) => log::warn!("MSI-X vector {}: no route: {error}", vector.msi.id),
    }
    entry.routed == Some(entry.message)
}

fn signal(vector: &Vector) {
    if let Err(error) = vector.msi.event.write(1) {
        log::debug!("MSI-X vector {}: {error}", vector.msi.id);
    }
}

fn entry_index(offset: u64) -> Option<usize> {
    usize::try_from(offset / ENTRY_SIZE).ok()
}

fn pending_bits(entries: &[Entry]) -> u8 {
    entries.iter().rev().fold(0, |bits, entry| bits << 1 | u8::from(entry.pending))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;
    use std::time::{Duration, Instant};
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    type Routes = Mutex<Vec<(u32, Option<MsiMessage>)>>;

    #[derive(Default)]
    struct Fake {
        events: Mutex<Vec<EventFd>>,
        /// No more vectors than this; 0 for any number.
        limit: usize,
        freed: Mutex<Vec<u32>>,
        routes: Routes,
        refuse: AtomicBool,
    }

    impl Fake {
        fn fired(&self, id: usize) -> u64 {
            self.events.lock().unwrap()[id].read().unwrap_or(0)
        }

        fn routed(&self) -> Vec<(u32, Option<MsiMessage>)> {
            std::mem::take(&mut self.routes.lock().unwrap())
        }
    }

    impl Platform for Fake {
        fn allocate_msi(&self) -> io::Result<MsiVector> {
            let event = EventFd::new(EFD_NONBLOCK)?;
            let mut events = self.events.lock().unwrap();
            if self.limit > 0 && events.len() == self.limit {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            events.push(event.try_clone()?);
            Ok(MsiVector { id: u32::try_from(events.len() - 1).unwrap(), event })
        }

        fn free_msi(&self, vector: &MsiVector) {
            self.freed.lock().unwrap().push(vector.id);
        }

        fn route_msi(&self, id: u32, message: Option<MsiMessage>) -> io::Result<()> {
            if self.refuse.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            self.routes.lock().unwrap().push((id, message));
            Ok(())
        }

        fn add_doorbell(&self, _: u64, _: Option<u32>, _: &EventFd) -> io::Result<()> {
            unreachable!("MSI-X rings no doorbells")
        }

        fn remove_doorbell(&self, _: u64, _: Option<u32>, _: &EventFd) -> io::Result<()> {
            unreachable!("MSI-X rings no doorbells")
        }
    }

    const MESSAGE: MsiMessage = MsiMessage { address: 0xfee0_1000, data: 0x41 };

    fn write(msix: &Msix, offset: u64, value: u32) {
        msix.write_table(offset, &value.to_le_bytes());
    }

    fn mask(msix: &Msix, index: u64, masked: bool) {
        write(msix, index * ENTRY_SIZE + 12, masked.into());
    }

    fn set(msix: &Msix, index: u64, message: MsiMessage) {
        msix.write_table(index * ENTRY_SIZE, &message.address.to_le_bytes());
        write(msix, index * ENTRY_SIZE + 8, message.data);
    }

    fn pending(msix: &Msix) -> u64 {
        let mut bits = [0; 8];
        msix.read_pba(0, &mut bits);
        u64::from_le_bytes(bits)
    }

    fn as_platform(fake: &Arc<Fake>) -> Arc<dyn Platform> {
        Arc::clone(fake) as Arc<dyn Platform>
    }

    /// Three vectors, enabled, vector 1 with a message and unmasked.
    fn msix() -> (Arc<Fake>, Msix) {
        let fake = Arc::new(Fake::default());
        let msix = Msix::new(&as_platform(&fake), 3).unwrap();
        msix.set_control(CONTROL_ENABLE);
        set(&msix, 1, MESSAGE);
        mask(&msix, 1, false);
        (fake, msix)
    }

    #[test]
    fn an_open_vector_fires_with_its_message() {
        let (fake, msix) = msix();
        msix.deliver(1);
        assert_eq!(fake.routed(), [(1, Some(MESSAGE))]);
        assert_eq!((fake.fired(1), pending(&msix)), (1, 0));
    }

    #[test]
    fn a_masked_vector_is_pending_and_fires_once_on_unmask() {
        let (fake, msix) = msix();
        mask(&msix, 1, true);
        msix.deliver(1);
        msix.deliver(1);
        assert_eq!((fake.fired(1), pending(&msix)), (0, 0b10));
        mask(&msix, 1, false);
        assert_eq!((fake.fired(1), pending(&msix)), (1, 0));
    }

    #[test]
    fn the_function_mask_masks_every_vector() {
        let (fake, msix) = msix();
        msix.set_control(CONTROL_ENABLE | CONTROL_FUNCTION_MASK);
        msix.deliver(1);
        msix.deliver(2);
        assert_eq!((fake.fired(1), pending(&msix)), (0, 0b110));
        msix.set_control(CONTROL_ENABLE);
        assert_eq!((fake.fired(1), pending(&msix)), (1, 0b100), "vector 2 is masked itself");
    }

    #[test]
    fn nothing_is_delivered_or_pending_while_msix_is_disabled() {
        let (fake, msix) = msix();
        mask(&msix, 1, true);
        msix.deliver(1);
        msix.set_control(0);
        assert!(!msix.enabled());
        msix.deliver(1);
        assert_eq!(pending(&msix), 0);
        msix.set_control(CONTROL_ENABLE);
        mask(&msix, 1, false);
        assert_eq!(fake.fired(1), 0);
    }

    #[test]
    fn no_vector_and_unknown_vectors_are_silent() {
        let (fake, msix) = msix();
        for index in [3, 0x7ff, 0xffff] {
            msix.deliver(index);
        }
        assert_eq!((fake.fired(0), fake.fired(1), fake.fired(2)), (0, 0, 0));
        assert_eq!(pending(&msix), 0);
    }

    #[test]
    fn unmasking_with_the_same_message_costs_no_route() {
        let (fake, msix) = msix();
        fake.routed();
        mask(&msix, 1, true);
        mask(&msix, 1, false);
        assert_eq!(fake.routed(), []);
        let moved = MsiMessage { data: 0x42, ..MESSAGE };
        mask(&msix, 1, true);
        set(&msix, 1, moved);
        mask(&msix, 1, false);
        assert_eq!(fake.routed(), [(1, Some(moved))]);
    }

    #[test]
    fn a_refused_route_keeps_the_interrupt_pending() {
        let (fake, msix) = msix();
        mask(&msix, 1, true);
        set(&msix, 1, MsiMessage { data: 0x42, ..MESSAGE });
        fake.refuse.store(true, Ordering::Relaxed);
        mask(&msix, 1, false);
        msix.deliver(1);
        assert_eq!((fake.fired(1), pending(&msix)), (0, 0b10));
        fake.refuse.store(false, Ordering::Relaxed);
        mask(&msix, 1, false);
        assert_eq!(fake.fired(1), 1);
    }

    #[test]
    fn the_table_reads_back_at_every_width() {
        let (_, msix) = msix();
        let mut entry = [0; 16];
        for (offset, chunk) in (16..).step_by(4).zip(entry.chunks_mut(4)) {
            msix.read_table(offset, chunk);
        }
        assert_eq!(entry[..12], [0x00, 0x10, 0xe0, 0xfe, 0, 0, 0, 0, 0x41, 0, 0, 0]);
        let mut wide = [0; 8];
        msix.read_table(16, &mut wide);
        assert_eq!(u64::from_le_bytes(wide), MESSAGE.address);
        msix.read_table(48, &mut wide);
        assert_eq!(wide, [0; 8], "past the table");
        msix.write_table(48, &[0xff; 8]);
        msix.write_table(u64::MAX, &[0xff; 8]);
    }

    #[test]
    fn vectors_go_back_to_the_platform() {
        let (fake, msix) = msix();
        drop(msix);
        assert_eq!(*fake.freed.lock().unwrap(), [0, 1, 2]);
    }

    #[test]
    fn what_was_reserved_goes_back_when_the_rest_cannot_be() {
        let fake = Arc::new(Fake { limit: 2, ..Fake::default() });
        assert!(Msix::new(&as_platform(&fake), 3).is_err());
        assert_eq!(*fake.freed.lock().unwrap(), [0, 1]);
    }

    /// One interrupt a round, from another thread, while the guest masks and unmasks.
    #[test]
    fn each_interrupt_arrives_once_and_never_while_masked() {
        const ROUNDS: u64 = 5000;
        let (fake, msix) = msix();
        let round = AtomicU64::new(0);
        let deadline = Instant::now() + Duration::from_secs(20);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for next in 1..=ROUNDS {
                    while round.load(Ordering::SeqCst) < next && Instant::now() < deadline {
                        std::hint::spin_loop();
                    }
                    msix.deliver(1);
                }
            });
            for next in 1..=ROUNDS {
                round.store(next, Ordering::SeqCst);
                mask(&msix, 1, true);
                let mut fired = fake.fired(1);
                (0..next % 64).for_each(|_| std::hint::spin_loop());
                assert_eq!(fake.fired(1), 0, "fired while masked");
                mask(&msix, 1, false);
                while fired == 0 && Instant::now() < deadline {
                    fired = fake.fired(1);
                }
                assert_eq!(fired, 1, "round {next}");
            }
        });
        assert_eq!((fake.fired(1), pending(&msix)), (0, 0));
    }
}
