//! Designators: the names by which a logical unit, a port or a device is told apart (SPC-6,
//! Device Identification VPD page).

use std::fmt;
use std::str::FromStr;

/// A worldwide unique name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Designator {
    kind: Kind,
    bytes: Vec<u8>,
}

/// DESIGNATOR TYPE, of those that name something uniquely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// T10 vendor ID based
    T10,
    /// EUI-64 based
    Eui,
    /// NAA
    Naa,
    /// SCSI name string
    Name,
}

/// A text is no designator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be naa., eui., t10. or name. and the name, as in naa.600140512345678")]
pub struct DesignatorError;

/// What a designator of the page names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Association {
    /// The logical unit.
    LogicalUnit,
    /// The target port that was asked.
    TargetPort,
    /// The target device.
    TargetDevice,
    /// A value that the standard reserves.
    Reserved,
}

impl Designator {
    /// One of this type.
    #[must_use]
    pub fn new(kind: Kind, bytes: &[u8]) -> Designator {
        Designator { kind, bytes: bytes.into() }
    }

    /// Its type.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The DESIGNATOR field.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The designators in a Device Identification VPD page, in their order, of those types that name
/// something uniquely. What is cut off or malformed ends the list.
pub fn in_page(page: &[u8]) -> Vec<(Association, Designator)> {
    let len = page.get(2..4).map_or(0, |len| usize::from(u16::from_be_bytes([len[0], len[1]])));
    let mut rest = page.get(4..).unwrap_or(&[]);
    rest = rest.get(..len).unwrap_or(rest);
    let mut found = Vec::new();
    while let [code_set, flags, _, len, after @ ..] = rest {
        let Some(bytes) = after.get(..usize::from(*len)) else { break };
        rest = after.get(usize::from(*len)..).unwrap_or(&[]);
        let association = match flags >> 4 & 0b11 {
            0b00 => Association::LogicalUnit,
            0b01 => Association::TargetPort,
            0b10 => Association::TargetDevice,
            _ => Association::Reserved,
        };
        let kind = match (flags & 0x0f, code_set & 0x0f) {
            (1, _) => Kind::T10,
            (2, 1) => Kind::Eui,
            (3, 1) => Kind::Naa,
            (8, 3) => Kind::Name,
            _ => continue,
        };
        found.push((association, Designator::new(kind, bytes)));
    }
    found
}

impl FromStr for Designator {
    type Err = DesignatorError;

    fn from_str(text: &str) -> Result<Designator, DesignatorError> {
        let (kind, name) = text.split_once('.').ok_or(DesignatorError)?;
        let kind = match kind {
            "naa" => Kind::Naa,
            "eui" => Kind::Eui,
            "t10" => Kind::T10,
            "name" => Kind::Name,
            _ => return Err(DesignatorError),
        };
        let bytes = match kind {
            Kind::Naa | Kind::Eui => unhex(name).ok_or(DesignatorError)?,
            Kind::T10 | Kind::Name => name.as_bytes().to_vec(),
        };
        let fits = match kind {
            Kind::Naa => matches!(
                (bytes.len(), bytes.first().map(|byte| byte >> 4)),
                (8, Some(2 | 3 | 5)) | (16, Some(6))
            ),
            Kind::Eui => matches!(bytes.len(), 8 | 12 | 16),
            Kind::T10 | Kind::Name => !bytes.is_empty() && bytes.len() <= 255,
        };
        if fits { Ok(Designator { kind, bytes }) } else { Err(DesignatorError) }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|&byte| byte != b':').collect();
    let digit =
        |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    pairs.collect()
}

impl fmt::Display for Designator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Naa => "naa",
            Kind::Eui => "eui",
            Kind::T10 => "t10",
            Kind::Name => "name",
        };
        write!(f, "{kind}.")?;
        match self.kind {
            Kind::Naa | Kind::Eui => self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            Kind::T10 | Kind::Name => {
                write!(f, "{}", String::from_utf8_lossy(&self.bytes).trim_end())
            }
        }
    }
}

impl fmt::Debug for Designator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_and_written() {
        for text in [
            "naa.5001405000000001",
            "naa.60014051234567890123456789abcdef",
            "eui.0011223344556677",
            "t10.LIO-ORG 0123",
            "name.iqn.2003-01.org.example:tgt",
        ] {
            assert_eq!(text.parse::<Designator>().unwrap().to_string(), text);
        }
        assert_eq!(
            "naa.50:01:40:50:00:00:00:01".parse::<Designator>(),
            "naa.5001405000000001".parse()
        );
        for bad in [
            "",
            "naa",
            "naa.",
            "naa.500",
            "naa.5001405000000001ff",
            "naa.1001405000000001",
            "uuid.00",
            "eui.00",
            "t10.",
        ] {
            assert_eq!(bad.parse::<Designator>(), Err(DesignatorError), "{bad}");
        }
    }

    #[test]
    fn a_page_is_read_as_far_as_it_goes() {
        let naa = [0x01, 0x03, 0, 8, 0x50, 1, 2, 3, 4, 5, 6, 7];
        let relative_port = [0x51, 0x94, 0, 4, 0, 0, 0, 1];
        let port = [0x61, 0x93, 0, 8, 0x51, 1, 2, 3, 4, 5, 6, 7];
        let list = [&naa[..], &relative_port, &port].concat();
        let page = [&[0, 0x83, 0, 32][..], &list].concat();
        let found = in_page(&page);
        let text = |(association, designator): &(Association, Designator)| {
            (*association, designator.to_string())
        };
        let found: Vec<_> = found.iter().map(text).collect();
        assert_eq!(found[0], (Association::LogicalUnit, "naa.5001020304050607".into()));
        assert_eq!(found[1], (Association::TargetPort, "naa.5101020304050607".into()));
        assert_eq!(in_page(&page[..20]).len(), 1);
        assert_eq!(in_page(&page[..3]), []);
        assert_eq!(in_page(&[]), []);
    }
}
