//! Personal data that a copy does not need in clear: hashed, masked or dropped before it is a value.

use std::path::Path;
use std::sync::Arc;

use ring::hmac;

use super::convert::{Refusal, Target, convert, describe, missing, opaque_text, string};
use crate::config::{Config, Personal};
use crate::decode::{Field, Native};
use crate::domain::dead_letter::Reason;
use crate::domain::value::{ColumnType, Value};

/// Shorter keys can be guessed.
const KEY_BYTES_MIN: usize = 16;
const KEY_BYTES_MAX: usize = 4096;
/// What the digest of a key is made of: the key, and this.
const WHICH_KEY: &[u8] = b"readside: which key this is";

/// The key of all hashes of a configuration. It prints as its algorithm.
#[derive(Debug, Clone)]
pub struct HashKey(Arc<hmac::Key>);

impl HashKey {
    /// The key that a configuration names, if one of its columns needs it. An error is a sentence without
    /// anything of the file.
    pub fn of(config: &Config) -> Result<Option<HashKey>, String> {
        let needed = config
            .tables
            .iter()
            .flat_map(|table| &table.columns)
            .any(|column| column.personal == Some(Personal::Hash));
        match &config.personal.hash_key_file {
            Some(file) if needed => {
                HashKey::read(file).map(Some).map_err(|why| format!("{}: {why}", file.display()))
            }
            _ => Ok(None),
        }
    }

    fn read(file: &Path) -> Result<HashKey, String> {
        use std::io::Read as _;
        let mut bytes = Vec::new();
        std::fs::File::open(file)
            .and_then(|file| file.take(KEY_BYTES_MAX as u64 + 3).read_to_end(&mut bytes))
            .map_err(|error| format!("the key of hashed columns cannot be read: {error}"))?;
        // An editor's line end is not part of the key.
        let key = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let key = key.strip_suffix(b"\r").unwrap_or(key);
        if key.len() < KEY_BYTES_MIN || key.len() > KEY_BYTES_MAX {
            return Err(format!(
                "the key of hashed columns has {} bytes; it needs {KEY_BYTES_MIN} to {KEY_BYTES_MAX}",
                key.len()
            ));
        }
        Ok(HashKey(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, key))))
    }

    /// Tells keys apart, and says nothing of them.
    pub fn digest(&self) -> String {
        hex(&hmac::sign(&self.0, WHICH_KEY).as_ref()[..8])
    }
}

/// What becomes of a column's value.
#[derive(Debug, Clone)]
pub enum Protection {
    Hash(HashKey),
    /// Letters and digits become `*`, apart from the last `show_last` characters.
    Mask {
        show_last: usize,
    },
}

impl Protection {
    pub fn convert(&self, field: Field<'_>, target: &Target) -> Result<Value, Refusal> {
        match self {
            Protection::Hash(key) => hashed(key, field, target),
            Protection::Mask { show_last } => match convert(field, target)? {
                Value::Text(text) => Ok(Value::Text(masked(&text, *show_last))),
                other => Ok(other),
            },
        }
    }
}

/// HMAC-SHA-256 of a text's characters or an integer's digits: the same for `42` and `"42"`, so that
/// columns of different tables and topics can be joined.
fn hashed(key: &HashKey, field: Field<'_>, target: &Target) -> Result<Value, Refusal> {
    let hash = |bytes: &[u8]| {
        let tag = hmac::sign(&key.0, bytes);
        match target.ty {
            ColumnType::Blob => Value::Blob(tag.as_ref().to_vec()),
            _ => Value::Text(hex(tag.as_ref())),
        }
    };
    let not = |what: &str| {
        Err(Refusal::new(Reason::WrongType, format!("is {what}, not a text or an integer to hash")))
    };
    Ok(match field {
        Field::Json("null") => return missing(target, "is null"),
        Field::Json(text) | Field::Typed(_, text) if text.starts_with('"') => hash(string(text)?.as_bytes()),
        Field::Json(text) | Field::Typed(_, text) => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            match !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
                true => hash(text.as_bytes()),
                false => return not(&describe(text)),
            }
        }
        Field::Text(text) | Field::Native(Native::Text(text)) => hash(text.as_bytes()),
        Field::Native(Native::Integer(number)) => hash(number.to_string().as_bytes()),
        Field::Native(Native::Unsigned(number)) => hash(number.to_string().as_bytes()),
        Field::Native(Native::Bytes(bytes)) => hash(bytes),
        Field::Native(Native::Opaque(bytes)) => hash(opaque_text(bytes)?.as_bytes()),
        Field::Native(_) => return not("of another type"),
        // Nothing to hash: absent, left out, not to be reached.
        other @ (Field::Absent | Field::Unavailable | Field::NotAnObject) => return convert(other, target),
    })
}

