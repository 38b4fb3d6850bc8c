//! SCSI devices that a test plays, passed through to a guest: what no device at hand is, or does.
//!
//! The test must be root's, and may load modules.

use std::collections::BTreeSet;
use std::io::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use storage::scsi::sense::SenseCode;
use storage::testing::{FakeDevice, FakeHost};
use tests::host;
use tests::passthrough::{Machine, Monitor};
use tests::scsi::command::Command;
use tests::scsi::device::Device;
use tests::scsi::lio::Port;
use tests::scsi::tcmu::{Handler, Reply, Tcmu, played_by};

const REPLAY: &str = env!("CARGO_BIN_EXE_replay");
const MIB: u64 = 1 << 20;
const TARGET: &str = "naa.5001405000000011";
const INITIATOR: &str = "naa.50014050000000a1";

/// Played devices, and the port that leads to them.
struct Played {
    port: Option<Port>,
    devices: Vec<Tcmu>,
}

impl Played {
    fn new(handlers: Vec<Handler>) -> Result<Played> {
        let name = |(number, handler)| Tcmu::new(&format!("played{number}"), MIB, handler);
        let devices: Vec<Tcmu> =
            handlers.into_iter().enumerate().map(name).collect::<Result<_>>()?;
        let luns: Vec<_> = devices.iter().map(Tcmu::storage).collect();
        let port = Some(Port::loopback(TARGET, INITIATOR, &luns)?);
        Ok(Played { port, devices })
    }

    fn found(&self) -> Result<Vec<Device>> {
        self.port.as_ref().map_or(Ok(Vec::new()), Port::devices)
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        self.port = None;
    }
}

/// `fake`, as long as it knows a command; GOOD to all others.
fn agreeable(fake: Arc<FakeHost>) -> Handler {
    const UNKNOWN: (u8, u8) = (0x20, 0x00);
    let mut play = played_by(fake);
    Box::new(move |cdb, data| {
        let reply = play(cdb, data)?;
        let code = SenseCode::of(&reply.sense).map(|code| (code.asc, code.ascq));
        Some(if code == Some(UNKNOWN) { Reply::good([]) } else { reply })
    })
}

fn disk() -> Arc<FakeHost> {
    Arc::new(FakeHost::new(FakeDevice::default()))
}

#[test]
fn a_device_is_what_is_played() -> Result<()> {
    let fake = disk();
    let played = Played::new(vec![played_by(Arc::clone(&fake))])?;
    let device = &played.found()?[0];
    let seen = host::run("sg_inq", &[&device.generic().display().to_string()])?;
    assert!(seen.contains("FAKE DISK"), "{seen}");
    let block = device.block().display().to_string();
    host::run(
        "dd",
        &["if=/dev/urandom", &format!("of={block}"), "bs=4k", "count=16", "oflag=direct"],
    )?;
    assert_ne!(fake.device().store[..65536], [0; 65536]);
    assert_eq!(fake.device().store[65536..], [0; (1 << 20) - 65536]);
    Ok(())
}

/// Opcodes that a disk's guest may send by default (SPC-6, SBC-4, ZBC-2), of those that mean
/// something with a CDB of zeros.
const ALLOWED: [u8; 30] = [
    0x00, 0x03, 0x12, 0x1a, 0x28, 0x2a, 0x2e, 0x2f, 0x34, 0x35, 0x37, 0x41, 0x42, 0x4d, 0x5a, 0x88,
    0x8a, 0x8b, 0x8e, 0x8f, 0x90, 0x91, 0x95, 0x9a, 0x9c, 0xa8, 0xaa, 0xae, 0xaf, 0xb7,
];

