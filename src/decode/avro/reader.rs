//! Avro's binary encoding (specification 1.12, "Binary Encoding"), one value after the other.

use super::schema::{NodeId, Schema, Type};

/// Values may nest this deep: what is read recurses.
const DEPTH_MAX: usize = 128;

/// Why bytes are not a value of their schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    Truncated,
    TooLongNumber,
    NotInt,
    NegativeLength,
    NotBoolean,
    NotText,
    NoSuchBranch,
    NoSuchSymbol,
    TooDeep,
    TooMany,
}

impl Flaw {
    pub fn message(self) -> &'static str {
        match self {
            Flaw::Truncated => "ends in the middle of a value",
            Flaw::TooLongNumber => "has a number of more than 64 bits",
            Flaw::NotInt => "has an int of more than 32 bits",
            Flaw::NegativeLength => "has a negative length",
            Flaw::NotBoolean => "has a boolean that is neither 0 nor 1",
            Flaw::NotText => "has a string that is not valid UTF-8",
            Flaw::NoSuchBranch => "has a union branch that its schema does not have",
            Flaw::NoSuchSymbol => "has an enum symbol that its schema does not have",
            Flaw::TooDeep => "nests deeper than 128 values",
            Flaw::TooMany => "has far more values than bytes",
        }
    }
}

/// A place in the bytes of one record.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    /// Values that may still be read: a few bytes can claim billions of empty ones.
    budget: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes, budget: bytes.len().saturating_mul(16).saturating_add(10_000), depth: 0 }
    }

    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// To be called before each value.
    pub fn enter(&mut self) -> Result<(), Flaw> {
        if self.depth >= DEPTH_MAX {
            return Err(Flaw::TooDeep);
        }
        self.budget = self.budget.checked_sub(1).ok_or(Flaw::TooMany)?;
        self.depth += 1;
        Ok(())
    }

    pub fn leave(&mut self) {
        self.depth -= 1;
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Flaw> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Flaw::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Flaw::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Zig-zag, seven bits a byte, lowest first.
    #[inline]
    pub fn long(&mut self) -> Result<i64, Flaw> {
        let mut number = 0u64;
        for (index, byte) in self.rest.iter().take(10).enumerate() {
            // The tenth byte has one bit left.
            if index == 9 && *byte > 1 {
                return Err(Flaw::TooLongNumber);
            }
            number |= u64::from(byte & 0x7F) << (index * 7);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                return Ok((number >> 1) as i64 ^ -((number & 1) as i64));
            }
        }
        Err(if self.rest.len() < 10 { Flaw::Truncated } else { Flaw::TooLongNumber })
    }

    pub fn int(&mut self) -> Result<i32, Flaw> {
        self.long()?.try_into().map_err(|_| Flaw::NotInt)
    }

    pub fn boolean(&mut self) -> Result<bool, Flaw> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [_] => Err(Flaw::NotBoolean),
        }
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], Flaw> {
        let length = self.long()?;
        self.take(usize::try_from(length).map_err(|_| Flaw::NegativeLength)?)
    }

    pub fn text(&mut self) -> Result<&'a str, Flaw> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Flaw::NotText)
    }

    /// Number of items in the next block of an array or map, and its length in bytes where it is
    /// told; `None` at the end.
    pub fn block(&mut self) -> Result<Option<(u64, Option<usize>)>, Flaw> {
        let count = self.long()?;
        if count == 0 {
            return Ok(None);
        }
        let size = match count < 0 {
            true => Some(usize::try_from(self.long()?).map_err(|_| Flaw::NegativeLength)?),
            false => None,
        };
        Ok(Some((count.unsigned_abs(), size)))
    }

    pub fn branch(&mut self, branches: &[NodeId]) -> Result<(usize, NodeId), Flaw> {
        let index = usize::try_from(self.long()?).map_err(|_| Flaw::NoSuchBranch)?;
        let node = *branches.get(index).ok_or(Flaw::NoSuchBranch)?;
        Ok((index, node))
    }

    pub fn skip(&mut self, schema: &Schema, node: NodeId) -> Result<(), Flaw> {
        // Most fields that nobody wants are plain.
        match &schema.nodes[node].ty {
            // It takes no bytes.
            Type::Null => return self.count(),
            Type::Int | Type::Long => return self.long().map(drop),
            Type::Bytes | Type::String => return self.bytes().map(drop),
            _ => {}
        }
        self.enter()?;
        match &schema.nodes[node].ty {
            Type::Null | Type::Int | Type::Long | Type::Bytes | Type::String => {}
            Type::Boolean => drop(self.boolean()?),
            Type::Float => drop(self.take(4)?),
            Type::Double => drop(self.take(8)?),
            Type::Fixed { size } => drop(self.take(*size)?),
            Type::Enum { .. } => drop(self.long()?),
            Type::Union { branches } => {
                let (_, node) = self.branch(branches)?;
                self.skip(schema, node)?;
            }
            Type::Record { fields, .. } => {
                for field in fields {
                    self.skip(schema, field.node)?;
                }
            }
            Type::Array { items } => self.skip_blocks(schema, *items, |_| Ok(()))?,
            Type::Map { values } => self.skip_blocks(schema, *values, |reader| reader.bytes().map(drop))?,
        }
        self.leave();
        Ok(())
    }

    /// The blocks of an array or a map: by their size where it is given.
    fn skip_blocks(
        &mut self,
        schema: &Schema,
        item: NodeId,
        skip_key: impl Fn(&mut Self) -> Result<(), Flaw>,
    ) -> Result<(), Flaw> {
        while let Some((count, size)) = self.block()? {
            if let Some(size) = size {
                self.take(size)?;
                continue;
            }
            for _ in 0..count {
                self.count()?;
                skip_key(self)?;
                self.skip(schema, item)?;
            }
        }
        Ok(())
    }

    /// One more item, also where it has no bytes.
    pub fn count(&mut self) -> Result<(), Flaw> {
        self.budget = self.budget.checked_sub(1).ok_or(Flaw::TooMany)?;
        Ok(())
    }
}
