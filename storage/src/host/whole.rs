//! Commands whose data is a vector: for those who ask a device something themselves.
#![expect(unsafe_code, reason = "a vector is lent to a command")]

use std::io;
use std::ptr::NonNull;
use std::time::Duration;

use libc::iovec;

use super::{Completion, Data, Request, ScsiHost};
use crate::buffer::DataBuf;

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
    let completion = lend(&mut bytes, |mut buf| {
        let data = if len == 0 { Data::None } else { Data::In(&mut buf) };
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
    lend(&mut bytes, |buf| {
        let data = if buf.is_empty() { Data::None } else { Data::Out(&buf) };
        host.execute(Request { cdb, data, timeout })
    })
}

fn lend<T>(bytes: &mut [u8], then: impl FnOnce(DataBuf) -> T) -> T {
    let mut segment = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: the segment and the bytes outlive the call, during which nobody else has them.
    then(unsafe { DataBuf::from_raw(NonNull::from(&mut segment), 1) })
}