fn masked(text: &str, show_last: usize) -> String {
    let length = text.chars().count();
    // Of a short text the end would be most of it.
    let shown = if show_last * 2 <= length { show_last } else { 0 };
    let mask = |(index, char): (usize, char)| match char {
        char if index < length - shown && char.is_alphanumeric() => '*',
        char => char,
    };
    text.chars().enumerate().map(mask).collect()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(bytes: &[u8]) -> Result<HashKey, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, bytes).unwrap();
        HashKey::read(&file)
    }

    fn target(ty: ColumnType) -> Target {
        Target { ty, nullable: true, key: false, encoding: None, json_in_text: false, is_mysql: false }
    }

    /// RFC 4231, test case 1 (its key is 20 bytes of 0x0b).
    #[test]
    fn a_hash_is_hmac_sha_256() {
        let protection = Protection::Hash(key(&[0x0b; 20]).unwrap());
        let expected = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7";
        let text = |field| protection.convert(field, &target(ColumnType::Text));
        assert_eq!(text(Field::Json("\"Hi There\"")), Ok(Value::Text(expected.to_owned())));
        assert_eq!(text(Field::Text("Hi There")), Ok(Value::Text(expected.to_owned())));
        assert_eq!(text(Field::Json(r#""Hi\u0020There""#)), Ok(Value::Text(expected.to_owned())));
        let blob = protection.convert(Field::Native(Native::Text("Hi There")), &target(ColumnType::Blob));
        assert!(matches!(blob, Ok(Value::Blob(bytes)) if bytes[..2] == [0xb0, 0x34]));
        assert_eq!(text(Field::Json("42")), text(Field::Json("\"42\"")));
        assert_eq!(text(Field::Json("42")), text(Field::Native(Native::Integer(42))));
        assert_ne!(text(Field::Json("42")), text(Field::Json("-42")));
        assert_eq!(text(Field::Json("null")), Ok(Value::Null));
        assert_eq!(text(Field::Absent), Ok(Value::Null));
        assert_eq!(text(Field::Unavailable), Ok(Value::Absent));
        for other in ["4.2", "true", "{}", "[]", "1e3", "-"] {
            let refused = text(Field::Json(other)).unwrap_err();
            assert_eq!(refused.reason, Reason::WrongType, "{other}");
        }
        assert!(text(Field::Json("\"\\ud800\"")).is_err());
    }

    #[test]
    fn a_key_has_a_length_and_its_digest_tells_it_apart() {
        assert!(key(b"too short").unwrap_err().contains("9 bytes"));
        assert!(key(&[b'x'; 5000]).is_err());
        assert!(HashKey::read(Path::new("/nowhere/key")).is_err());
        let (a, b) = (key(b"0123456789abcdef").unwrap(), key(b"0123456789abcdeg").unwrap());
        assert_ne!(a.digest(), b.digest());
        for same in [&b"0123456789abcdef\n"[..], b"0123456789abcdef\r\n"] {
            assert_eq!(key(same).unwrap().digest(), a.digest());
        }
        assert_ne!(
            key(b"0123456789abcdef\n\n").unwrap().digest(),
            a.digest(),
            "only one line end is an editor's"
        );
        assert!(!format!("{a:?}").contains("0123"), "{a:?}");
    }

    #[test]
    fn a_mask_keeps_the_shape() {
        for (text, show_last, expected) in [
            ("ada@example.org", 0, "***@*******.***"),
            ("+49 151 2345678", 4, "+** *** ***5678"),
            ("DE89 3704", 4, "**** 3704"),
            ("1234567", 4, "*******"),
            ("Größe 7", 0, "***** *"),
            ("", 4, ""),
        ] {
            assert_eq!(masked(text, show_last), expected);
        }
    }
}
