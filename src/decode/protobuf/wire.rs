//! Protobuf's wire format ("Encoding" in its documentation): fields of a message, one after the other.

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    Truncated,
    TooLongNumber,
    FieldNumber,
    Group,
    WireType,
    Mismatch,
    NotText,
    TooDeep,
}

impl Flaw {
    pub fn message(self) -> &'static str {
        match self {
            Flaw::Truncated => "ends in the middle of a field",
            Flaw::TooLongNumber => "has a number of more than 64 bits",
            Flaw::FieldNumber => "has a field whose number no field can have",
            Flaw::Group => "has a group, which is not supported",
            Flaw::WireType => "has a field of an unknown wire type",
            Flaw::Mismatch => "has a field whose wire type is not that of its schema",
            Flaw::NotText => "has a string that is not valid UTF-8",
            Flaw::TooDeep => "nests deeper than 100 messages",
        }
    }
}

/// A field's value before its type is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Raw<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
}

/// The fields of a message, in their order.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn next(&mut self) -> Result<Option<(u32, Raw<'a>)>, Flaw> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = varint(&mut self.0)?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or(Flaw::FieldNumber)?;
        let raw = match tag & 7 {
            0 => Raw::Varint(varint(&mut self.0)?),
            1 => Raw::Fixed64(array(&mut self.0)?),
            2 => {
                let length = usize::try_from(varint(&mut self.0)?).map_err(|_| Flaw::Truncated)?;
                let (bytes, rest) = self.0.split_at_checked(length).ok_or(Flaw::Truncated)?;
                self.0 = rest;
                Raw::Bytes(bytes)
            }
            3 | 4 => return Err(Flaw::Group),
            5 => Raw::Fixed32(array(&mut self.0)?),
            _ => return Err(Flaw::WireType),
        };
        Ok(Some((number, raw)))
    }
}

pub fn varint(bytes: &mut &[u8]) -> Result<u64, Flaw> {
    let mut number = 0u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        // The tenth byte has one bit left.
        if index == 9 && *byte > 1 {
            return Err(Flaw::TooLongNumber);
        }
        number |= u64::from(byte & 0x7F) << (index * 7);
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return Ok(number);
        }
    }
    Err(if bytes.len() < 10 { Flaw::Truncated } else { Flaw::TooLongNumber })
}

pub fn zigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

pub fn array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Flaw> {
    let (taken, rest) = bytes.split_first_chunk().ok_or(Flaw::Truncated)?;
    *bytes = rest;
    Ok(*taken)
}
