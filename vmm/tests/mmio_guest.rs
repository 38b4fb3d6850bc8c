//! The whole program with a guest of a few instructions that drives its controller by MMIO:
//! registers, a doorbell and an interrupt status through a real KVM.

use std::fs;
use std::process::{Command, Stdio};

use arch::layout;
use tempfile::TempDir;
use tests::image::Image;
use tests::tiny::{SPIN, bzimage, out};

/// Registers of the first virtio-mmio device.
fn register(offset: u64) -> u32 {
    u32::try_from(layout::VIRTIO_MMIO.base + offset).unwrap()
}

/// `mov edi, address; mov dword [rdi], value`
fn store(address: u32, value: u32) -> Vec<u8> {
    [&[0xbf][..], &address.to_le_bytes(), &[0xc7, 0x07], &value.to_le_bytes()].concat()
}

/// `mov edi, address; again: mov eax, [rdi]; test eax, eax; jz again`
fn wait_for(address: u32) -> Vec<u8> {
    [&[0xbf][..], &address.to_le_bytes(), &[0x8b, 0x07, 0x85, 0xc0, 0x74, 0xfa]].concat()
}

/// Prints the low byte: `mov edi, address; mov eax, [rdi]; mov dx, COM1; out dx, al`
fn show(address: u32) -> Vec<u8> {
    [&[0xbf][..], &address.to_le_bytes(), &[0x8b, 0x07, 0x66, 0xba, 0xf8, 0x03, 0xee]].concat()
}

/// A driver that starts the device with a request queue whose available ring claims more than
/// it has places for, and rings the doorbell.
fn driver() -> Vec<u8> {
    const RINGS: u32 = 32 << 20;
    const REQUEST_QUEUE: u32 = 2;
    let mut code = show(register(0x000));
    for (offset, value) in [
        (0x070, 1),
        (0x070, 3),
        (0x024, 1),
        (0x020, 1),
        (0x070, 0xb),
        (0x030, REQUEST_QUEUE),
        (0x038, 8),
        (0x080, RINGS),
        (0x090, RINGS + 0x1_0000),
        (0x0a0, RINGS + 0x2_0000),
        (0x044, 1),
        (0x070, 0xf),
    ] {
        code.extend(store(register(offset), value));
    }
    code.extend(show(register(0x070)));
    code.extend(store(RINGS + 0x1_0000, 0x4000 << 16));
    code.extend(store(register(0x050), REQUEST_QUEUE));
    code.extend(wait_for(register(0x060)));
    code.extend(show(register(0x060)));
    code.extend(show(register(0x070)));
    code.extend(store(register(0x070), 0));
    code.extend(show(register(0x070)));
    code.extend(out(layout::SLEEP_CONTROL, layout::SLEEP_TYPE_S5 << 2 | 1 << 5));
    code.extend(SPIN);
    code
}

#[test]
fn a_guest_drives_its_controller_by_mmio() {
    if !tests::kvm::is_there() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = |name| folder.path().join(name);
    fs::write(path("kernel"), bzimage(&driver())).unwrap();
    Image::create(&path("disk.img"), 1 << 20).unwrap();
    let config = "[machine]\nmemory = \"64MiB\"\n[boot]\nkernel = \"kernel\"\n\
                  [[controller]]\ntransport = \"mmio\"\n[[controller.lun]]\nimage = \"disk.img\"\n\
                  [[controller]]\n";
    fs::write(path("mmio.toml"), config).unwrap();
    let output = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_vmm"), "--config"])
        .arg(path("mmio.toml"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    // The magic's first byte; DRIVER_OK; a configuration change: DEVICE_NEEDS_RESET; reset.
    assert_eq!(output.stdout, [b'v', 0x0f, 0x02, 0x4f, 0x00], "{stderr}");
    assert!(stderr.contains("the driver broke the ring"), "{stderr}");
}
