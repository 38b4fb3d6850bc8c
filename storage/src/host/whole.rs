//! Commands whose data is a vector: for those who ask a device something themselves.

use std::io;
use std::time::Duration;

use super::{Completion, Data, Request, ScsiHost};
use crate::buffer;

/// Sends a command and takes up to `len` bytes of data, which are cut where the device ended.
///
/// # Errors
/// The host's own.
pub fn receive(
    host: &(impl ScsiHost + ?Sized),
    cdb: &[u8],
    len: usize,
    timeout: Duration,
) -> io::Result<(Completion, Vec<u8>)> {
    let mut bytes = vec![0; len];
    let completion = buffer::lend(&mut bytes, |buf| {
        let data = if len == 0 { Data::None } else { Data::In(buf) };
        host.execute(Request { cdb, data, timeout })
    })?;
    let left = usize::try_from(completion.resid).unwrap_or(0);
    bytes.truncate(len.saturating_sub(left));
    Ok((completion, bytes))
}

/// Sends a command with `bytes` as its data.
///
/// # Errors
/// The host's own.
pub fn send(
    host: &(impl ScsiHost + ?Sized),
    cdb: &[u8],
    bytes: &[u8],
    timeout: Duration,
) -> io::Result<Completion> {
    let mut bytes = bytes.to_vec();
    buffer::lend(&mut bytes, |buf| {
        let data = if buf.is_empty() { Data::None } else { Data::Out(buf) };
        host.execute(Request { cdb, data, timeout })
    })
}
