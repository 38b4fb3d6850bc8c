//! What was acknowledged as stable is there after a loss of power: commands through a lane, a
//! disk and an engine, over a medium that loses any part of what was not flushed.

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use common::recorder::{Record, Recorder};
use common::{Initiator, SYNCHRONIZE_CACHE, transfer_16};
use proptest::prelude::*;
use storage::backend::{Geometry, Medium};
use storage::engine::{IoContext, Pool};
use storage::lun::disk::Disk;
use storage::lun::spec::{DiskSpec, WriteCache};
use storage::lun::{LogicalUnit, Submitted};
use storage::scsi::sense::SenseCode;
use storage::target::address::{Lun, LunAddress};
use storage::target::{Bus, Lane};
use storage::task::Response;
use storage::testing::disk_spec;

const BLOCKS: usize = 12;
const BLOCK: usize = 512;

/// How blocks are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Write,
    WriteFua,
    Same,
    Unmap,
}

#[derive(Clone, Debug)]
enum Op {
    Fill {
        how: How,
        lba: usize,
        blocks: usize,
        fill: u8,
    },
    Sync,
    /// MODE SELECT of WCE.
    WriteCache(bool),
    Reset,
}

impl Op {
    fn writes(&self, block: usize) -> Option<u8> {
        match self {
            Op::Fill { lba, blocks, fill, .. } if (*lba..lba + blocks).contains(&block) => {
                Some(*fill)
            }
            _ => None,
        }
    }

    /// Whether all that was written before is stable once it went well.
    fn flushes(&self) -> bool {
        matches!(self, Op::Sync | Op::WriteCache(false))
    }
}

/// Commands that are sent together, in no order, and whether the host fails to flush meanwhile.
#[derive(Clone, Debug)]
struct Batch {
    ops: Vec<Op>,
    flush_fails: bool,
}

fn op() -> impl Strategy<Value = Op> {
    let how = prop_oneof![
        5 => Just(How::Write),
        2 => Just(How::WriteFua),
        1 => Just(How::Same),
        1 => Just(How::Unmap),
    ];
    let fill = (how, 0..BLOCKS, 1..5usize, 1..=u8::MAX).prop_map(|(how, lba, blocks, fill)| {
        let fill = if how == How::Unmap { 0 } else { fill };
        Op::Fill { how, lba, blocks: blocks.min(BLOCKS - lba), fill }
    });
    prop_oneof![5 => fill, 1 => Just(Op::Sync)]
}

/// A MODE SELECT runs alone anyway, and so does a reset.
fn batch(failures: f64) -> impl Strategy<Value = Batch> {
    let alone = prop::sample::select(vec![Op::WriteCache(true), Op::WriteCache(false), Op::Reset])
        .prop_map(|op| vec![op]);
    let ops = prop_oneof![4 => prop::collection::vec(op(), 1..5), 1 => alone];
    (ops, prop::bool::weighted(failures)).prop_map(|(ops, flush_fails)| Batch { ops, flush_fails })
}

/// What an initiator that believes what it was told expects of one block.
#[derive(Clone, Debug)]
struct Expectation {
    /// What a read may bring.
    now: BTreeSet<u8>,
    /// What may be there after a loss of power.
    later: BTreeSet<u8>,
}

impl Expectation {
    fn new() -> Expectation {
        Expectation { now: [0].into(), later: [0].into() }
    }

    /// Takes note of commands that are all answered; `good` are those that went well. With
    /// `through` there was no write cache meanwhile.
    fn learn(&mut self, block: usize, ops: &[Op], good: &[bool], through: bool) {
        let written: BTreeSet<u8> = ops.iter().filter_map(|op| op.writes(block)).collect();
        let any =
            |holds: &dyn Fn(&Op) -> bool| ops.iter().zip(good).any(|(op, good)| *good && holds(op));
        let now = &self.now | &written;
        let is_stable = |op: &Op| through || matches!(op, Op::Fill { how: How::WriteFua, .. });
        self.later = if any(&|op| is_stable(op) && op.writes(block).is_some()) {
            // It came after all that was answered before this batch.
            written.clone()
        } else if any(&Op::flushes) {
            now.clone()
        } else {
            &self.later | &written
        };
        self.now = if any(&|op| op.writes(block).is_some()) { written } else { now };
    }
}

struct Machine {
    disk: Arc<Disk>,
    write_cache: WriteCache,
    lane: Lane,
    io: IoContext,
    initiator: Initiator,
    record: Arc<Mutex<Record>>,
    expectations: Vec<Expectation>,
    flush_failed: bool,
    /// There is no write cache.
    through: bool,
}

