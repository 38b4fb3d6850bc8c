//! Images and devices of the host: what is answered as stable has left the host's page cache, and
//! a flush that the host refuses is told.

mod common;

use std::fs::File;
use std::path::Path;

use common::host::{self, Loop, direct};
use common::seccomp::without_fdatasync;
use common::{Initiator, SYNCHRONIZE_CACHE, page_cache, transfer_16};
use storage::backend::{Backend, BlockDevice, Medium, Options, RawFile};
use storage::engine::{IoContext, Pool};
use storage::lun::LogicalUnit;
use storage::lun::disk::Disk;
use storage::lun::spec::{LunSpec, WriteCache};
use storage::scsi::sense::SenseCode;
use storage::task::Response;
use storage::testing::disk_spec;

const SIZE: u64 = 1 << 20;
const BLOCK: usize = 512;

/// Runs `test` with an image and a device, as far as this host has them, and their paths.
fn each(test: impl Fn(&str, &Path, &dyn Fn() -> Box<dyn Backend>)) {
    let image = host::image(SIZE);
    let open = |options: &Options| RawFile::open(image.path(), options).unwrap();
    test("image", image.path(), &|| Box::new(open(&Options::default())));
    if RawFile::open(image.path(), &direct()).is_ok() {
        test("direct image", image.path(), &|| Box::new(open(&direct())));
    }
    let Some(device) = Loop::attach(SIZE, &[]) else { return };
    let open = || BlockDevice::open(&device.device, &Options::default()).unwrap();
    test("device", &device.device, &|| Box::new(open()));
}

fn disk(backend: Box<dyn Backend>, write_cache: WriteCache) -> Disk {
    Disk::new(Medium::new("test", backend), &LunSpec { write_cache, ..disk_spec() })
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
    each(|name, _, open| {
        for (write_cache, cdb, out) in stabilizing() {
            let disk = disk(open(), write_cache);
            let told = without_fdatasync(libc::EIO, || {
                let pool = IoContext::without_ring(Pool::new(1)).unwrap();
                [IoContext::inline(), pool].map(|mut io| send(&disk, &mut io, &cdb, &out))
            });
            for response in told {
                let Response::Status { sense: Some(sense), .. } = response else {
                    panic!("{name} {cdb:02x?} {response:?}");
                };
                assert_eq!(sense.code, SenseCode::WRITE_ERROR, "{name} {cdb:02x?}");
            }
        }
    });
}

#[test]
fn what_is_answered_as_stable_has_left_the_page_cache() {
    each(|name, path, open| {
        for (write_cache, cdb, out) in stabilizing() {
            let engines = [
                IoContext::inline(),
                IoContext::without_ring(Pool::new(1)).unwrap(),
                IoContext::new(8, Pool::new(1)).unwrap(),
            ];
            for mut io in engines {
                let disk = disk(open(), write_cache);
                let write = transfer_16(0x8a, false, 0, 8);
                send(&disk, &mut io, &write, &[9; 8 * BLOCK]);
                assert_eq!(send(&disk, &mut io, &cdb, &out), Response::good(0));
                let Some(pages) = page_cache(&File::open(path).unwrap(), 0, SIZE) else { return };
                assert_eq!(pages.not_stable(), 0, "{name} {cdb:02x?} {io:?}");
            }
        }
    });
}
