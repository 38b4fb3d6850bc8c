//! Images and devices of the host: what is answered as stable has left the host's page cache, and
//! a flush that the host refuses is told; and what is to come from the medium is not in that cache.

#![expect(unsafe_code, reason = "backends borrow the tests' memory")]

mod common;

use std::fs::File;

use common::host::{self, Loop, direct};
use common::seccomp::without_fdatasync;
use common::{Initiator, SYNCHRONIZE_CACHE, page_cache, transfer_16};
use storage::backend::{Backend, BlockDevice, Medium, Options, RawFile};
use storage::engine::{IoContext, Pool};
use storage::lun::LogicalUnit;
use storage::lun::disk::Disk;
use storage::lun::spec::{DiskSpec, WriteCache};
use storage::scsi::sense::SenseCode;
use storage::task::Response;
use storage::testing::{OwnedBuf, disk_spec};

const SIZE: u64 = 1 << 20;
const BLOCK: usize = 512;

/// Runs `test` with an image and a device, as far as this host has them, and their descriptors.
fn each(test: impl Fn(&str, File, Box<dyn Backend>)) {
    let run = |name, backend: Box<dyn Backend>| {
        let file = backend.raw_fd().unwrap().try_clone_to_owned().unwrap().into();
        test(name, file, backend);
    };
    for (name, options) in [("image", Options::default()), ("direct image", direct())] {
        let image = host::image(SIZE);
        match RawFile::open(image.path(), &options) {
            Err(why) if options.direct => eprintln!("skipped: {name}: it {why}"),
            file => run(name, Box::new(file.unwrap())),
        }
    }
    let Some(device) = Loop::attach(SIZE, &[]) else { return };
    let opened = BlockDevice::open(&device.device, &Options::default()).unwrap();
    run("device", Box::new(opened));
}

fn disk(backend: Box<dyn Backend>, write_cache: WriteCache) -> Disk {
    Disk::new(Medium::new("test", backend), &DiskSpec { write_cache, ..disk_spec() })
}

/// Runs one command that sends `out`; returns its response.
fn send(disk: &Disk, io: &mut IoContext, cdb: &[u8], out: &[u8]) -> Response {
    let mut initiator = Initiator::new(io);
    initiator.align = 4096;
    let (place, task) = initiator.task(cdb, out, 0);
    initiator.took(disk.submit(task, io));
    initiator.drain(io);
    initiator.answered.remove(&place).unwrap().0
}

/// A command with its data, which is answered once everything is stable that it wrote, and with
/// which write cache.
fn stabilizing() -> [(WriteCache, Vec<u8>, Vec<u8>); 5] {
    let wce_off = [&[0, 0, 0, 0, 0x08, 18][..], &[0; 18]].concat();
    let (write, same) = (transfer_16(0x8a, false, 0, 8), transfer_16(0x93, false, 0, 8));
    [
        (WriteCache::Back, transfer_16(0x8a, true, 0, 8).to_vec(), vec![7; 8 * BLOCK]),
        (WriteCache::Back, SYNCHRONIZE_CACHE.to_vec(), vec![]),
        (WriteCache::Back, vec![0x15, 0x10, 0, 0, 24, 0], wce_off),
        (WriteCache::Through, write.to_vec(), vec![7; 8 * BLOCK]),
        (WriteCache::Through, same.to_vec(), vec![7; BLOCK]),
    ]
}

#[test]
fn a_flush_that_the_host_refuses_is_told() {
    for (write_cache, cdb, out) in stabilizing() {
        for with_pool in [false, true] {
            each(|name, _, backend| {
                let disk = disk(backend, write_cache);
                let response = without_fdatasync(libc::EIO, || {
                    let mut io = match with_pool {
                        true => IoContext::without_ring(Pool::new(1)).unwrap(),
                        false => IoContext::inline(),
                    };
                    send(&disk, &mut io, &cdb, &out)
                });
                let lost = Response::check_condition(SenseCode::WRITE_ERROR, 0);
                assert_eq!(response, lost, "{name} {cdb:02x?}");
            });
        }
    }
}

#[test]
fn what_is_answered_as_stable_has_left_the_page_cache() {
    for (write_cache, cdb, out) in stabilizing() {
        each(|name, file, backend| {
            let disk = disk(backend, write_cache);
            let engines = [
                IoContext::inline(),
                IoContext::without_ring(Pool::new(1)).unwrap(),
                IoContext::new(8, Pool::new(1)).unwrap(),
            ];
            for mut io in engines {
                let write = transfer_16(0x8a, false, 0, 8);
                assert_eq!(send(&disk, &mut io, &write, &[9; 8 * BLOCK]), Response::good(0));
                assert_eq!(send(&disk, &mut io, &cdb, &out), Response::good(0));
                let Some(pages) = page_cache(&file, 0, SIZE) else { return };
                assert_eq!(pages.not_stable(), 0, "{name} {cdb:02x?} {io:?}");
            }
        });
    }
}

#[test]
fn what_is_read_from_the_medium_is_not_in_the_page_cache() {
    each(|name, file, backend| {
        let mut memory = OwnedBuf::aligned(&[usize::try_from(SIZE).unwrap()], 4096);
        // SAFETY: the memory outlives the transfers.
        let mut lend = || unsafe { memory.lend() };
        backend.write(0, &mut lend()).unwrap();
        backend.flush().unwrap();
        // In the middle of a page, which may be in the middle of a folio. Others may look at a
        // device meanwhile.
        let offset = SIZE / 2 + 512;
        let gone = (0..10).any(|_| {
            backend.read(0, &mut lend()).unwrap();
            backend.drop_cached(offset, 512);
            page_cache(&file, offset, 512).is_none_or(|pages| pages.cached == 0)
        });
        assert!(gone, "{name}");
    });
}
