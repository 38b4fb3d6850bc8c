//! What every backend has to do, and one random trace on all of them.
#![expect(unsafe_code, reason = "backends borrow the tests' buffers")]

mod common;

use std::io::{self, ErrorKind};

use common::host::{Subject, subjects};
use proptest::prelude::*;
use storage::backend::Backend;
use storage::testing::OwnedBuf;

const SIZE: u64 = 8 << 20;

/// Bytes that tell where they are.
fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at / 64 + at + seed) % 251).unwrap()).collect()
}

fn write(backend: &dyn Backend, offset: u64, mut memory: OwnedBuf) -> io::Result<()> {
    // SAFETY: `memory` is not used before the backend returns.
    let mut data = unsafe { memory.lend() };
    let result = backend.write(offset, &mut data);
    assert!(result.is_err() || data.is_empty(), "what was written is advanced past");
    result
}

/// What was read, the number of bytes before the end or an error, and the latter.
fn read_into(
    backend: &dyn Backend,
    offset: u64,
    mut memory: OwnedBuf,
) -> (Vec<u8>, usize, io::Result<()>) {
    // SAFETY: `memory` is not used before the backend returns.
    let mut data = unsafe { memory.lend() };
    let len = data.len();
    let result = backend.read(offset, &mut data);
    (memory.bytes(), len - data.len(), result)
}

fn read(backend: &dyn Backend, offset: u64, len: usize) -> Vec<u8> {
    let (bytes, moved, result) = read_into(backend, offset, OwnedBuf::zeroed(&[len]));
    result.unwrap();
    assert_eq!(moved, len);
    bytes
}

fn block_of(backend: &dyn Backend) -> usize {
    usize::try_from(backend.geometry().block_size).unwrap()
}

fn each(test: impl Fn(&str, &dyn Backend)) {
    for Subject { name, backend, .. } in &subjects(SIZE) {
        test(name, backend.as_ref());
    }
}

#[test]
fn geometry_and_topology_fit_together() {
    each(|name, backend| {
        let (geometry, topology) = (backend.geometry(), backend.topology());
        assert_eq!(geometry.blocks * u64::from(geometry.block_size), SIZE, "{name}");
        assert!(topology.physical_block_size.is_power_of_two(), "{name}");
        assert!(topology.physical_block_size >= geometry.block_size, "{name}");
        assert_eq!(topology.alignment_offset, 0, "{name}");
        let alignment = backend.alignment();
        assert!(geometry.block_size.is_multiple_of(alignment.offset), "{name}");
        assert_eq!(name.starts_with("direct"), alignment.memory > 1, "{name}");
        if let Some(granularity) = backend.provisioning().unmap_granularity {
            assert!(granularity.is_multiple_of(geometry.block_size), "{name}");
        }
    });
}

#[test]
fn what_is_written_is_read_wherever_the_memory_lies() {
    each(|name, backend| {
        let block = block_of(backend);
        let last = SIZE - block as u64 * 4;
        for (seed, offset) in [0, block as u64, SIZE / 2, last].into_iter().enumerate() {
            for (step, lengths) in [
                vec![block * 4],
                vec![1, block - 1, block * 3],
                vec![block * 2 + 7, 0, block - 9, block + 2],
                vec![block / 2; 8],
            ]
            .into_iter()
            .enumerate()
            {
                let bytes = pattern(seed + step * 7, block * 4);
                for align in [1, 512, 4096] {
                    let mut memory = OwnedBuf::aligned(&lengths, align);
                    memory.fill(&bytes);
                    write(backend, offset, memory).unwrap();
                    let memory = OwnedBuf::aligned(&lengths, align);
                    let (seen, _, result) = read_into(backend, offset, memory);
                    result.unwrap();
                    assert!(seen == bytes, "{name} at {offset} in {lengths:?} aligned to {align}");
                }
            }
        }
    });
}

#[test]
fn neighbours_stay_as_they_are() {
    each(|name, backend| {
        let block = block_of(backend);
        write(backend, 0, OwnedBuf::holding(&pattern(1, block * 3))).unwrap();
        write(backend, block as u64, OwnedBuf::holding(&pattern(2, block))).unwrap();
        let mut expected = pattern(1, block * 3);
        expected[block..block * 2].copy_from_slice(&pattern(2, block));
        assert!(read(backend, 0, block * 3) == expected, "{name}");
    });
}

