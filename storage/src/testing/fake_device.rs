//! What answers behind a [`FakeHost`](super::FakeHost): a small device whose every answer a test
//! can change.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use crate::buffer::DataBuf;
use crate::host::{Completion, Data, HostLimits, Request};
use crate::scsi::cdb::Cdb;
use crate::scsi::inquiry;
use crate::scsi::sense::{Sense, SenseCode, SenseKey};
use crate::scsi::status::Status;
use crate::scsi::vpd;
use crate::scsi::wire::{put_u16, put_u32, put_u64};

/// A device in memory. Its pages are whole, headers and all, and go out cut to the allocation
/// length, whatever lengths they state.
#[derive(Clone, Debug)]
pub struct FakeDevice {
    /// The standard INQUIRY data.
    pub inquiry: Vec<u8>,
    /// VPD pages by their page codes; those that are not here are refused.
    pub vpd: BTreeMap<u8, Vec<u8>>,
    /// DEVICE-SPECIFIC PARAMETER of the mode parameter header.
    pub device_specific: u8,
    /// The mode parameter block descriptors.
    pub block_descriptors: Vec<u8>,
    /// Mode pages by their page codes, current values.
    pub mode_pages: BTreeMap<u8, Vec<u8>>,
    /// The parameter data of REPORT SUPPORTED OPERATION CODES, all_commands; `None` refuses it.
    pub supported: Option<Vec<u8>>,
    /// Bytes of a logical block.
    pub block_size: u32,
    /// Bytes 12 and 13 of READ CAPACITY(16)'s parameter data: P_TYPE, PROT_EN and the rest.
    pub capacity_flags: [u8; 2],
    /// Whether it knows READ CAPACITY(16).
    pub capacity_16: bool,
    /// What the blocks hold; their number follows from it.
    pub store: Vec<u8>,
    /// It has a medium; otherwise 2/3A/00.
    pub ready: bool,
    /// Unit attentions that wait.
    pub attentions: VecDeque<SenseCode>,
    /// The host answers ENODEV to everything.
    pub gone: bool,
    /// What the host can carry; a command beyond `max_hw_bytes` ends with EIO.
    pub limits: HostLimits,
}

impl Default for FakeDevice {
    /// A disk of 1 MiB in blocks of 512 bytes, with pages 00h, 80h and 83h, behind a host that
    /// carries 512 KiB.
    fn default() -> FakeDevice {
        let names = (b"VMM     ", b"FAKE DISK       ", b"0001");
        let pages = [
            vpd::supported_pages(&[0x00, 0x80, 0x83].map(vpd::PageCode)),
            vpd::page(vpd::PageCode::UNIT_SERIAL_NUMBER, b"FAKE0001"),
            vpd::device_identification(&[0x50, 0x01, 0x40, 0x50, 0, 0, 0, 1]),
        ];
        FakeDevice {
            inquiry: inquiry::standard(0, names.0, names.1, names.2).to_vec(),
            vpd: pages.into_iter().map(|page| (page[1], page)).collect(),
            device_specific: 0,
            block_descriptors: Vec::new(),
            mode_pages: BTreeMap::from([(0x0a, vec![0x0a, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])]),
            supported: None,
            block_size: 512,
            capacity_flags: [0; 2],
            capacity_16: true,
            store: vec![0; 1 << 20],
            ready: true,
            attentions: VecDeque::new(),
            gone: false,
            limits: HostLimits {
                max_bytes: 512 << 10,
                max_hw_bytes: 512 << 10,
                max_segments: 1024,
                alignment: 4,
                queue_depth: 32,
            },
        }
    }
}

type Answer = Result<Vec<u8>, Sense>;

impl FakeDevice {
    /// A device of this PERIPHERAL DEVICE TYPE.
    #[must_use]
    pub fn of_type(device_type: u8) -> FakeDevice {
        let mut device = FakeDevice::default();
        device.inquiry[0] = device_type;
        device.vpd.values_mut().for_each(|page| page[0] = device_type);
        device
    }

    /// Adds a VPD page, which the list of pages is not told about.
    pub fn set_vpd(&mut self, page: &[u8]) {
        self.vpd.insert(page[1], page.to_vec());
    }

    /// A GOOD end with `bytes` as its data, cut to the room that there is.
    pub fn answer(request: &mut Request<'_>, bytes: &[u8]) -> Completion {
        let Data::In(buf) = &mut request.data else { return Completion::default() };
        let left = buf.len() - buf.write(bytes);
        Completion { resid: i32::try_from(left).unwrap_or(i32::MAX), ..Completion::default() }
    }

    pub(super) fn no_device() -> io::Error {
        io::Error::from_raw_os_error(libc::ENODEV)
    }

