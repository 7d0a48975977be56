//! Rows that are put aside: a file without a name beside the replica.
//!
//! Its pages are the kernel's, which takes them back when it needs them; the process keeps what is about
//! to be written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::domain::shelf::Spill;

const TAIL_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct FileSpill {
    file: File,
    /// Bytes in the file.
    written: u64,
    /// What comes behind them.
    tail: Vec<u8>,
}

impl FileSpill {
    pub fn new(directory: &Path) -> io::Result<FileSpill> {
        Ok(FileSpill { file: tempfile_in(directory)?, written: 0, tail: Vec::new() })
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
            self.tail.reserve_exact(TAIL_BYTES - self.tail.len());
            self.tail.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let in_file = self.written.saturating_sub(at).min(into.len() as u64);
        let (from_file, from_tail) = into.split_at_mut(in_file as usize);
        self.file.read_exact_at(from_file, at)?;
        let start = (at + in_file).saturating_sub(self.written) as usize;
        let tail = self.tail.get(start..start.saturating_add(from_tail.len()));
        from_tail.copy_from_slice(tail.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.tail.clear();
        self.written = 0;
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
