//! The same commands on the host and in the guest: status, sense data, residual and data are
//! compared byte for byte. What differs is what [`Fixups`] says, and nothing else.

use std::borrow::Borrow;
use std::fmt::Display;
use std::io::Result;

use tempfile::TempDir;
use tests::passthrough::{Machine, Monitor};
use tests::running::Outcome;
use tests::scsi::command::{Command, Completion, Data, send_all};
use tests::scsi::device::Device;
use tests::scsi::gadget::{Gadget, Medium};
use tests::scsi::lio::{Port, Storage};
use tests::scsi::scsi_debug::ScsiDebug;

use crate::common::{Loop4096, MIB, REPLAY, empty_file};

// ---- commands ------------------------------------------------------------------------------------

/// INQUIRY, its pages, modes and logs, whole and cut short; and what no device has.
fn parameter_data() -> Vec<Command> {
    let mut commands = vec![Command::none(&[0; 6]), Command::none(&[0; 6])];
    commands.extend([0, 3, 5, 36, 96, 255].map(|len: u8| {
        Command::read(&[0x12, 0, 0, 0, len, 0], len.into()) //
    }));
    let pages = [0x00, 0x80, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0xc7];
    for page in pages.into_iter().chain(0xb0..=0xb7) {
        commands.extend([4, 9, 13, 44, 252].map(|len| Command::vpd(page, len)));
    }
    commands.push(Command::read(&[0x12, 0, 0x80, 0, 96, 0], 96)); // a page without EVPD
    let modes = [(0x3f, 0), (0x3f, 0xff), (0x08, 0), (0x0a, 0), (0x0a, 1), (0x1c, 0), (0x15, 0)];
    for (page, subpage) in modes {
        for dbd in [0, 8] {
            commands.push(Command::read(&[0x1a, dbd, page, subpage, 252, 0], 252));
            commands.push(Command::read(&[0x5a, dbd, page, subpage, 0, 0, 0, 1, 0xfc, 0], 508));
        }
        commands.push(Command::read(&[0x1a, 0, page, subpage, 3, 0], 3));
    }
    for (page, subpage) in [(0x00, 0), (0x00, 0xff), (0x0d, 0), (0x2f, 0), (0x3d, 0)] {
        commands.push(Command::read(&[0x4d, 0, 0x40 | page, subpage, 0, 0, 0, 1, 0, 0], 256));
    }
    commands
}

fn read_10(lba: u32, blocks: u16, buffer: usize) -> Command {
    let (lba, blocks) = (lba.to_be_bytes(), blocks.to_be_bytes());
    let cdb = [0x28, 0, lba[0], lba[1], lba[2], lba[3], 0, blocks[0], blocks[1], 0];
    Command::read(&cdb, buffer)
}

fn read_capacity_16(len: u8) -> Command {
    Command::read(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, len, 0, 0], len.into())
}

/// RCTD of REPORT SUPPORTED OPERATION CODES: with time-outs.
const TIMEOUTS: u8 = 0x80;

/// REPORT SUPPORTED OPERATION CODES, of all commands.
fn supported_commands(options: u8) -> Command {
    Command::read(&[0xa3, 0x0c, options, 0, 0, 0, 0, 0, 16, 0, 0, 0], 4096)
}

/// Puts a list of supported commands into order: the VMM's own come last, and order says nothing.
fn sort(command: &Command, completion: &mut Completion) {
    let [0xa3, 0x0c, options, ..] = command.cdb[..] else { return };
    let size = if options & TIMEOUTS == 0 { 8 } else { 20 };
    let sent = completion.sent().len();
    let mut commands: Vec<&[u8]> = completion.data[4..sent].chunks(size).collect();
    commands.sort_unstable();
    let commands = commands.concat();
    completion.data[4..sent].copy_from_slice(&commands);
}

