//! Rows that are put aside: a file without a name beside the replica.
//!
//! Its pages are the kernel's, which takes them back when it needs them; the process keeps what is about
//! to be written and a few blocks of what is read.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::domain::shelf::Spill;

const TAIL_BYTES: usize = 64 << 10;
const BLOCK_BYTES: usize = 16 << 10;
const BLOCKS: usize = 16;

#[derive(Debug)]
pub(super) struct FileSpill {
    file: File,
    /// Bytes in the file.
    written: u64,
    /// What comes behind them.
    tail: Vec<u8>,
    blocks: RefCell<Vec<Block>>,
}

/// A part of the file: remembered when it is first asked for, and kept when it is again. Rows that are
/// read in the order in which they were written are so read by blocks, others one by one.
#[derive(Debug, Default)]
struct Block {
    number: u64,
    bytes: Vec<u8>,
}

impl FileSpill {
    pub fn new(directory: &Path) -> io::Result<FileSpill> {
        let file = tempfile_in(directory)?;
        let blocks = (0..BLOCKS).map(|_| Block { number: u64::MAX, bytes: Vec::new() }).collect();
        Ok(FileSpill { file, written: 0, tail: Vec::with_capacity(TAIL_BYTES), blocks: RefCell::new(blocks) })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.tail, self.written)?;
        self.written += self.tail.len() as u64;
        self.tail.clear();
        Ok(())
    }
}

/// Nobody finds it, and it goes with its last descriptor.
fn tempfile_in(directory: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(open(directory, flags, Mode::RUSR | Mode::WUSR)?.into())
}

impl Spill for FileSpill {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.tail.len() + bytes.len() > TAIL_BYTES {
            self.flush()?;
        }
        if bytes.len() > TAIL_BYTES {
            self.file.write_all_at(bytes, self.written)?;
            self.written += bytes.len() as u64;
        } else {
            self.tail.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        if let Some(start) = at.checked_sub(self.written) {
            let bytes =
                usize::try_from(start).ok().and_then(|start| self.tail.get(start..start + into.len()));
            into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            return Ok(());
        }
        let (number, start) = (at / BLOCK_BYTES as u64, (at % BLOCK_BYTES as u64) as usize);
        let end = start + into.len();
        if end > BLOCK_BYTES {
            return self.file.read_exact_at(into, at);
        }
        let mut blocks = self.blocks.borrow_mut();
        let block = &mut blocks[number as usize % BLOCKS];
        if block.number != number {
            *block = Block { number, bytes: std::mem::take(&mut block.bytes) };
            block.bytes.clear();
            return self.file.read_exact_at(into, at);
        }
        if block.bytes.len() < end {
            // All that is there by now.
            let from = number * BLOCK_BYTES as u64;
            let length = (self.written - from).min(BLOCK_BYTES as u64) as usize;
            block.bytes.resize(length, 0);
            self.file.read_exact_at(&mut block.bytes, from)?;
        }
        into.copy_from_slice(block.bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.tail.clear();
        self.written = 0;
        for block in self.blocks.get_mut() {
            *block = Block { number: u64::MAX, bytes: std::mem::take(&mut block.bytes) };
        }
        self.file.set_len(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_appended_is_read_again_wherever_it_is_by_now(
            lengths in prop::collection::vec(prop_oneof![9 => 0usize..400, 1 => 0usize..200_000], 1..300),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 0..400),
            again in any::<bool>(),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut spill = FileSpill::new(directory.path()).unwrap();
            for turn in 0..=u8::from(again) {
                let mut places = Vec::new();
                let mut at = 0;
                for (nth, length) in lengths.iter().enumerate() {
                    let bytes = vec![(nth as u8).wrapping_add(turn); *length];
                    spill.append(&bytes).unwrap();
                    places.push((at, bytes));
                    at += *length as u64;
                    // Read while it is written, too.
                    let (at, bytes) = &places[nth / 2];
                    let mut read = vec![0; bytes.len()];
                    spill.read(*at, &mut read).unwrap();
                    prop_assert_eq!(&read, bytes);
                }
                for pick in &picks {
                    let (at, bytes) = pick.get(&places);
                    let mut read = vec![0; bytes.len()];
                    spill.read(*at, &mut read).unwrap();
                    prop_assert_eq!(&read, bytes);
                }
                prop_assert!(spill.read(at, &mut [0]).is_err());
                spill.clear().unwrap();
            }
            prop_assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "no file is left");
        }
    }
}
