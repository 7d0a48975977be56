//! A short stand-in for bytes that is the same on every machine and in every release.

/// 128-bit FNV-1a (draft-eastlake-fnv). More than long enough to tell things apart by accident;
/// nobody is defended against here.
#[derive(Debug, Clone, Copy)]
pub struct Digest(u128);

impl Digest {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

    pub fn new() -> Digest {
        Digest(Digest::BASIS)
    }

    /// Of what came before and these bytes behind it.
    pub fn with(self, bytes: &[u8]) -> Digest {
        let step = |hash: u128, &byte: &u8| (hash ^ u128::from(byte)).wrapping_mul(Digest::PRIME);
        Digest(bytes.iter().fold(self.0, step))
    }

    pub fn value(self) -> u128 {
        self.0
    }
}

impl Default for Digest {
    fn default() -> Digest {
        Digest::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_fnv_1a() {
        let hex = |bytes: &[u8]| format!("{:032x}", Digest::new().with(bytes).value());
        // Test vectors of the draft.
        assert_eq!(hex(b""), "6c62272e07bb014262b821756295c58d");
        assert_eq!(hex(b"a"), "d228cb696f1a8caf78912b704e4a8964");
        assert_eq!(hex(b"foobar"), "343e1662793c64bf6f0d3597ba446f18");
        assert_eq!(Digest::new().with(b"foo").with(b"bar").value(), Digest::new().with(b"foobar").value());
    }
}
