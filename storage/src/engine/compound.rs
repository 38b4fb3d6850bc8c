//! What takes more than one call of a backend: UNMAP, WRITE SAME and VERIFY, in pieces.
//!
//! A piece is short, because an aborted task stops between two of them, and it ends at a multiple
//! of its step, so that none divides what the host manages as a whole.

use std::io;

use super::outcome::Failure;
use super::scratch::{PIECE, Scratch};
use super::{ByteRange, Compare};
use crate::backend::Medium;
use crate::buffer::DataBuf;
use crate::task::Task;

/// As much as is unmapped, or zeroed by the host, at a time, in bytes.
const LONG_PIECE: u64 = 16 << 20;

/// Gives `ranges` back to the host.
pub(super) fn unmap(task: &mut Task, medium: &Medium, ranges: &[ByteRange]) -> Result<(), Failure> {
    let backend = medium.backend();
    let granularity: u64 = backend.provisioning().unmap_granularity.unwrap_or(1).max(1).into();
    let step = (LONG_PIECE / granularity).max(1) * granularity;
    ranges.iter().try_for_each(|&range| {
        in_pieces(task, range, step, |_, piece| {
            write_failure(piece, backend.unmap(piece.offset, piece.len))
        })
    })
}

/// Stores data-out, a block of `block_size` bytes or nothing for zeros, all over `range`.
pub(super) fn write_same(
    task: &mut Task,
    medium: &Medium,
    range: ByteRange,
    block_size: u32,
    may_unmap: bool,
) -> Result<(), Failure> {
    let block = take_block(&mut task.data_out, block_size);
    if block.iter().any(|&byte| byte != 0) {
        return write_pattern(task, medium, range, &block);
    }
    in_pieces(task, range, LONG_PIECE, |task, piece| {
        match medium.backend().zero(piece.offset, piece.len, may_unmap) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                write_pattern(task, medium, piece, &block)
            }
            result => write_failure(piece, result),
        }
    })
}

fn write_pattern(
    task: &mut Task,
    medium: &Medium,
    range: ByteRange,
    block: &[u8],
) -> Result<(), Failure> {
    let mut scratch = Scratch::new(range.len);
    scratch.repeat(block);
    in_pieces(task, range, PIECE, |_, piece| {
        scratch.lend(piece.len, |buf| {
            let result = medium.backend().write(piece.offset, buf);
            result.map_err(|error| Failure::Write { error, at: reached(piece, buf) })
        })
    })
}

/// Reads `range` and compares it.
pub(super) fn verify(
    task: &mut Task,
    medium: &Medium,
    range: ByteRange,
    block_size: u32,
    compare: Compare,
) -> Result<(), Failure> {
    let mut found = Scratch::new(range.len);
    let mut expected = Scratch::new(if compare == Compare::Nothing { 0 } else { range.len });
    if compare == Compare::RepeatedBlock {
        expected.repeat(&take_block(&mut task.data_out, block_size));
    }
    in_pieces(task, range, PIECE, |task, piece| {
        found.lend(piece.len, |buf| {
            let result = medium.backend().read(piece.offset, buf);
            result.map_err(|error| Failure::Read { error, at: reached(piece, buf) })
        })?;
        if compare == Compare::DataOut {
            let taken = task.data_out.read(expected.first_mut(piece.len));
            task.data_out.advance(taken);
        }
        let (found, expected) = (found.first(piece.len), expected.first(piece.len));
        if compare == Compare::Nothing || found == expected {
            return Ok(());
        }
        let same = found.iter().zip(expected).take_while(|(found, expected)| found == expected);
        Err(Failure::Miscompare { at: piece.offset + same.count() as u64 })
    })
}

/// Takes one block from `data_out`: zeros, where nothing is left.
fn take_block(data_out: &mut DataBuf, block_size: u32) -> Vec<u8> {
    let mut block = vec![0; usize::try_from(block_size).unwrap_or(0)];
    let taken = data_out.read(&mut block);
    data_out.advance(taken);
    block
}

/// Does `range` in pieces that end at multiples of `step`, and stops at the first failure, or when
/// `task` is aborted.
fn in_pieces(
    task: &mut Task,
    range: ByteRange,
    step: u64,
    mut piece: impl FnMut(&mut Task, ByteRange) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let end = range.offset.saturating_add(range.len);
    let mut offset = range.offset;
    while offset < end {
        let next = (offset / step).saturating_add(1).saturating_mul(step).min(end);
        if task.is_aborted() {
            return Err(Failure::Aborted);
        }
        piece(task, ByteRange { offset, len: next - offset })?;
        offset = next;
    }
    Ok(())
}

fn write_failure(piece: ByteRange, result: io::Result<()>) -> Result<(), Failure> {
    result.map_err(|error| Failure::Write { error, at: piece.offset })
}

/// Where on the medium a transfer of `piece` stopped, of which `buf` is left.
fn reached(piece: ByteRange, buf: &DataBuf) -> u64 {
    piece.offset + piece.len.saturating_sub(buf.len() as u64)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::scsi::cdb::Cdb;
    use crate::task::{Answer, ReplySink, Response, Ticket};

    struct Nobody;

    impl ReplySink for Nobody {
        fn complete(&self, _: Answer) {}
    }

    /// Runs `test` with a task, and ends that.
    fn with_task(test: impl FnOnce(&mut Task)) {
        let ticket = Ticket::new(Arc::new(Nobody));
        let mut task = Task::new(ticket, Cdb::new(&[]), DataBuf::empty(), DataBuf::empty());
        test(&mut task);
        drop(task.answer(Response::good(0)));
    }

    proptest! {
        #[test]
        fn pieces_cover_the_range_and_end_at_multiples(
            offset in 0u64..5000, len in 0u64..5000, step in 1u64..600,
        ) {
            with_task(|task| {
                let (mut at, mut count) = (offset, 0);
                let done = in_pieces(task, ByteRange { offset, len }, step, |_, piece| {
                    assert_eq!(piece.offset, at);
                    assert!(piece.len > 0 && piece.len <= step);
                    at += piece.len;
                    assert!(at.is_multiple_of(step) || at == offset + len);
                    count += 1;
                    Ok(())
                });
                assert!(done.is_ok());
                assert_eq!(at, offset + len);
                assert!(count <= len / step + 2);
            });
        }
    }

    #[test]
    fn an_aborted_task_stops_before_the_next_piece() {
        with_task(|task| {
            let mut count = 0;
            let range = ByteRange { offset: 0, len: 100 };
            let stopped = in_pieces(task, range, 10, |task, _| {
                count += 1;
                if count == 3 {
                    task.abort_flag().set();
                }
                Ok(())
            });
            assert!(matches!(stopped, Err(Failure::Aborted)));
            assert_eq!(count, 3);
        });
    }
}