/// More segments than a system call takes, and more bytes than are copied at a time.
#[test]
fn long_transfers_are_done_in_pieces() {
    each(|name, backend| {
        let block = block_of(backend);
        let many = vec![block; 1500];
        for (lengths, align) in [(many, 4096), (vec![3 << 20], 1), (vec![3 << 20], 4096)] {
            let len = lengths.iter().sum();
            if len as u64 > SIZE {
                continue;
            }
            let mut memory = OwnedBuf::aligned(&lengths, align);
            memory.fill(&pattern(3, len));
            write(backend, 4096, memory).unwrap();
            let (seen, _, result) = read_into(backend, 4096, OwnedBuf::aligned(&lengths, align));
            result.unwrap();
            assert!(seen == pattern(3, len), "{name} {len} aligned to {align}");
        }
    });
}

#[test]
fn a_read_past_the_end_brings_what_there_is() {
    each(|name, backend| {
        let block = block_of(backend);
        let last = SIZE - block as u64;
        write(backend, last, OwnedBuf::holding(&pattern(4, block))).unwrap();
        for align in [1, 4096] {
            let memory = OwnedBuf::aligned(&[block * 2], align);
            let (seen, moved, result) = read_into(backend, last, memory);
            assert_eq!(result.unwrap_err().kind(), ErrorKind::UnexpectedEof, "{name}");
            assert_eq!(moved, block, "{name}");
            assert!(seen[..block] == pattern(4, block), "{name}");
        }
    });
}

#[test]
fn nothing_is_moved_for_no_bytes() {
    each(|name, backend| {
        write(backend, 0, OwnedBuf::zeroed(&[])).unwrap();
        assert_eq!(read(backend, SIZE, 0), [0; 0], "{name}");
        backend.flush().unwrap();
    });
}

#[test]
fn what_is_unmapped_reads_as_is_advertised() {
    each(|name, backend| {
        let provisioning = backend.provisioning();
        let bytes = pattern(5, 1 << 20);
        write(backend, 0, OwnedBuf::holding(&bytes)).unwrap();
        backend.flush().unwrap();
        let Some(granularity) = provisioning.unmap_granularity else {
            assert_eq!(backend.unmap(0, 4096).unwrap_err().kind(), ErrorKind::Unsupported);
            assert!(read(backend, 0, 1 << 20) == bytes, "{name}");
            return;
        };
        let granularity = granularity as usize;
        backend.unmap(granularity as u64, granularity as u64 * 2).unwrap();
        let seen = read(backend, 0, 1 << 20);
        assert!(seen[..granularity] == bytes[..granularity], "{name}");
        assert!(seen[granularity * 3..] == bytes[granularity * 3..], "{name}");
        if provisioning.unmapped_reads_zero {
            assert!(seen[granularity..granularity * 3].iter().all(|&byte| byte == 0), "{name}");
        }
    });
}

#[test]
fn what_is_zeroed_reads_as_zeros_to_the_block() {
    each(|name, backend| {
        let block = block_of(backend);
        for may_unmap in [false, true] {
            for blocks in [1, 3, 300] {
                let bytes = pattern(6, block * (blocks + 2));
                write(backend, 0, OwnedBuf::holding(&bytes)).unwrap();
                match backend.zero(block as u64, (block * blocks) as u64, may_unmap) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::Unsupported => return,
                    Err(error) => panic!("{name}: {error}"),
                }
                let mut expected = bytes;
                expected[block..block * (blocks + 1)].fill(0);
                let seen = read(backend, 0, block * (blocks + 2));
                assert!(seen == expected, "{name} {blocks} blocks, may_unmap {may_unmap}");
            }
        }
    });
}

#[derive(Clone, Debug)]
enum Op {
    Read { block: u64, segments: Vec<usize>, aligned: bool },
    Write { block: u64, segments: Vec<usize>, aligned: bool, seed: usize },
    Zero { block: u64, blocks: u64, may_unmap: bool },
    Unmap { block: u64, blocks: u64 },
    Flush,
}

/// In units of 4096 bytes, which are whole blocks for all.
const UNIT: usize = 4096;
const UNITS: u64 = 256;

