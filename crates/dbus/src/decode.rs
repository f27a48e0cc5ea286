// SPDX-License-Identifier: Apache-2.0
//! Bytes to values, in this machine's byte order.
//!
//! Every length is compared with what is there before anything is allocated for it, and nesting is
//! limited: by the signature, and for variants, which bring their own, by a count.

use crate::encode::LONGEST_ARRAY;
use crate::error::{Error, Result};
use crate::value::{Value, alignment, split_type};

/// How deep variants may be in variants.
const DEEPEST: usize = 16;

/// A place in the bytes of a message, or of its body: alignment counts from their start.
pub(crate) struct Decoder<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// All values of a signature.
    pub(crate) fn values(&mut self, mut signature: &str) -> Result<Vec<Value>> {
        let mut values = Vec::new();
        while !signature.is_empty() {
            let (first, rest) = split_type(signature).ok_or(Error::Malformed("a bad signature"))?;
            values.push(self.value(first, 0)?);
            signature = rest;
        }
        Ok(values)
    }

    /// Padding must be zeros: everything has one encoding only.
    pub(crate) fn align(&mut self, alignment: usize) -> Result<()> {
        let padding = self.at.next_multiple_of(alignment) - self.at;
        match self.take(padding)?.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(Error::Malformed("padding that is not zero")),
        }
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_ne_bytes(self.number()?))
    }

    /// One value of a complete type; `depth` variants are around it.
    fn value(&mut self, signature: &str, depth: usize) -> Result<Value> {
        let inner = |from: usize| signature.get(from..signature.len() - 1).unwrap_or_default();
        Ok(match signature.as_bytes().first() {
            Some(b'y') => Value::Byte(self.number::<1>()?[0]),
            Some(b'b') => match self.u32()? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                _ => return Err(Error::Malformed("a truth that is neither")),
            },
            Some(b'n') => Value::I16(i16::from_ne_bytes(self.number()?)),
            Some(b'q') => Value::U16(u16::from_ne_bytes(self.number()?)),
            Some(b'i') => Value::I32(i32::from_ne_bytes(self.number()?)),
            Some(b'u') => Value::U32(self.u32()?),
            Some(b'x') => Value::I64(i64::from_ne_bytes(self.number()?)),
            Some(b't') => Value::U64(u64::from_ne_bytes(self.number()?)),
            Some(b'd') => Value::Double(f64::from_ne_bytes(self.number()?)),
            Some(b's') => Value::Str(self.str()?),
            Some(b'o') => Value::Path(self.str()?),
            Some(b'g') => Value::Signature(self.signature()?),
            Some(b'v') => self.variant(depth)?,
            Some(b'a') => self.array(signature.get(1..).unwrap_or_default(), depth)?,
            Some(b'(') => {
                self.align(8)?;
                Value::Struct(self.members(inner(1), depth)?)
            }
            Some(b'{') => {
                self.align(8)?;
                let mut members = self.members(inner(1), depth)?.into_iter();
                match (members.next(), members.next()) {
                    (Some(key), Some(value)) => Value::Entry(Box::new(key), Box::new(value)),
                    _ => return Err(Error::Malformed("a bad signature")),
                }
            }
            _ => return Err(Error::Malformed("a bad signature")),
        })
    }

    fn members(&mut self, mut signature: &str, depth: usize) -> Result<Vec<Value>> {
        let mut members = Vec::new();
        while let Some((first, rest)) = split_type(signature) {
            members.push(self.value(first, depth)?);
            signature = rest;
        }
        Ok(members)
    }

    fn array(&mut self, element: &str, depth: usize) -> Result<Value> {
        let length = self.u32()? as usize;
        self.align(alignment(element))?;
        if length > LONGEST_ARRAY || length > self.bytes.len() - self.at {
            return Err(Error::Malformed("an array beyond the message"));
        }
        let end = self.at + length;
        let mut values = Vec::new();
        while self.at < end {
            values.push(self.value(element, depth)?);
        }
        if self.at > end {
            return Err(Error::Malformed("an array beyond its end"));
        }
        Ok(Value::Array(element.to_owned(), values))
    }

    fn variant(&mut self, depth: usize) -> Result<Value> {
        if depth >= DEEPEST {
            return Err(Error::Malformed("too deep"));
        }
        let signature = self.signature()?;
        match split_type(&signature) {
            Some((one, "")) => Ok(self.value(one, depth + 1)?.variant()),
            _ => Err(Error::Malformed("a variant of no type")),
        }
    }

    fn str(&mut self) -> Result<String> {
        let length = self.u32()? as usize;
        self.text(length)
    }

    fn signature(&mut self) -> Result<String> {
        let length = usize::from(self.number::<1>()?[0]);
        self.text(length)
    }

    fn text(&mut self, length: usize) -> Result<String> {
        let text = self.take(length)?;
        if self.take(1)? != [0] || text.contains(&0) {
            return Err(Error::Malformed("a string without its end"));
        }
        let text = std::str::from_utf8(text).map_err(|_| Error::Malformed("not UTF-8"))?;
        Ok(text.to_owned())
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.align(N)?;
        let mut number = [0; N];
        number.copy_from_slice(self.take(N)?);
        Ok(number)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or(Error::Malformed("cut short"))?;
        self.at += length;
        Ok(taken)
    }
}