impl Machine {
    fn new(mut io: IoContext, write_cache: WriteCache) -> Machine {
        let geometry = Geometry { blocks: BLOCKS as u64, block_size: 512 };
        let (recorder, record) = Recorder::new(geometry);
        let bus = Bus::new(1).unwrap();
        let spec = DiskSpec { write_cache, ..disk_spec() };
        let disk = Arc::new(Disk::new(Medium::new("test", Box::new(recorder)), &spec));
        bus.attach(0, 0, Arc::clone(&disk) as _).unwrap();
        let (lane, _wake) = bus.lane(0).unwrap();
        let initiator = Initiator::new(&mut io);
        let expectations = vec![Expectation::new(); BLOCKS];
        let through = write_cache == WriteCache::Through;
        let mut machine = Machine {
            disk,
            write_cache,
            lane,
            io,
            initiator,
            record,
            expectations,
            flush_failed: false,
            through,
        };
        let power_on = machine.submit(&[0; 6], &[], 0);
        machine.settle();
        let attention = Response::check_condition(SenseCode::POWER_ON_OCCURRED, 0);
        assert_eq!(machine.response(power_on).0, attention);
        machine
    }

    fn submit(&mut self, cdb: &[u8], out: &[u8], in_len: usize) -> u32 {
        let (place, task) = self.initiator.task(cdb, out, in_len);
        let address = LunAddress { target: 0, lun: Lun::Unit(0) };
        if let Submitted::Done(answer) = self.lane.submit(address, task, &mut self.io) {
            let (ticket, response) = self.lane.settle(answer);
            self.initiator.finish(ticket.token().place, response);
        }
        place
    }

    /// Waits until every command is answered.
    fn settle(&mut self) {
        while !self.initiator.is_idle() {
            self.io.wait(true, &mut |_| panic!("there is no ring")).unwrap();
            let answers = std::mem::take(&mut *self.initiator.inbox.answers.lock().unwrap());
            for answer in answers {
                let (ticket, response) = self.lane.settle(answer);
                self.initiator.finish(ticket.token().place, response);
            }
        }
    }

    fn response(&mut self, place: u32) -> (Response, Vec<u8>) {
        self.initiator.answered.remove(&place).unwrap()
    }

    fn run(&mut self, batch: &Batch) {
        match (&batch.ops[..], self.write_cache) {
            ([Op::Reset], _) => self.reset(),
            ([Op::WriteCache(true)], WriteCache::Through) => self.is_refused_a_cache(),
            _ => self.run_commands(batch),
        }
    }

    fn reset(&mut self) {
        self.disk.reset();
        self.through = self.write_cache == WriteCache::Through;
    }

    fn is_refused_a_cache(&mut self) {
        let place = self.start(&Op::WriteCache(true));
        self.settle();
        let (Response::Status { sense: Some(sense), .. }, _) = self.response(place) else {
            panic!("there is a write cache now");
        };
        assert_eq!(sense.code(), Some(SenseCode::INVALID_FIELD_IN_PARAMETER_LIST));
    }

    fn run_commands(&mut self, batch: &Batch) {
        let already_lost = self.flush_failed;
        self.record.lock().unwrap().flush_fails = batch.flush_fails;
        let places: Vec<u32> = batch.ops.iter().map(|op| self.start(op)).collect();
        self.settle();
        let failed = !self.record.lock().unwrap().flush_fails && batch.flush_fails;
        self.record.lock().unwrap().flush_fails = false;
        let good: Vec<bool> =
            places.into_iter().zip(&batch.ops).map(|(place, op)| self.outcome(place, op)).collect();
        let may_go_well = |op: &Op| matches!(op, Op::WriteCache(true));
        let spared = batch.ops.iter().all(may_go_well);
        assert!(!already_lost || spared || !good.contains(&true), "nothing goes well after it");
        assert!(failed || already_lost || !good.contains(&false), "nothing fails by itself");
        assert!(!failed || good.contains(&false), "a failed flush is told");
        self.flush_failed |= failed;
        for (block, expectation) in self.expectations.iter_mut().enumerate() {
            expectation.learn(block, &batch.ops, &good, self.through);
        }
        if let ([Op::WriteCache(on)], [true]) = (&batch.ops[..], &good[..]) {
            self.through = !on;
        }
    }