    pub(super) fn execute(&mut self, request: &mut Request<'_>) -> io::Result<Completion> {
        if self.gone {
            return Err(FakeDevice::no_device());
        }
        if request_len(request) > self.limits.max_hw_bytes {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let cdb = Cdb::new(request.cdb);
        match self.carry_out(&cdb, &mut request.data) {
            Ok(bytes) => Ok(FakeDevice::answer_cut(request, &bytes)),
            Err(sense) => Ok(Completion {
                status: Status::CHECK_CONDITION,
                sense: sense.to_fixed().to_vec(),
                resid: i32::try_from(request_len(request)).unwrap_or(i32::MAX),
                ..Completion::default()
            }),
        }
    }

    fn answer_cut(request: &mut Request<'_>, bytes: &[u8]) -> Completion {
        let cut = allocation_length(&Cdb::new(request.cdb)).unwrap_or(bytes.len());
        FakeDevice::answer(request, bytes.get(..cut).unwrap_or(bytes))
    }

    fn carry_out(&mut self, cdb: &Cdb, data: &mut Data<'_>) -> Answer {
        const EXEMPT: [u8; 3] = [0x03, 0x12, 0xa0];
        if !EXEMPT.contains(&cdb.opcode())
            && let Some(attention) = self.attentions.pop_front()
        {
            return Err(attention.into());
        }
        match cdb.opcode() {
            0x03 => Ok(self.request_sense()),
            0x12 => self.inquiry(cdb),
            0x1a => Ok(self.mode_sense(cdb, 4)),
            0x5a => Ok(self.mode_sense(cdb, 8)),
            0xa0 => Ok(vec![0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            0xa3 if cdb.u8(1) & 0x1f == 0x0c => self.supported.clone().ok_or_else(unsupported),
            _ if !self.ready => {
                Err(SenseCode { key: SenseKey::NOT_READY, asc: 0x3a, ascq: 0x00 }.into())
            }
            0x00 | 0x1b | 0x35 | 0x91 => Ok(Vec::new()),
            0x25 => Ok(self.capacity_10()),
            0x9e if cdb.u8(1) & 0x1f == 0x10 && self.capacity_16 => Ok(self.capacity_16_data()),
            0x08 | 0x28 | 0xa8 | 0x88 => self.range(cdb).map(|range| self.store[range].to_vec()),
            0x0a | 0x2a | 0xaa | 0x8a => self.write(cdb, data),
            _ => Err(unsupported()),
        }
    }

    fn request_sense(&mut self) -> Vec<u8> {
        let code = self.attentions.pop_front().unwrap_or(SenseCode::NO_SENSE);
        Sense::from(code).to_fixed().to_vec()
    }

    fn inquiry(&self, cdb: &Cdb) -> Answer {
        match (cdb.bit(1, 0), cdb.u8(2)) {
            (false, 0) => Ok(self.inquiry.clone()),
            (false, _) => Err(Sense::invalid_field(2, None)),
            (true, code) => self.vpd.get(&code).cloned().ok_or(Sense::invalid_field(2, None)),
        }
    }

    fn mode_sense(&self, cdb: &Cdb, header: usize) -> Vec<u8> {
        let code = cdb.u8(2) & 0x3f;
        let pages = self.mode_pages.iter().filter(|(key, _)| code == 0x3f || code == **key);
        let mut data = vec![0; header];
        data[header / 4 + 1] = self.device_specific;
        if !cdb.bit(1, 3) {
            data[header - 1] = u8::try_from(self.block_descriptors.len()).unwrap_or(0);
            data.extend(&self.block_descriptors);
        }
        pages.for_each(|(_, page)| data.extend(page));
        if header == 4 {
            data[0] = u8::try_from(data.len() - 1).unwrap_or(u8::MAX);
        } else {
            let len = u16::try_from(data.len() - 2).unwrap_or(u16::MAX);
            put_u16(&mut data, 0, len);
        }
        data
    }

    fn blocks(&self) -> u64 {
        (self.store.len() as u64).checked_div(self.block_size.into()).unwrap_or(0)
    }

    fn capacity_10(&self) -> Vec<u8> {
        let mut data = vec![0; 8];
        put_u32(&mut data, 0, u32::try_from(self.blocks().saturating_sub(1)).unwrap_or(u32::MAX));
        put_u32(&mut data, 4, self.block_size);
        data
    }

    fn capacity_16_data(&self) -> Vec<u8> {
        let mut data = vec![0; 32];
        put_u64(&mut data, 0, self.blocks().saturating_sub(1));
        put_u32(&mut data, 8, self.block_size);
        data[12..14].copy_from_slice(&self.capacity_flags);
        data
    }

    /// The bytes of the store that a READ or WRITE names.
    fn range(&self, cdb: &Cdb) -> Result<std::ops::Range<usize>, Sense> {
        let (lba, blocks) = match cdb.opcode() {
            0x08 | 0x0a => {
                let blocks = if cdb.u8(4) == 0 { 256 } else { u64::from(cdb.u8(4)) };
                (u64::from(cdb.u32(0) & 0x1f_ffff), blocks)
            }
            0x28 | 0x2a => (cdb.u32(2).into(), cdb.u16(7).into()),
            0xa8 | 0xaa => (cdb.u32(2).into(), cdb.u32(6).into()),
            _ => (cdb.u64(2), cdb.u32(10).into()),
        };
        let end = lba.saturating_add(blocks);
        if end > self.blocks() {
            return Err(Sense::lba_out_of_range(self.blocks()));
        }
        let byte = |block: u64| usize::try_from(block * u64::from(self.block_size)).unwrap_or(0);
        Ok(byte(lba)..byte(end))
    }

    fn write(&mut self, cdb: &Cdb, data: &Data<'_>) -> Answer {
        let range = self.range(cdb)?;
        if let Data::Out(buf) = data {
            buf.read(&mut self.store[range]);
        }
        Ok(Vec::new())
    }
}

/// ALLOCATION LENGTH of what answers with parameter data.
fn allocation_length(cdb: &Cdb) -> Option<usize> {
    let len = match cdb.opcode() {
        0x03 | 0x1a => cdb.u8(4).into(),
        0x12 => cdb.u16(3).into(),
        0x5a => cdb.u16(7).into(),
        0xa0 | 0xa3 => cdb.u32(6),
        0x9e => cdb.u32(10),
        _ => return None,
    };
    usize::try_from(len).ok()
}

fn request_len(request: &Request<'_>) -> u64 {
    let len = match &request.data {
        Data::None => 0,
        Data::In(buf) => DataBuf::len(buf),
        Data::Out(buf) => DataBuf::len(buf),
    };
    len as u64
}

fn unsupported() -> Sense {
    SenseCode::INVALID_COMMAND_OPERATION_CODE.into()
}
