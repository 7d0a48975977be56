//! A hash in the form that `RESTORE` takes: what `DUMP` gives of a small hash, a listpack.
//!
//! Redis takes it as a whole, where `HSET` looks for each field among the others, and a field that
//! the row no longer has is gone with it. The format is that of RDB version 10 (Redis 7.0), which
//! later servers read too; `open` tries it, and writes with `HSET` where it is not taken.
//!
//! Layout: type, length, listpack (size and number of entries, entries, end), RDB version, CRC-64.
//! An entry is its content behind its type and length, then the length of both once more.

use crc::{CRC_64_REDIS, Crc, Table};

static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);

/// `RDB_TYPE_HASH_LISTPACK`.
const HASH_LISTPACK: u8 = 16;
const RDB_VERSION: u16 = 10;
const HEAD: usize = 6;
const END: u8 = 0xFF;
/// Room for the type and the longest length, before the listpack.
const BEFORE: usize = 6;

/// Fields and values, in order, of one hash, written to the end of a buffer.
pub(super) struct Payload<'b> {
    out: &'b mut Vec<u8>,
    start: usize,
    entries: usize,
}

impl Payload<'_> {
    pub fn new(out: &mut Vec<u8>) -> Payload<'_> {
        let start = out.len();
        out.extend([0; BEFORE + HEAD]);
        Payload { out, start, entries: 0 }
    }

    pub fn push(&mut self, text: &[u8]) {
        match integer(text) {
            Some(number) => self.push_integer(number),
            None => self.push_text(text),
        }
    }

    /// What is no number, or need not be kept as one.
    pub fn push_text(&mut self, text: &[u8]) {
        let out = &mut *self.out;
        let head = match text.len() {
            length @ 0..64 => {
                out.push(0x80 | length as u8);
                1
            }
            length @ 64..4_096 => {
                out.extend([0xE0 | (length >> 8) as u8, length as u8]);
                2
            }
            length => {
                out.push(0xF0);
                out.extend((length as u32).to_le_bytes());
                5
            }
        };
        out.extend_from_slice(text);
        self.close(head + text.len());
    }

    pub fn push_integer(&mut self, number: i64) {
        let out = &mut *self.out;
        let bytes = number.to_le_bytes();
        let length = match number {
            0..=127 => {
                out.push(bytes[0]);
                1
            }
            -4_096..=4_095 => {
                let bits = (number & 0x1FFF) as u16;
                out.extend([0xC0 | (bits >> 8) as u8, bits as u8]);
                2
            }
            _ => {
                let (kind, width) = match number {
                    -0x8000..=0x7FFF => (0xF1, 2),
                    -0x80_0000..=0x7F_FFFF => (0xF2, 3),
                    -0x8000_0000..=0x7FFF_FFFF => (0xF3, 4),
                    _ => (0xF4, 8),
                };
                out.push(kind);
                out.extend_from_slice(&bytes[..width]);
                1 + width
            }
        };
        self.close(length);
    }

    /// Ends an entry with its length, most significant seven bits first; all but the first byte
    /// have their high bit set, so that it can be read from behind.
    fn close(&mut self, length: usize) {
        self.entries += 1;
        let groups = match length {
            0..=127 => 1,
            128..16_383 => 2,
            16_383..2_097_151 => 3,
            2_097_151..268_435_455 => 4,
            _ => 5,
        };
        for nth in (0..groups).rev() {
            let bits = (length >> (7 * nth)) as u8 & 0x7F;
            self.out.push(if nth + 1 == groups { bits } else { bits | 0x80 });
        }
    }

    pub fn finish(self) {
        let Payload { out, start, entries } = self;
        out.push(END);
        let listpack = start + BEFORE;
        let size = out.len() - listpack;
        out[listpack..listpack + 4].copy_from_slice(&(size as u32).to_le_bytes());
        let entries = u16::try_from(entries).unwrap_or(u16::MAX);
        out[listpack + 4..listpack + HEAD].copy_from_slice(&entries.to_le_bytes());

        let mut before = [0; BEFORE];
        before[0] = HASH_LISTPACK;
        let length = match size {
            0..64 => {
                before[1] = size as u8;
                1
            }
            64..16_384 => {
                before[1..3].copy_from_slice(&[0x40 | (size >> 8) as u8, size as u8]);
                2
            }
            _ => {
                before[1] = 0x80;
                before[2..].copy_from_slice(&(size as u32).to_be_bytes());
                5
            }
        };
        let unused = BEFORE - 1 - length;
        out[start..start + 1 + length].copy_from_slice(&before[..1 + length]);
        out.drain(start + 1 + length..start + 1 + length + unused);
        out.extend(RDB_VERSION.to_le_bytes());
        let sum = CRC.checksum(&out[start..]);
        out.extend(sum.to_le_bytes());
    }
}

/// The number that a text is, if it is written as Redis would write it back.
fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if text.len() > 20 || !digits.first()?.is_ascii_digit() {
        return None;
    }
    if digits[0] == b'0' && text.len() > 1 {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_reads_back_the_same_is_a_number() {
        for text in ["0", "7", "-1", "127", "128", "-4096", "9223372036854775807", "-9223372036854775808"] {
            assert_eq!(integer(text.as_bytes()).map(|number| number.to_string()).as_deref(), Some(text));
        }
        for text in ["", "-", "-0", "00", "01", "+1", "1.0", "1 ", "9223372036854775808", "a"] {
            assert_eq!(integer(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_payload_is_what_redis_dumps() {
        // `HSET k a 1 b -70000 c xyz`, `DUMP k` on Redis 7.0.
        let mut bytes = b"before".to_vec();
        let mut payload = Payload::new(&mut bytes);
        for text in ["a", "1", "b", "-70000", "c", "xyz"] {
            payload.push(text.as_bytes());
        }
        let dumped =
            b"\x10\x1c\x1c\x00\x00\x00\x06\x00\x81a\x02\x01\x01\x81b\x02\xf2\x90\xee\xfe\x04\x81c\x02\x83xyz\
            \x04\xff\n\x00_\x87\x03r;\xfa\x81\x9f";
        payload.finish();
        assert_eq!(&bytes[6..], dumped);
    }
}
