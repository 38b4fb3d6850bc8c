//! What an initiator may see and choose: MODE SENSE and MODE SELECT of the Caching and Control
//! pages (SPC-6, SBC-4).

use super::state::{Change, State};
use super::{BufferLens, Disk, Plan};
use crate::scsi::cdb::Cdb;
use crate::scsi::mode::{self, BlockDescriptor, Header, Page, PageCode, PageControl};
use crate::scsi::sense::{Sense, SenseCode};

/// The mode pages of a disk, ascending.
const PAGES: [PageCode; 2] = [PageCode::CACHING, PageCode::CONTROL];

impl Disk {
    pub(super) fn mode_sense(&self, cdb: &Cdb) -> Result<Plan, Sense> {
        let control = PageControl(cdb.u8(2) >> 6);
        if control == PageControl::SAVED {
            return Err(SenseCode::SAVING_PARAMETERS_NOT_SUPPORTED.into());
        }
        // Subpage FFh asks for all of them; only 00h exists.
        if !matches!(cdb.u8(3), 0x00 | 0xff) {
            return Err(Sense::invalid_field(3, None));
        }
        let pages: Vec<u8> = match PageCode(cdb.u8(2) & 0x3f) {
            PageCode::ALL => {
                PAGES.into_iter().filter_map(|code| self.values(code, control)).flatten().collect()
            }
            code => self.values(code, control).ok_or(Sense::invalid_field(2, Some(5)))?,
        };
        let device_specific = mode::device_specific(self.is_write_protected());
        let bytes = header(cdb).list(device_specific, &self.block_descriptor(cdb), &pages);
        Ok(Plan::Data { bytes, allocation_length: list_len(cdb).into() })
    }

    /// The values of a page that PAGE CONTROL asks for, if there is such a page.
    fn values(&self, code: PageCode, control: PageControl) -> Option<Vec<u8>> {
        match control {
            PageControl::CHANGEABLE => self.changeable(code),
            PageControl::DEFAULT => page(code, self.state.initial()),
            _ => page(code, self.state.now()),
        }
    }

    /// The block descriptor, unless DBD turns it off; the long one, where it is needed and LLBAA
    /// allows it.
    fn block_descriptor(&self, cdb: &Cdb) -> Vec<u8> {
        const DBD: u8 = 3;
        const LLBAA: u8 = 4;
        let long = header(cdb) == Header::Ten
            && cdb.bit(1, LLBAA)
            && u32::try_from(self.geometry.blocks).is_err();
        match (cdb.bit(1, DBD), long) {
            (true, _) => Vec::new(),
            (false, true) => self.described().to_long(),
            (false, false) => self.described().to_short(),
        }
    }

    fn described(&self) -> BlockDescriptor {
        BlockDescriptor { blocks: self.geometry.blocks, block_size: self.geometry.block_size }
    }

    /// MODE SELECT, of which the parameter list is yet to be read.
    pub(super) fn mode_select(cdb: &Cdb, lens: BufferLens) -> Result<Plan, Sense> {
        const PF: u8 = 4;
        const RTD: u8 = 1;
        const SP: u8 = 0;
        for (bit, value) in [(PF, true), (RTD, false), (SP, false)] {
            if cdb.bit(1, bit) != value {
                return Err(Sense::invalid_field(1, Some(bit)));
            }
        }
        Ok(Plan::parameters(list_len(cdb), lens))
    }

    /// MODE SELECT with its parameter list. Nothing changes unless all of it is right. Who turns
    /// the write cache off, or forbids writing, can rely on all that was written before, also where
    /// it was so already: that may be from a MODE SELECT whose flush did not come to an end. The
    /// change comes before the flush, for HEAD OF QUEUE writes that come meanwhile.
    pub(super) fn mode_selected(&self, cdb: &Cdb, list: &[u8]) -> Result<Plan, Sense> {
        let mut parameters = header(cdb).parse(list)?;
        parameters.check_descriptor(self.described())?;
        let old = self.state.now();
        let (new, flush) = parameters.try_fold((old, false), |(state, flush), page| {
            let page = page?;
            Ok::<_, Sense>((self.selected(state, &page)?, flush || needs_flush(&page)))
        })?;
        if flush {
            self.refuse_after_lost_writes()?;
        }
        Ok(Plan::Change { change: Change::between(old, new), flush })
    }

    /// The state that `page` of a MODE SELECT leads to from `state`.
    fn selected(&self, state: State, page: &Page<'_>) -> Result<State, Sense> {
        let at = u16::try_from(page.at).unwrap_or(u16::MAX);
        let unknown = || Sense::invalid_parameter(at, Some(5));
        let code = page.code().ok_or_else(unknown)?;
        let current = self::page(code, state).ok_or_else(unknown)?;
        page.check(&current, &self.changeable(code).unwrap_or_default())?;
        Ok(match code {
            PageCode::CACHING => state.with(State::WRITE_CACHE, mode::write_cache(page.bytes)),
            _ => state
                .with(State::DESCRIPTOR_SENSE, mode::descriptor_sense(page.bytes))
                .with(State::SOFTWARE_WRITE_PROTECT, mode::software_write_protect(page.bytes)),
        })
    }

    /// A page with a 1 for each bit that can be changed. A disk that begins without a write cache
    /// never has one: a reset, which does not flush, would turn it off.
    fn changeable(&self, code: PageCode) -> Option<Vec<u8>> {
        let has_cache = self.state.initial().has(State::WRITE_CACHE);
        let all = State::DESCRIPTOR_SENSE
            .with(State::SOFTWARE_WRITE_PROTECT, true)
            .with(State::WRITE_CACHE, has_cache);
        Some(mode::changeable(&page(code, State::default())?, &page(code, all)?))
    }

    /// Whether commands that modify the medium are refused (WP).
    pub(super) fn is_write_protected(&self) -> bool {
        self.read_only || self.state.now().has(State::SOFTWARE_WRITE_PROTECT)
    }
}

/// Whether `page` of a MODE SELECT turns the write cache off, or forbids writing.
fn needs_flush(page: &Page<'_>) -> bool {
    match page.code() {
        Some(PageCode::CACHING) => !mode::write_cache(page.bytes),
        _ => mode::software_write_protect(page.bytes),
    }
}

/// A page as `state` makes it.
fn page(code: PageCode, state: State) -> Option<Vec<u8>> {
    match code {
        PageCode::CACHING => Some(mode::caching(state.has(State::WRITE_CACHE))),
        PageCode::CONTROL => Some(mode::control(
            state.has(State::DESCRIPTOR_SENSE),
            state.has(State::SOFTWARE_WRITE_PROTECT),
        )),
        _ => None,
    }
}

fn header(cdb: &Cdb) -> Header {
    const GROUP_SIX: u8 = 0;
    if cdb.opcode() >> 5 == GROUP_SIX { Header::Six } else { Header::Ten }
}

/// ALLOCATION LENGTH or PARAMETER LIST LENGTH
fn list_len(cdb: &Cdb) -> u16 {
    match header(cdb) {
        Header::Six => cdb.u8(4).into(),
        Header::Ten => cdb.u16(7),
    }
}
