//! Plans as bytes in, plans out; and whole commands on a medium in memory.

use super::*;
use crate::backend::Provisioning;
use crate::engine::{ByteRange, Compare};
use crate::testing::disk_spec as spec;

mod identity;
mod mode_pages;
mod provisioning;
mod read_write;
mod ready;
mod submitted;
mod supported;

/// A medium of which only the size and what it can do are looked at.
#[derive(Debug)]
struct Sized {
    geometry: Geometry,
    provisioning: Provisioning,
}

impl crate::backend::Backend for Sized {
    fn geometry(&self) -> Geometry {
        self.geometry
    }
    fn read(&self, _: u64, _: &mut crate::buffer::DataBuf) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
    fn write(&self, _: u64, _: &mut crate::buffer::DataBuf) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn topology(&self) -> Topology {
        Topology { physical_block_size: 4 * self.geometry.block_size, alignment_offset: 1024 }
    }
    fn provisioning(&self) -> Provisioning {
        self.provisioning
    }
    fn raw_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

const BLOCK_SIZE: u32 = 512;

const THIN: Provisioning =
    Provisioning { unmap_granularity: Some(4096), unmapped_reads_zero: true };

fn disk(blocks: u64, block_size: u32, provisioning: Provisioning, spec: &DiskSpec) -> Disk {
    let geometry = Geometry { blocks, block_size };
    Disk::new(Medium::new("test", Box::new(Sized { geometry, provisioning })), spec)
}

/// A fully provisioned disk of 512-byte blocks.
fn disk_of(blocks: u64) -> Disk {
    disk(blocks, BLOCK_SIZE, Provisioning::default(), &spec())
}

/// A thin provisioned disk of 512-byte blocks.
fn thin_disk_of(blocks: u64) -> Disk {
    disk(blocks, BLOCK_SIZE, THIN, &spec())
}

const PLENTY: BufferLens = BufferLens { data_out: 1 << 30, data_in: 1 << 30 };

fn plan_of(disk: &Disk, cdb: &[u8]) -> Result<Plan, Sense> {
    disk.plan(&Cdb::new(cdb), PLENTY)
}

/// Plans a command of a disk of 1000 blocks with plenty of buffer.
fn plan(cdb: &[u8]) -> Result<Plan, Sense> {
    plan_of(&disk_of(1000), cdb)
}

fn data_of(disk: &Disk, cdb: &[u8]) -> Vec<u8> {
    match plan_of(disk, cdb) {
        Ok(Plan::Data { bytes, .. }) => bytes,
        other => panic!("{cdb:02x?}: {other:?}"),
    }
}

fn data(cdb: &[u8]) -> Vec<u8> {
    data_of(&disk_of(1000), cdb)
}

fn refused(sense: impl Into<Sense>) -> Result<Plan, Sense> {
    Err(sense.into())
}

fn invalid_field(byte: u16, bit: Option<u8>) -> Result<Plan, Sense> {
    Err(Sense::invalid_field(byte, bit))
}

/// A 16-byte CDB with these fields where READ(16) has them.
fn cdb_16(opcode: u8, options: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode, options);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}
