//! The same commands on the host and in the guest: status, sense data, residual and data are
//! compared byte for byte.

use std::fs;
use std::io::Result;
use std::path::Path;

use tests::host;
use tests::passthrough::Machine;
use tests::scsi::command::{Command, Completion, send_all};
use tests::scsi::device::Device;
use tests::scsi::gadget::{Gadget, Medium};
use tests::scsi::lio::{Port, Storage};
use tests::scsi::scsi_debug::ScsiDebug;

use crate::common::{REPLAY, monitor};

const MIB: u64 = 1 << 20;

/// INQUIRY, its pages, modes and logs, at whole and at cut lengths; and what no device has.
fn parameter_data() -> Vec<Command> {
    let mut commands = Vec::new();
    for len in [0_u8, 3, 5, 36, 96, 255] {
        commands.push(Command::read(&[0x12, 0, 0, 0, len, 0], len.into()));
    }
    for page in
        [0x00, 0x80, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89].into_iter().chain(0xb0..=0xb7)
    {
        commands.extend([4, 9, 13, 44, 252].map(|len| Command::vpd(page, len)));
    }
    commands.push(Command::vpd(0xc7, 252));
    commands.push(Command::read(&[0x12, 0, 0x80, 0, 96, 0], 96)); // a page without EVPD
    for (page, subpage) in
        [(0x3f, 0), (0x3f, 0xff), (0x08, 0), (0x0a, 0), (0x0a, 1), (0x1c, 0), (0x15, 0)]
    {
        for dbd in [0, 8] {
            commands.push(Command::read(&[0x1a, dbd, page, subpage, 252, 0], 252));
            commands.push(Command::read(&[0x5a, dbd, page, subpage, 0, 0, 0, 1, 0xfc, 0], 508));
        }
        commands.push(Command::read(&[0x1a, 0, page, subpage, 3, 0], 3));
    }
    for (page, subpage) in [(0x00, 0), (0x00, 0xff), (0x0d, 0), (0x2f, 0), (0x3d, 0)] {
        commands.push(Command::read(&[0x4d, 0, 0x40 | page, subpage, 0, 0, 0, 1, 0, 0], 256));
    }
    for descriptor in [0, 1] {
        commands.push(Command::read(&[0x03, descriptor, 0, 0, 252, 0], 252));
    }
    commands.push(Command::none(&[0; 6]));
    commands
}

fn read_10(lba: u32, blocks: u16, buffer: usize) -> Command {
    let (lba, blocks) = (lba.to_be_bytes(), blocks.to_be_bytes());
    let cdb = [0x28, 0, lba[0], lba[1], lba[2], lba[3], 0, blocks[0], blocks[1], 0];
    Command::read(&cdb, buffer)
}

fn write_10(lba: u32, bytes: &[u8], block: usize) -> Command {
    let lba = lba.to_be_bytes();
    let blocks = u8::try_from(bytes.len() / block).unwrap();
    Command::write(&[0x2a, 0, lba[0], lba[1], lba[2], lba[3], 0, 0, blocks, 0], bytes)
}

/// Reads, writes and what disks have besides, of blocks of this size; with buffers that are
/// shorter and longer than the transfer, and commands that fail.
fn medium_access(block: usize) -> Vec<Command> {
    let pattern: Vec<u8> = (0..=255).cycle().take(4 * block).collect();
    let capacity_16 = |len: u8| {
        let cdb = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, len, 0, 0];
        Command::read(&cdb, len.into())
    };
    vec![
        Command::read(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8),
        Command::read(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 64),
        capacity_16(32),
        capacity_16(12),
        capacity_16(8),
        write_10(8, &pattern, block),
        read_10(8, 4, 4 * block),
        read_10(8, 1, 2 * block),
        read_10(8, 2, block),
        read_10(8, 0, 0),
        read_10(8, 1, 0),
        Command::read(&[0x08, 0, 0, 8, 1, 0], block),
        Command::read(&[0xa8, 0, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0], block),
        Command::read(&[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0], block),
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

/// What the host's device and the guest's answer differently, as text: a line for each difference.
fn differences(
    commands: &[Command],
    host: &[Result<Completion>],
    guest: &[Result<Completion>],
) -> String {
    assert_eq!((host.len(), guest.len()), (commands.len(), commands.len()));
    let mut text = String::new();
    for ((command, host), guest) in commands.iter().zip(host).zip(guest) {
        let [host, guest] = [host, guest].map(show);
        if host != guest {
            text += &format!("{command}\n  host  {host}\n  guest {guest}\n");
        }
    }
    text
}

fn show(completion: &Result<Completion>) -> String {
    match completion {
        Ok(completion) => completion.to_string(),
        Err(error) => error.to_string(),
    }
}

/// A file with a 4096-byte block device on it.
fn loop_4096(file: &Path) -> Result<String> {
    host::load(&["loop"])?;
    host::run("losetup", &["-b", "4096", "-f", "--show", &file.display().to_string()])
}

#[test]
fn what_the_guest_sees_is_what_the_host_sees() -> Result<()> {
    let scratch = tempfile::TempDir::new()?;
    let file = |name: &str, size: u64| -> Result<std::path::PathBuf> {
        let path = scratch.path().join(name);
        fs::File::create(&path)?.set_len(size)?;
        Ok(path)
    };
    let (small, large, cd) =
        (file("512", 16 * MIB)?, file("4096", 16 * MIB)?, file("cd", 16 * MIB)?);
    let loop_device = loop_4096(&large)?;
    let debug = ScsiDebug::new(
        1,
        &["dev_size_mb=16", "lbpu=1", "lbpws=1", "opts=2", "medium_error_start=4660"],
    )?;
    let storage = Storage::memory("memory", 16 * MIB)?;
    let port = Port::loopback("naa.5001405000000001", "naa.50014050000000a1", &[&storage])?;
    let gadget = Gadget::new(&[
        Medium::Disk(&small),
        Medium::Disk(Path::new(&loop_device)),
        Medium::Cdrom(&cd),
    ])?;
    let mut devices: Vec<Device> = debug.devices().to_vec();
    devices.extend(port.devices()?);
    devices.extend(gadget.devices().to_vec());

    let mut commands = parameter_data();
    commands.extend(medium_access(512));
    commands.push(read_10(4660, 1, 512));
    let mut machine = Machine::new(monitor())?;
    machine.carry(REPLAY, &commands)?;
    let mut host = Vec::new();
    for device in &devices {
        eprintln!("{} {}", device.address(), device.block().display());
        send_all(&[Command::none(&[0; 6])], &[device.generic()])?;
        let lines = send_all(&commands, &[device.generic()])?;
        host.push(lines.lines().map(str::parse).collect::<Vec<Result<Completion>>>());
        machine.pass(
            &if device.attribute("type")? == "5" { device.generic() } else { device.block() },
            "policy = \"full\"",
        );
    }
    let seen = machine.run(
        "for lun in 0 1 2 3 4; do section $lun /replay /commands $(generic 0:0:0:$lun); done
         section lsscsi lsscsi -g
         section limits grep . /sys/block/sd*/queue/max_sectors_kb",
    )?;
    host::run("losetup", &["-d", &loop_device])?;
    seen.assert_powered_off();
    for (lun, host) in host.iter().enumerate() {
        let guest = seen.completions(&lun.to_string());
        println!("==== lun {lun}\n{}", differences(&commands, host, &guest));
    }
    println!("{}{}", seen.section("lsscsi").unwrap(), seen.section("limits").unwrap());
    panic!();
}
