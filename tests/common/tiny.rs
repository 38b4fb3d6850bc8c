//! Kernels of a few instructions, for any KVM: a bzImage to a boot loader, and at its 64-bit
//! entry point whatever code a test wants.

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