/// Every opcode comes from the guest; what the policy refuses does not reach the device, and is
/// refused so that the guest does not try again.
#[test]
fn what_the_policy_refuses_does_not_reach_the_device() -> Result<()> {
    let played = Played::new(vec![agreeable(disk())])?;
    let mut machine = Machine::new(Monitor::chosen())?;
    machine.pass(&played.found()?[0].generic(), "");
    let cdb = |opcode| {
        let mut cdb = [0; 16];
        // START STOP UNIT is to start the unit: a stopped one takes few commands.
        (cdb[0], cdb[4]) = (opcode, u8::from(opcode == 0x1b));
        cdb
    };
    let commands: Vec<Command> = (0..=u8::MAX).map(|opcode| Command::none(&cdb(opcode))).collect();
    machine.carry(REPLAY, 0, &commands)?;
    let _ = played.devices[0].take_seen();
    let seen = machine.run("section all /replay /commands.0 $(generic 0:0:0:0)")?;
    seen.assert_powered_off();

    // Of what reached the device, the host has sent some of its own accord, but no such CDBs.
    let of_guest = |cdb: &&Vec<u8>| cdb[1..].iter().all(|byte| *byte == 0);
    let came = played.devices[0].take_seen();
    let reached: BTreeSet<u8> = came.iter().filter(of_guest).map(|cdb| cdb[0]).collect();
    let completions = seen.completions("all");
    assert_eq!(completions.len(), 256);
    assert!([0x00, 0x35, 0x91].iter().all(|opcode| reached.contains(opcode)), "{reached:02x?}");
    for (opcode, completion) in (0..=u8::MAX).zip(completions) {
        let completion = completion?;
        let code = completion.sense_code();
        // Of some, zeros ask for data that there is no room for: that is an overrun (DID_ERROR).
        let refused = matches!(code, (5, 0x20 | 0x24, 0)) || completion.host == 7;
        assert!(
            !reached.contains(&opcode) || ALLOWED.contains(&opcode),
            "{opcode:02x} reached the device"
        );
        assert!(completion.is_good() || refused, "{opcode:02x}: {completion:?}");
    }
    Ok(())
}

/// A tape, a medium changer and an enclosure are that in the guest too, and their commands work.
#[test]
fn other_types_of_devices_stay_what_they_are() -> Result<()> {
    let fakes = [0x01, 0x08, 0x0d].map(|kind| Arc::new(FakeHost::new(FakeDevice::of_type(kind))));
    let played = Played::new(fakes.iter().cloned().map(agreeable).collect())?;
    let mut machine = Machine::new(Monitor::chosen())?;
    for device in played.found()? {
        machine.pass(&device.generic(), "");
    }
    let (space, move_medium, diagnostic) =
        ([0x11, 1, 0, 0, 1, 0], [0xa5; 12], [0x1c, 1, 0, 0, 4, 0]);
    let move_medium =
        std::array::from_fn::<u8, 12, _>(|at| if at == 0 { move_medium[0] } else { 0 });
    let commands =
        [Command::none(&space), Command::none(&move_medium), Command::read(&diagnostic, 4)];
    // The first command is told of the power-on.
    let first = Command::none(&[0; 6]);
    for (number, command) in commands.iter().enumerate() {
        machine.carry(REPLAY, number, &[first.clone(), command.clone()])?;
    }
    let seen = machine.run(
        "section types sh -c 'lsscsi | grep 0:0:0:'
         for lun in 0 1 2; do section own-$lun /replay /commands.$lun $(generic 0:0:0:$lun); done
         section foreign /replay /commands.1 $(generic 0:0:0:0)",
    )?;
    seen.assert_powered_off();
    seen.assert_has("types", &["tape", "mediumx", "enclosu"]);
    for lun in 0..3 {
        let completion = seen.completions(&format!("own-{lun}")).remove(1)?;
        assert!(completion.is_good(), "{lun}: {completion:?}");
    }
    let foreign = seen.completions("foreign").remove(1)?;
    assert_eq!(foreign.sense_code(), (5, 0x20, 0), "a tape moves no media");
    let moved = |number: usize| played.devices[number].take_seen().iter().any(|cdb| cdb[0] == 0xa5);
    assert_eq!((moved(0), moved(1)), (false, true));
    Ok(())
}