fn op() -> impl Strategy<Value = Op> {
    let segments = prop::collection::vec(0usize..9000, 1..5);
    let transfer = (0..UNITS, segments, any::<bool>(), 0usize..251);
    let range = (0..UNITS, 1u64..40, any::<bool>());
    prop_oneof![
        3 => transfer.clone().prop_map(|(block, segments, aligned, _)| {
            Op::Read { block, segments, aligned }
        }),
        4 => transfer.prop_map(|(block, segments, aligned, seed)| {
            Op::Write { block, segments, aligned, seed }
        }),
        1 => range.clone().prop_map(|(block, blocks, may_unmap)| {
            Op::Zero { block, blocks, may_unmap }
        }),
        1 => range.prop_map(|(block, blocks, _)| Op::Unmap { block, blocks }),
        1 => Just(Op::Flush),
    ]
}

/// Lengths of whole units that fit behind `block`: as they are, or with a last segment that
/// makes them whole.
fn fitted(block: u64, segments: &[usize], aligned: bool) -> Vec<usize> {
    let room = usize::try_from(UNITS - block).unwrap() * UNIT;
    let mut left = room;
    let mut lengths = Vec::new();
    for len in segments {
        let len = if aligned { len.next_multiple_of(UNIT) } else { *len }.min(left);
        left -= len;
        lengths.push(len);
    }
    let total = room - left;
    lengths.push(total.next_multiple_of(UNIT) - total);
    lengths
}

fn memory(lengths: &[usize], aligned: bool) -> OwnedBuf {
    OwnedBuf::aligned(lengths, if aligned { UNIT } else { 1 })
}

fn range(block: u64, blocks: u64) -> (u64, u64, std::ops::Range<usize>) {
    let blocks = blocks.min(UNITS - block);
    let (offset, len) = (block * UNIT as u64, blocks * UNIT as u64);
    let start = usize::try_from(offset).unwrap();
    (offset, len, start..start + usize::try_from(len).unwrap())
}

/// A byte that nobody promises anything about is `None`.
type Model = Vec<Option<u8>>;

fn apply(backend: &dyn Backend, model: &mut Model, op: &Op) {
    match op {
        Op::Read { block, segments, aligned } => {
            let lengths = fitted(*block, segments, *aligned);
            let at = usize::try_from(*block).unwrap() * UNIT;
            let (seen, _, result) = read_into(backend, at as u64, memory(&lengths, *aligned));
            result.unwrap();
            let differs = seen
                .iter()
                .zip(&model[at..])
                .position(|(seen, expected)| expected.is_some_and(|expected| expected != *seen));
            assert_eq!(differs, None, "read at {at}");
        }
        Op::Write { block, segments, aligned, seed } => {
            let lengths = fitted(*block, segments, *aligned);
            let at = usize::try_from(*block).unwrap() * UNIT;
            let bytes = pattern(*seed, lengths.iter().sum());
            let mut memory = memory(&lengths, *aligned);
            memory.fill(&bytes);
            write(backend, at as u64, memory).unwrap();
            model[at..].iter_mut().zip(bytes).for_each(|(place, byte)| *place = Some(byte));
        }
        Op::Zero { block, blocks, may_unmap } => {
            let (offset, len, bytes) = range(*block, *blocks);
            match backend.zero(offset, len, *may_unmap) {
                Ok(()) => model[bytes].fill(Some(0)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported),
            }
        }
        Op::Unmap { block, blocks } => {
            let (offset, len, bytes) = range(*block, *blocks);
            let provisioning = backend.provisioning();
            let unmapped = backend.unmap(offset, len);
            assert_eq!(unmapped.is_ok(), provisioning.unmap_granularity.is_some());
            if unmapped.is_ok() {
                model[bytes].fill(provisioning.unmapped_reads_zero.then_some(0));
            }
        }
        Op::Flush => backend.flush().unwrap(),
    }
}

#[test]
fn a_random_trace_has_one_outcome() {
    let empty: Model = vec![Some(0); usize::try_from(UNITS).unwrap() * UNIT];
    let subjects = subjects(empty.len() as u64);
    proptest!(ProptestConfig::with_cases(16), |(ops in prop::collection::vec(op(), 1..30))| {
        for subject in &subjects {
            let mut model = empty.clone();
            write(subject.backend.as_ref(), 0, OwnedBuf::zeroed(&[model.len()])).unwrap();
            for op in &ops {
                apply(subject.backend.as_ref(), &mut model, op);
            }
        }
    });
}
