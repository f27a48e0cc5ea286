// SPDX-License-Identifier: Apache-2.0
//! Values to bytes, in this machine's byte order.

use crate::error::{Error, Result};
use crate::value::{Value, alignment};

/// What the D-Bus specification allows an array, in bytes.
pub(crate) const LONGEST_ARRAY: usize = 64 << 20;

/// Bytes of a message, or of its body: alignment counts from their start.
#[derive(Debug, Default)]
pub(crate) struct Encoder(pub(crate) Vec<u8>);

impl Encoder {
    pub(crate) fn align(&mut self, alignment: usize) {
        self.0.resize(self.0.len().next_multiple_of(alignment), 0);
    }

    pub(crate) fn u32(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_ne_bytes());
    }

    /// Writes a value.
    ///
    /// # Errors
    /// A string with a NUL byte, or something longer than messages can hold, or an array with an
    /// element of another type.
    pub(crate) fn value(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::Byte(byte) => self.0.push(*byte),
            Value::Bool(truth) => self.u32(u32::from(*truth)),
            Value::I16(number) => self.number(number.to_ne_bytes()),
            Value::U16(number) => self.number(number.to_ne_bytes()),
            Value::I32(number) => self.number(number.to_ne_bytes()),
            Value::U32(number) => self.number(number.to_ne_bytes()),
            Value::I64(number) => self.number(number.to_ne_bytes()),
            Value::U64(number) => self.number(number.to_ne_bytes()),
            Value::Double(number) => self.number(number.to_ne_bytes()),
            Value::Str(text) | Value::Path(text) => self.str(text)?,
            Value::Signature(text) => self.signature(text)?,
            Value::Array(element, values) => self.array(element, values)?,
            Value::Struct(members) => {
                self.align(8);
                members.iter().try_for_each(|member| self.value(member))?;
            }
            Value::Entry(key, value) => {
                self.align(8);
                self.value(key)?;
                self.value(value)?;
            }
            Value::Variant(value) => {
                self.signature(&value.signature())?;
                self.value(value)?;
            }
        }
        Ok(())
    }

    fn number<const N: usize>(&mut self, bytes: [u8; N]) {
        self.align(N);
        self.0.extend(bytes);
    }

    fn str(&mut self, text: &str) -> Result<()> {
        if text.contains('\0') {
            return Err(Error::Malformed("a NUL byte in a string"));
        }
        self.u32(length(text.len())?);
        self.0.extend(text.as_bytes());
        self.0.push(0);
        Ok(())
    }

    fn signature(&mut self, text: &str) -> Result<()> {
        let length = u8::try_from(text.len()).map_err(|_| Error::Malformed("a long signature"))?;
        self.0.push(length);
        self.0.extend(text.as_bytes());
        self.0.push(0);
        Ok(())
    }

    fn array(&mut self, element: &str, values: &[Value]) -> Result<()> {
        self.u32(0);
        let place = self.0.len() - 4;
        // The length is that of the elements, without the padding before the first.
        self.align(alignment(element));
        let begin = self.0.len();
        for value in values {
            if value.signature() != element {
                return Err(Error::Malformed("an array of several types"));
            }
            self.value(value)?;
        }
        let length = length(self.0.len() - begin)?;
        self.0[place..place + 4].copy_from_slice(&length.to_ne_bytes());
        Ok(())
    }
}

fn length(length: usize) -> Result<u32> {
    if length > LONGEST_ARRAY {
        return Err(Error::Malformed("too long"));
    }
    // At most 2^26.
    Ok(length as u32)
}