/// A device that lies: whatever it answers, `vmm` and its guest live on, and the device is as good
/// as it was once it tells the truth again.
#[test]
fn a_hostile_device_hurts_nobody() -> Result<()> {
    let hostile = Arc::new(AtomicBool::new(false));
    let (mut play, lies) = (played_by(disk()), Arc::clone(&hostile));
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let lie: Handler = Box::new(move |cdb, data| {
        if !lies.load(Ordering::Relaxed) {
            return play(cdb, data);
        }
        let mut bytes = |most: usize| -> Vec<u8> {
            let len = usize::try_from(next()).unwrap_or(0) % (most + 1);
            (0..len).map(|_| next().to_le_bytes()[0]).collect()
        };
        let (sense, data) = (bytes(96), bytes(data.len()));
        let status =
            [0, 0, 2, 2, 4, 8, 0x18, 0x28, 0x40, 0x30][usize::from(bytes(255).len() % 10 == 0)];
        Some(Reply { status, sense, data })
    });
    let played = Played::new(vec![lie, played_by(disk())])?;
    let mut machine = Machine::new(Monitor::chosen())?;
    for device in played.found()? {
        machine.pass(&device.block(), "path_timeout = \"0s\"");
    }
    let pages = (0..=u8::MAX).flat_map(|page| [8_u16, 96, 512].map(|len| Command::vpd(page, len)));
    let opcodes = (0..=u8::MAX)
        .map(|opcode| Command::read(&[opcode, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0], 512));
    machine.carry(REPLAY, 0, &pages.chain(opcodes).collect::<Vec<_>>())?;
    let mut running = machine.start(
        "tell ready
         await_step lies
         section lies sh -c \"timeout 200 /replay /commands.0 $(generic 0:0:0:0) | wc -l\"
         section other dd if=$(disk 0:0:0:1) of=/dev/null bs=4k count=16 iflag=direct
         tell enough
         await_step truth
         node=$(generic 0:0:0:0)
         sg_start --start $node # among the lies was a command to stop
         section truth await sg_dd if=$node of=/dev/null bs=512 count=16",
    )?;
    running.wait_for("ready")?;
    hostile.store(true, Ordering::Relaxed);
    machine.step("lies")?;
    running.wait_for("enough")?;
    hostile.store(false, Ordering::Relaxed);
    machine.step("truth")?;
    let seen = machine.finish(running)?;
    seen.assert_powered_off();
    seen.assert_has("lies", &["1024\n"]);
    seen.assert_good(&["other", "truth"]);
    assert!(!seen.stderr.contains("bug:"), "{}", seen.stderr);
    Ok(())
}

/// The device grows, and tells whoever asks first: the guest sees its new size by itself.
#[test]
fn a_device_that_grows_grows_in_the_guest() -> Result<()> {
    let fake = disk();
    let played = Played::new(vec![played_by(Arc::clone(&fake))])?;
    let mut machine = Machine::new(Monitor::chosen())?;
    machine.pass(&played.found()?[0].block(), "");
    let mut running = machine.start(
        "disk=$(disk 0:0:0:0)
         sectors() { cat /sys/block/${disk#/dev/}/size; }
         section before sectors
         tell ready
         await_step grown
         dd if=$disk of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null
         grown() { [ \"$(sectors)\" = 4096 ]; }
         section grown await grown
         section last dd if=$disk of=/dev/null bs=512 skip=4095 count=1 iflag=direct",
    )?;
    running.wait_for("ready")?;
    {
        let mut device = fake.device();
        device.store.resize(2 << 20, 0);
        device.attentions.push_back(SenseCode::CAPACITY_DATA_HAS_CHANGED);
    }
    machine.step("grown")?;
    let seen = machine.finish(running)?;
    seen.assert_powered_off();
    assert_eq!(seen.section("before"), Some("2048\nstatus 0\n"));
    seen.assert_good(&["grown", "last"]);
    Ok(())
}
