//! Kernels of a few instructions, for any KVM: a bzImage or an ELF file to a boot loader, and at
//! its entry point whatever code a test wants.

/// `jmp .`
pub const SPIN: [u8; 2] = [0xeb, 0xfe];

/// Sends every byte that COM1 receives back: `in al, 3fdh; test al, 1; jz`, `in al, 3f8h;
/// out 3f8h, al; jmp`.
pub const ECHO: [u8; 17] = [
    0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0xeb,
    0xef,
];

/// Waits until COM1 has received something: `in al, 3fdh; test al, 1; jz`.
pub const WAIT_FOR_INPUT: [u8; 9] = [0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7];

/// `mov dx, port; mov al, value; out dx, al`
#[must_use]
pub fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, value, 0xee]
}

/// Writes `byte` to COM1 `count` times: `mov ecx, count; out dx, al; dec ecx; jnz`.
#[must_use]
pub fn repeat(byte: u8, count: u32) -> Vec<u8> {
    let mut code = out(0x3f8, byte);
    code.push(0xb9);
    code.extend((count - 1).to_le_bytes());
    code.extend([0xee, 0xff, 0xc9, 0x75, 0xfb]);
    code
}

/// A bzImage of protocol 2.15 that runs `code` (Linux boot protocol, the real-mode kernel
/// header).
#[must_use]
pub fn bzimage(code: &[u8]) -> Vec<u8> {
    const SETUP_SECTORS: usize = 1;
    const PROTECTED_MODE: usize = 512 * (1 + SETUP_SECTORS);
    const ENTRY_64: usize = 0x200;
    let mut image = vec![0; PROTECTED_MODE + ENTRY_64];
    let mut put =
        |offset: usize, bytes: &[u8]| image[offset..][..bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]); // setup_sects
    put(0x1fe, &[0x55, 0xaa]); // boot_flag
    put(0x200, &[0xeb, 0x6a]); // jump, over the header
    put(0x202, b"HdrS");
    put(0x206, &0x020f_u16.to_le_bytes()); // version
    put(0x211, &[1]); // loadflags: LOADED_HIGH
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes()); // initrd_addr_max
    put(0x236, &[1, 0]); // xloadflags: XLF_KERNEL_64
    put(0x238, &2047_u32.to_le_bytes()); // cmdline_size
    put(0x258, &(1_u64 << 20).to_le_bytes()); // pref_address
    put(0x260, &0x1_0000_u32.to_le_bytes()); // init_size
    image.extend(code);
    image
}

/// A vmlinux, entered by the 64-bit boot protocol at 1 MiB.
#[must_use]
pub fn vmlinux(code: &[u8]) -> Vec<u8> {
    elf(code, &[])
}

/// An ELF file that is entered by PVH, in 32-bit protected mode, at 1 MiB.
#[must_use]
pub fn pvh(code: &[u8]) -> Vec<u8> {
    const PHYS32_ENTRY: u32 = 18;
    let header: Vec<u8> = [4, 4, PHYS32_ENTRY].iter().flat_map(|word| word.to_le_bytes()).collect();
    elf(code, &[&header, &b"Xen\0"[..], &LOADED_AT.to_le_bytes()].concat())
}

const LOADED_AT: u32 = 1 << 20;

/// An ELF-64 file with `code` at its entry point, and `notes` (System V ABI).
fn elf(code: &[u8], notes: &[u8]) -> Vec<u8> {
    const HEADER: u16 = 64;
    const PROGRAM_HEADER: u16 = 56;
    const LOAD: u32 = 1;
    const NOTE: u32 = 4;
    let (notes_at, len) = (u64::from(HEADER + 2 * PROGRAM_HEADER), |part: &[u8]| part.len() as u64);
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2_u16, 62].map(u16::to_le_bytes).concat()); // executable, x86-64
    file.extend(1_u32.to_le_bytes());
    // Entry point, program headers, no section headers.
    file.extend([LOADED_AT.into(), u64::from(HEADER), 0].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    let sizes = [HEADER, PROGRAM_HEADER, 2, 0, 0, 0];
    file.extend(sizes.map(u16::to_le_bytes).concat());
    let address = u64::from(LOADED_AT);
    let parts =
        [(LOAD, notes_at + len(notes), address, len(code)), (NOTE, notes_at, 0, len(notes))];
    for (kind, offset, address, len) in parts {
        file.extend([kind, 5].map(u32::to_le_bytes).concat());
        file.extend([offset, address, address, len, len, 4].map(u64::to_le_bytes).concat());
    }
    file.extend(notes);
    file.extend(code);
    file
}