    fn start(&mut self, op: &Op) -> u32 {
        match *op {
            Op::Fill { how, lba, blocks, fill } => {
                let transfer = |opcode, fua| {
                    transfer_16(opcode, fua, lba as u64, u32::try_from(blocks).unwrap())
                };
                let write = vec![fill; blocks * BLOCK];
                match how {
                    How::Write => self.submit(&transfer(0x8a, false), &write, 0),
                    How::WriteFua => self.submit(&transfer(0x8a, true), &write, 0),
                    How::Same => self.submit(&transfer(0x93, false), &write[..BLOCK], 0),
                    How::Unmap => {
                        let mut list = [0; 24];
                        (list[1], list[3]) = (22, 16);
                        // The LBA and the number of blocks are where WRITE(16) has them.
                        list[8..20].copy_from_slice(&transfer(0, false)[2..14]);
                        self.submit(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &list, 0)
                    }
                }
            }
            Op::Sync => self.submit(&SYNCHRONIZE_CACHE, &[], 0),
            Op::WriteCache(on) => {
                let mut list = [0; 24];
                (list[4], list[5], list[6]) = (0x08, 18, u8::from(on) << 2);
                self.submit(&[0x15, 0x10, 0, 0, 24, 0], &list, 0)
            }
            Op::Reset => unreachable!("it is no command"),
        }
    }

    /// Whether a command went well; if not, it failed as it has to.
    fn outcome(&mut self, place: u32, op: &Op) -> bool {
        let (response, _) = self.response(place);
        if response == Response::good(0) {
            return true;
        }
        let Response::Status { sense: Some(sense), .. } = &response else { panic!("{response:?}") };
        assert_eq!(sense.code(), Some(SenseCode::WRITE_ERROR), "{op:?}");
        false
    }

    fn read_back(&mut self) {
        let place = self.submit(
            &transfer_16(0x88, false, 0, u32::try_from(BLOCKS).unwrap()),
            &[],
            BLOCKS * BLOCK,
        );
        self.settle();
        let (response, data) = self.response(place);
        assert_eq!(response, Response::good(0));
        for (block, expectation) in data.chunks(BLOCK).zip(&self.expectations) {
            assert!(expectation.now.contains(&block[0]), "{block:?} is not {expectation:?}");
        }
    }

    fn lose_power(&self, survivors: &[bool]) {
        let mut survivors = survivors.iter().cycle();
        let medium = self.record.lock().unwrap().power_loss(|| *survivors.next().unwrap());
        for (lba, (block, expectation)) in medium.chunks(BLOCK).zip(&self.expectations).enumerate()
        {
            assert!(block.iter().all(|byte| *byte == block[0]), "block {lba} is torn");
            assert!(
                expectation.later.contains(&block[0]),
                "block {lba} has {} after the loss, not one of {:?}",
                block[0],
                expectation.later
            );
        }
    }
}

fn engines() -> [IoContext; 2] {
    [IoContext::inline(), IoContext::without_ring(Pool::new(3)).unwrap()]
}

fn survivors() -> impl Strategy<Value = Vec<Vec<bool>>> {
    prop::collection::vec(prop::collection::vec(any::<bool>(), 1..40), 1..4)
}

fn run(batches: &[Batch], survivors: &[Vec<bool>]) {
    let caches = [WriteCache::Back, WriteCache::Through];
    for (io, write_cache) in caches.into_iter().flat_map(|cache| engines().map(|io| (io, cache))) {
        let mut machine = Machine::new(io, write_cache);
        for batch in batches {
            machine.run(batch);
            machine.read_back();
            for survivors in survivors {
                machine.lose_power(survivors);
            }
            machine.lose_power(&[false]);
            machine.lose_power(&[true]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_is_acknowledged_as_stable_is(
        batches in prop::collection::vec(batch(0.0), 1..12),
        survivors in survivors(),
    ) {
        run(&batches, &survivors);
    }

    #[test]
    fn nothing_is_acknowledged_after_a_failed_flush(
        batches in prop::collection::vec(batch(0.2), 1..12),
        survivors in survivors(),
    ) {
        run(&batches, &survivors);
    }
}

/// The recorder itself: what is not flushed can be lost.
#[test]
fn a_write_alone_is_not_stable() {
    let mut machine = Machine::new(IoContext::inline(), WriteCache::Back);
    let write = Op::Fill { how: How::Write, lba: 3, blocks: 1, fill: 7 };
    machine.run(&Batch { ops: vec![write], flush_fails: false });
    let medium = |survives| machine.record.lock().unwrap().power_loss(|| survives);
    assert_eq!(medium(false)[3 * BLOCK], 0);
    assert_eq!(medium(true)[3 * BLOCK], 7);
}
