// SPDX-License-Identifier: Apache-2.0
//! Protocol buffers, the writing half, as far as the metrics need it.
//!
//! As proto3 has it: a scalar that is zero is not written, a message that is there is, even empty.

/// An encoded message that grows.
#[derive(Debug, Default)]
pub(super) struct Encoder(Vec<u8>);

const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const DELIMITED: u64 = 2;

impl Encoder {
    /// The message.
    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    /// An integer.
    pub(super) fn number(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.key(field, VARINT);
            self.varint(value);
        }
    }

    /// A `double`.
    pub(super) fn double(&mut self, field: u32, value: f64) {
        if value != 0.0 {
            self.key(field, FIXED_64);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// A string.
    pub(super) fn string(&mut self, field: u32, value: &str) {
        if !value.is_empty() {
            self.key(field, DELIMITED);
            self.varint(value.len() as u64);
            self.0.extend_from_slice(value.as_bytes());
        }
    }

    /// Integers, packed.
    pub(super) fn numbers(&mut self, field: u32, values: &[u64]) {
        if !values.is_empty() {
            self.message(field, |encoder| {
                for &value in values {
                    encoder.varint(value);
                }
            });
        }
    }

    /// A message in this one.
    pub(super) fn message(&mut self, field: u32, fill: impl FnOnce(&mut Self)) {
        self.key(field, DELIMITED);
        let start = self.0.len();
        fill(self);
        // Its length comes before it, and is known only now: most take one byte.
        let length = self.0.len() - start;
        let end = self.0.len();
        self.varint(length as u64);
        let size = self.0.len() - end;
        self.0[start..].rotate_right(size);
    }

    fn key(&mut self, field: u32, kind: u64) {
        self.varint(u64::from(field) << 3 | kind);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}
