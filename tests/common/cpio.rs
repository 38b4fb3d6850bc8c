//! An initramfs archive of one file, to be appended to that of the guest.

/// A newc archive that holds a regular file.
#[must_use]
pub fn archive(name: &str, contents: &[u8]) -> Vec<u8> {
    const REGULAR_EXECUTABLE: u32 = 0o100_755;
    let mut archive = Vec::new();
    entry(&mut archive, name, REGULAR_EXECUTABLE, contents);
    entry(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

/// Appends an entry: a header of hex fields, the name with its NUL, the contents, each padded to
/// four bytes.
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, contents: &[u8]) {
    let [size, name_size] = [contents.len(), name.len() + 1];
    let fields = [1, mode as usize, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    archive.extend(b"070701");
    for field in fields {
        archive.extend(format!("{field:08x}").bytes());
    }
    archive.extend(name.bytes());
    archive.push(0);
    pad(archive);
    archive.extend(contents);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}