/// Reads and writes of blocks of this size, some in buffers shorter or longer than the transfer,
/// some that fail.
fn medium_access(block: usize) -> Vec<Command> {
    let pattern: Vec<u8> = (0..=255).cycle().take(4 * block).collect();
    vec![
        Command::read(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8),
        Command::read(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 64),
        read_capacity_16(32),
        read_capacity_16(12),
        read_capacity_16(8),
        Command::write(&[0x2a, 0, 0, 0, 0, 8, 0, 0, 4, 0], &pattern),
        read_10(8, 4, 4 * block),
        read_10(8, 1, 2 * block),
        read_10(8, 0, 0),
        Command::read(&[0x08, 0, 0, 8, 1, 0], block),
        Command::read(&[0xa8, 0, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0], block),
        Command::read(&[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0], block),
        // With DPO, and a GROUP NUMBER.
        Command::read(&[0x88, 0x10, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1, 0x05, 0], block),
        read_10(u32::MAX, 1, block),
        Command::read(&[0x88, 0, 0xff, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0], block),
        Command::none(&[0x2f, 0, 0, 0, 0, 8, 0, 0, 1, 0]),
        Command::none(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        Command::none(&[0x91, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        Command::read(&[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0], 24),
        Command::none(&[0x0b, 0, 0, 0, 0, 0]), // no disk has it
    ]
}

// ---- fixups --------------------------------------------------------------------------------------

/// What a guest is told differently.
struct Fixups {
    /// The device is a disk, zoned or not.
    disk: bool,
    /// Blocks that the host carries in one command.
    blocks: u32,
    /// The device refuses the page of supported pages.
    no_pages: bool,
}

impl Fixups {
    /// Of a device whose host is asked by sysfs.
    fn of(device: &Device) -> Result<Fixups> {
        let disk = matches!(&device.attribute("type")?[..], "0" | "20");
        if !disk {
            return Ok(Fixups { disk, blocks: 0, no_pages: false });
        }
        let number = |name: &str| -> Result<u64> {
            device.queue(name)?.parse().map_err(std::io::Error::other)
        };
        // A buffer of scattered pages begins and ends within one.
        let segments = (number("max_segments")? - 1) << 12;
        let bytes = (number("max_sectors_kb")? << 10).min(segments);
        let blocks = bytes / number("logical_block_size")?;
        let no_pages = !device.has_page("pg0");
        let blocks = u32::try_from(blocks).map_err(std::io::Error::other)?;
        Ok(Fixups { disk, blocks, no_pages })
    }

    /// What the guest is to be told where the host was told this.
    fn apply(&self, command: &Command, host: &Completion) -> Completion {
        let mut guest = host.clone();
        match command.cdb[..3] {
            [0x12, 0, 0] => self.inquiry(&mut guest),
            [0x12, 1, 0] if self.disk && self.no_pages => {
                answer(&mut guest, &[0, 0, 0, 2, 0, 0xb0]);
            }
            [0x12, 1, 0xb0] if self.disk && self.no_pages => self.make_limits(&mut guest),
            [0x12, 1, 0xb0] if self.disk => self.merge_limits(&mut guest),
            _ => {}
        }
        exact_residual(command, &mut guest);
        sort(command, &mut guest);
        guest
    }

    /// Without SPC-2, a guest would not ask for VPD pages.
    fn inquiry(&self, guest: &mut Completion) {
        if let Some(version @ 0..4) = guest.data.get_mut(2)
            && self.disk
        {
            *version = 4;
        }
    }

    /// A Block Limits page of its own.
    fn make_limits(&self, guest: &mut Completion) {
        let mut page = [0; 64];
        page[1] = 0xb0;
        page[3] = 0x3c;
        page[8..12].copy_from_slice(&self.blocks.to_be_bytes());
        answer(guest, &page);
    }

    /// MAXIMUM and OPTIMAL TRANSFER LENGTH, as far as they were asked for.
    fn merge_limits(&self, guest: &mut Completion) {
        for at in [8, 12] {
            let Some(field) = guest.data.get(at..at + 4) else {
                // Cut within a field: its first bytes, of what it will be.
                let whole = self.blocks.to_be_bytes();
                guest.data.iter_mut().skip(at).zip(whole).for_each(|(to, from)| *to = from);
                return;
            };
            let device = field.iter().fold(0_u32, |value, byte| value << 8 | u32::from(*byte));
            let unlimited = at == 8 && device == 0;
            let merged = if unlimited { self.blocks } else { device.min(self.blocks) };
            guest.data[at..at + 4].copy_from_slice(&merged.to_be_bytes());
        }
    }
}

/// Some drivers of the host count wrongly: data of commands that have none, and data that a refused
/// response does not have, where the response is one that is edited.
fn exact_residual(command: &Command, guest: &mut Completion) {
    let edited = matches!(
        command.cdb[..],
        [0x12, 0, 0, ..] | [0x12, 1, 0 | 0x80 | 0x83 | 0xb0, ..] | [0x1a | 0x5a, ..]
    );
    if command.data == Data::None {
        guest.resid = 0;
    } else if edited && guest.status != 0 {
        guest.resid = i32::try_from(guest.data.len()).unwrap();
    }
}

/// GOOD with a page, cut to the room that there is.
fn answer(guest: &mut Completion, page: &[u8]) {
    let len = guest.data.len();
    let sent = len.min(page.len());
    guest.data[..sent].copy_from_slice(&page[..sent]);
    guest.resid = i32::try_from(len - sent).unwrap();
    (guest.status, guest.sense) = (0, Vec::new());
}

// ---- both sides ----------------------------------------------------------------------------------

/// A device, and the commands that both sides send to it.
struct Subject {
    name: &'static str,
    device: Device,
    commands: Vec<Command>,
}

impl Subject {
    fn new(name: &'static str, device: &Device, commands: Vec<Command>) -> Subject {
        Subject { name, device: device.clone(), commands }
    }

    /// A disk or CD-ROM of blocks of this size.
    fn disk(name: &'static str, device: &Device, block: usize) -> Subject {
        let mut commands = parameter_data();
        commands.extend(medium_access(block));
        Subject::new(name, device, commands)
    }

    fn on_the_host(&self) -> Result<Vec<Result<Completion>>> {
        let lines = send_all(&self.commands, &[self.device.generic()])?;
        Ok(lines.lines().map(str::parse).collect())
    }
}

/// Sends every subject its commands, on the host and in a guest, which then executes `more`.
/// Returns what the guest was not told as it should have been.
fn differences(subjects: &[Subject], more: &str) -> Result<(String, Outcome)> {
    let mut machine = Machine::new(Monitor::chosen())?;
    let (mut script, mut host) = (String::new(), Vec::new());
    for (lun, subject) in subjects.iter().enumerate() {
        host.push(subject.on_the_host()?);
        machine.pass(&subject.device.generic(), "policy = \"full\"");
        machine.carry(REPLAY, lun, &subject.commands)?;
        let node = format!("$(generic 0:0:0:{lun})");
        script += &format!("section {lun} /replay /commands.{lun} {node}\n");
    }
    let seen = machine.run(&(script + more))?;
    seen.assert_powered_off();
    let mut text = String::new();
    for (lun, (subject, host)) in subjects.iter().zip(&host).enumerate() {
        let fixups = Fixups::of(&subject.device)?;
        let mut guest = seen.completions(&lun.to_string());
        assert_eq!(guest.len(), host.len(), "{}", subject.name);
        for ((command, host), guest) in subject.commands.iter().zip(host).zip(&mut guest) {
            if let Ok(guest) = guest {
                sort(command, guest);
            }
            let wanted = host.as_ref().map(|host| fixups.apply(command, host));
            let (wanted, guest) = (show(&wanted), show(guest));
            if wanted != guest {
                text +=
                    &format!("{} {command}\n  wanted {wanted}\n  seen   {guest}\n", subject.name);
            }
        }
    }
    Ok((text, seen))
}

/// All that a device has answered. What lies in a buffer beyond that is the kernel's.
fn show<C: Borrow<Completion>, E: Display>(completion: &std::result::Result<C, E>) -> String {
    let completion = completion.as_ref().map(Borrow::borrow);
    match completion {
        Ok(completion) if completion.is_good() => {
            Completion { data: completion.sent().into(), ..completion.clone() }.to_string()
        }
        Ok(completion) => Completion { data: Vec::new(), ..completion.clone() }.to_string(),
        Err(error) => error.to_string(),
    }
}

fn assert_same(subjects: &[Subject]) -> Result<()> {
    assert_same_and(subjects, "").map(drop)
}

fn assert_same_and(subjects: &[Subject], more: &str) -> Result<Outcome> {
    let (differences, seen) = differences(subjects, more)?;
    assert!(differences.is_empty(), "the guest sees something else:\n{differences}");
    Ok(seen)
}

// ---- devices -------------------------------------------------------------------------------------

/// A thin disk with a damaged block, LIO's, and three that know no VPD pages.
#[test]
fn disks_are_in_the_guest_what_they_are_on_the_host() -> Result<()> {
    let folder = TempDir::new()?;
    let [small, large, cd] = ["512", "4096", "cd"].map(|name| empty_file(&folder, name, 16 * MIB));
    let large = Loop4096::new(&large?)?;
    let parameters = ["dev_size_mb=16", "lbpu=1", "lbpws=1", "opts=2", "medium_error_start=4660"];
    let debug = ScsiDebug::new(1, &parameters)?;
    let storage = Storage::memory("memory", 16 * MIB)?;
    let port = Port::loopback("naa.5001405000000001", "naa.50014050000000a1", &[&storage])?;
    let media = [Medium::Disk(&small?), Medium::Disk(large.path()), Medium::Cdrom(&cd?)];
    let gadget = Gadget::new(&media)?;
    let mut damaged = Subject::disk("scsi_debug", debug.device(), 512);
    damaged.commands.extend([read_10(4660, 1, 512), read_10(4658, 8, 4096)]);
    damaged.commands.extend([supported_commands(0), supported_commands(TIMEOUTS)]);
    assert_same(&[
        damaged,
        Subject::disk("LIO", &port.devices()?[0], 512),
        Subject::disk("no pages", &gadget.devices()[0], 512),
        Subject::disk("no pages, 4096", &gadget.devices()[1], 4096),
        Subject::new("CD-ROM", &gadget.devices()[2], parameter_data()),
    ])
}

/// With blocks of 4096 bytes, protection information, and sense data in descriptor format.
#[test]
fn large_protected_blocks_and_descriptor_sense_reach_the_guest() -> Result<()> {
    let parameters = ["dev_size_mb=16", "sector_size=4096", "dif=1", "dix=1", "dsense=1"];
    let errors = ["opts=2", "medium_error_start=1234", "medium_error_count=1"];
    let debug = ScsiDebug::new(1, &[&parameters[..], &errors].concat())?;
    let mut subject = Subject::disk("4096", debug.device(), 4096);
    subject.commands.push(read_10(1234, 1, 4096));
    assert_same(&[subject])
}

/// REPORT ZONES from the beginning (ZBC-2).
fn report_zones(len: u16) -> Command {
    let [high, low] = len.to_be_bytes();
    Command::read(&[0x95, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low, 0, 0], len.into())
}

/// ZBC OUT on the zone that begins at this LBA.
fn zone_action(action: u8, lba: u16) -> Command {
    let [high, low] = lba.to_be_bytes();
    Command::none(&[0x94, action, 0, 0, 0, 0, 0, 0, high, low, 0, 0, 0, 0, 0, 0])
}

/// WRITE(16) of one block.
fn write_16(lba: u16) -> Command {
    let [high, low] = lba.to_be_bytes();
    Command::write(&[0x8a, 0, 0, 0, 0, 0, 0, 0, high, low, 0, 0, 0, 1, 0, 0], &[0x5a; 512])
}

/// A zone's whole life: opened, written in order and out of order, closed, finished, read, reset.
fn a_zones_life(zone: u16) -> Vec<Command> {
    const CLOSE: u8 = 1;
    const FINISH: u8 = 2;
    const OPEN: u8 = 3;
    const RESET: u8 = 4;
    vec![
        report_zones(64),
        report_zones(1024),
        zone_action(OPEN, zone),
        write_16(zone),
        write_16(zone + 1),
        write_16(zone + 9), // not at the write pointer
        report_zones(1024),
        zone_action(CLOSE, zone),
        report_zones(1024),
        zone_action(FINISH, zone),
        write_16(zone + 2), // the zone is full
        report_zones(1024),
        read_10(zone.into(), 2, 1024),
        zone_action(RESET, zone),
        zone_action(RESET, zone + 1), // where no zone begins
        zone_action(0x1f, zone),
        report_zones(1024),
    ]
}

/// Type 14h: its commands and its sense data, and what Linux makes of it.
#[test]
fn a_zoned_disk_is_in_the_guest_what_it_is_on_the_host() -> Result<()> {
    let parameters = ["zbc=managed", "dev_size_mb=32", "zone_size_mb=4", "zone_nr_conv=2"];
    let debug = ScsiDebug::new(1, &parameters)?;
    let mut commands = parameter_data();
    commands.extend([read_capacity_16(32), read_10(0, 1, 512)]);
    commands.extend(a_zones_life(3 * 8192));
    let subject = Subject::new("zoned", debug.device(), commands);
    let seen = assert_same_and(
        &[subject],
        "disk=$(disk 0:0:0:0)
         section zoned queue 0 zoned
         section report blkzone report $disk
         section write dd if=/dev/urandom of=$disk bs=64k count=4 seek=128 oflag=direct
         section reset blkzone reset -o 16384 -l 8192 $disk
         section again blkzone report -o 16384 -l 8192 $disk",
    )?;
    seen.assert_has("zoned", &["host-managed\n"]);
    seen.assert_good(&["report", "write", "reset", "again"]);
    assert_eq!(seen.section("report").unwrap().matches("start:").count(), 8);
    seen.assert_has("again", &["em) "]);
    Ok(())
}

#[test]
#[ignore = "only with --long"]
fn a_host_aware_disk_is_in_the_guest_what_it_is_on_the_host() -> Result<()> {
    let debug = ScsiDebug::new(1, &["zbc=aware", "dev_size_mb=32", "zone_size_mb=4"])?;
    let mut subject = Subject::disk("host-aware", debug.device(), 512);
    subject.commands.extend(a_zones_life(3 * 8192));
    assert_same(&[subject])
}

/// scsi_debug plays none of a tape's own commands; that is seen too.
#[test]
#[ignore = "only with --long"]
fn a_tape_drive_is_in_the_guest_what_it_is_on_the_host() -> Result<()> {
    let debug = ScsiDebug::new(1, &["ptype=1", "dev_size_mb=8"])?;
    let mut commands = parameter_data();
    commands.extend([
        Command::read(&[0x05, 0, 0, 0, 0, 0], 6), // READ BLOCK LIMITS
        Command::read(&[0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0], 20), // READ POSITION
        Command::none(&[0x01, 0, 0, 0, 0, 0]),    // REWIND
        Command::none(&[0x10, 0, 0, 0, 1, 0]),    // WRITE FILEMARKS
    ]);
    assert_same(&[Subject::new("tape", debug.device(), commands)])
}

#[test]
fn each_of_64_logical_units_answers_for_itself() -> Result<()> {
    let debug = ScsiDebug::new(64, &["max_luns=64", "dev_size_mb=8"])?;
    let commands = [Command::vpd(0x83, 252), read_10(0, 1, 512)];
    let mut machine = Machine::new(Monitor::chosen())?;
    machine.carry(REPLAY, 0, &commands)?;
    let mut host = String::new();
    for device in debug.devices() {
        host += &send_all(&commands, &[device.generic()])?;
        machine.pass(&device.generic(), "");
    }
    let seen = machine.run(
        "nodes=
         for lun in $(seq 0 63); do
           for node in /sys/class/scsi_device/0:0:0:$lun/device/scsi_generic/*; do nodes=\"$nodes /dev/${node##*/}\"; done
         done
         section all /replay /commands.0 $nodes",
    )?;
    seen.assert_powered_off();
    let whole = |completion: Result<Completion>| show(&completion);
    let host: Vec<String> = host.lines().map(|line| whole(line.parse())).collect();
    let guest: Vec<String> = seen.completions("all").into_iter().map(whole).collect();
    assert_eq!(guest, host);
    Ok(())
}
