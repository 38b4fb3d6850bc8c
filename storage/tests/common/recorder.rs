//! A medium with a volatile cache: it keeps what was written apart from what was flushed, and at
//! a loss of power it may lose any part of what was not.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use storage::backend::{Backend, Geometry, Provisioning};
use storage::buffer::DataBuf;

/// What a write put into one block.
type BlockWrite = (usize, Vec<u8>);

#[derive(Debug)]
pub struct Record {
    /// What reads see.
    current: Vec<u8>,
    /// What survives whatever happens.
    stable: Vec<u8>,
    /// Block writes since the last flush, in order.
    pending: Vec<BlockWrite>,
    /// The next flush fails, and what it was to make stable is forgotten.
    pub flush_fails: bool,
}

impl Record {
    /// What a loss of power leaves, if `survives` says of each block write that was not flushed
    /// whether it reached the medium.
    pub fn power_loss(&self, mut survives: impl FnMut() -> bool) -> Vec<u8> {
        let mut medium = self.stable.clone();
        for write in self.pending.iter().filter(|_| survives()) {
            put(&mut medium, write);
        }
        medium
    }
}

fn put(medium: &mut [u8], (at, bytes): &BlockWrite) {
    medium[*at..*at + bytes.len()].copy_from_slice(bytes);
}

/// The medium, while there is power.
#[derive(Debug)]
pub struct Recorder {
    geometry: Geometry,
    record: Arc<Mutex<Record>>,
}

impl Recorder {
    pub fn new(geometry: Geometry) -> (Recorder, Arc<Mutex<Record>>) {
        let len = usize::try_from(geometry.blocks).unwrap() * geometry.block_size as usize;
        let record = Arc::new(Mutex::new(Record {
            current: vec![0; len],
            stable: vec![0; len],
            pending: Vec::new(),
            flush_fails: false,
        }));
        (Recorder { geometry, record: Arc::clone(&record) }, record)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap()
    }

    /// Block by block, since no more is written at once.
    fn store(&self, offset: u64, bytes: &[u8]) {
        let block = self.geometry.block_size as usize;
        for (index, bytes) in bytes.chunks(block).enumerate() {
            let write = (usize::try_from(offset).unwrap() + index * block, bytes.to_vec());
            let mut record = self.record();
            put(&mut record.current, &write);
            record.pending.push(write);
        }
    }
}

impl Backend for Recorder {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, offset: u64, data: &mut DataBuf) -> io::Result<()> {
        let moved = data.write(&self.record().current[usize::try_from(offset).unwrap()..]);
        data.advance(moved);
        Ok(())
    }

    fn write(&self, offset: u64, data: &mut DataBuf) -> io::Result<()> {
        let mut bytes = vec![0; data.len()];
        let moved = data.read(&mut bytes);
        self.store(offset, &bytes);
        data.advance(moved);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut record = self.record();
        let pending = std::mem::take(&mut record.pending);
        if std::mem::take(&mut record.flush_fails) {
            drop(record);
            // Time for others to flush, and not to hear of it.
            thread::sleep(Duration::from_millis(1));
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        pending.iter().for_each(|write| put(&mut record.stable, write));
        Ok(())
    }

    fn provisioning(&self) -> Provisioning {
        let granularity = Some(self.geometry.block_size);
        Provisioning { unmap_granularity: granularity, unmapped_reads_zero: true }
    }

    fn unmap(&self, offset: u64, len: u64) -> io::Result<()> {
        self.zero(offset, len, true)
    }

    fn zero(&self, offset: u64, len: u64, _may_unmap: bool) -> io::Result<()> {
        self.store(offset, &vec![0; usize::try_from(len).unwrap()]);
        Ok(())
    }

    fn raw_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
