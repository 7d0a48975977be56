//! Memory for what a decoder has to make of a record rather than borrow from it: the JSON text of a
//! nested value, a header's text, decoded base64.

use bumpalo::Bump;

/// More than this is given back after a record.
const KEEP_BYTES: usize = 1 << 20;

/// Lives as long as one record and keeps its memory for the next.
#[derive(Debug, Default)]
pub struct Scratch(Bump);

impl Scratch {
    pub fn text(&self, text: &str) -> &str {
        self.0.alloc_str(text)
    }

    pub fn bytes(&self, bytes: &[u8]) -> &[u8] {
        self.0.alloc_slice_copy(bytes)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        if self.0.allocated_bytes() > KEEP_BYTES {
            self.0 = Bump::new();
        } else {
            self.0.reset();
        }
    }
}
