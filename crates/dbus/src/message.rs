// SPDX-License-Identifier: Apache-2.0
//! Messages, to and from bytes.

use crate::decode::Decoder;
use crate::encode::Encoder;
use crate::error::{Error, Result};
use crate::value::Value;

/// Bytes from which the length of a message can be told.
pub const PREFIX: usize = 16;
/// What the D-Bus specification allows would be 128 MiB; nothing that we ask for is near this.
pub const LONGEST: usize = 4 << 20;

const NATIVE: u8 = if cfg!(target_endian = "little") {
    b'l'
} else {
    b'B'
};
const VERSION: u8 = 1;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Asks for something.
    Call,
    /// Says that it was done.
    Return,
    /// Says that it was not.
    Error,
    /// Tells whoever wants to know.
    Signal,
}

/// A message. What it does not have is empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Its number, which a reply refers to. Not zero.
    pub serial: u32,
    /// The number of the call that it answers; 0 for none.
    pub reply_to: u32,
    /// The object.
    pub path: String,
    /// The interface of the method or signal.
    pub interface: String,
    /// The method or signal.
    pub member: String,
    /// The name of the error.
    pub error: String,
    /// For whom.
    pub destination: String,
    /// From whom: a bus writes it, and nobody else can.
    pub sender: String,
    /// Its arguments.
    pub body: Vec<Value>,
}

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SENDER: u8 = 7;
const SIGNATURE: u8 = 8;
const UNIX_FDS: u8 = 9;

impl Message {
    /// A call of a method; its number is given when it is sent.
    pub fn call(destination: &str, path: &str, interface: &str, member: &str) -> Self {
        Self {
            path: path.to_owned(),
            interface: interface.to_owned(),
            member: member.to_owned(),
            destination: destination.to_owned(),
            ..Self::empty(Kind::Call)
        }
    }

    /// With one more argument.
    #[must_use]
    pub fn with(mut self, argument: Value) -> Self {
        self.body.push(argument);
        self
    }

    /// A message of a kind with nothing in it.
    pub fn empty(kind: Kind) -> Self {
        Self {
            kind,
            serial: 0,
            reply_to: 0,
            path: String::new(),
            interface: String::new(),
            member: String::new(),
            error: String::new(),
            destination: String::new(),
            sender: String::new(),
            body: Vec::new(),
        }
    }

    /// The text of an argument.
    pub fn text(&self, index: usize) -> Option<&str> {
        self.body.get(index).and_then(Value::as_str)
    }

    /// Appends the message's bytes to `to`.
    ///
    /// # Errors
    /// It cannot be a message: see [`Error::Malformed`].
    pub fn encode(&self, to: &mut Vec<u8>) -> Result<()> {
        let mut body = Encoder::default();
        let mut signature = String::new();
        for value in &self.body {
            value.write_signature(&mut signature);
            body.value(value)?;
        }
        let kind = match self.kind {
            Kind::Call => 1,
            Kind::Return => 2,
            Kind::Error => 3,
            Kind::Signal => 4,
        };
        let mut head = Encoder(vec![NATIVE, kind, 0, VERSION]);
        head.u32(u32::try_from(body.0.len()).map_err(|_| Error::Malformed("too long"))?);
        head.u32(self.serial);
        head.value(&Value::Array("(yv)".to_owned(), self.fields(&signature)))?;
        head.align(8);
        if head.0.len() + body.0.len() > LONGEST {
            return Err(Error::Malformed("too long"));
        }
        to.append(&mut head.0);
        to.append(&mut body.0);
        Ok(())
    }

    fn fields(&self, signature: &str) -> Vec<Value> {
        let field = |code, value: Value| Value::Struct(vec![Value::Byte(code), value.variant()]);
        let mut fields = Vec::new();
        if !self.path.is_empty() {
            fields.push(field(PATH, Value::Path(self.path.clone())));
        }
        for (code, text) in [
            (INTERFACE, &self.interface),
            (MEMBER, &self.member),
            (ERROR_NAME, &self.error),
            (DESTINATION, &self.destination),
            (SENDER, &self.sender),
        ] {
            if !text.is_empty() {
                fields.push(field(code, Value::str(text)));
            }
        }
        if self.reply_to != 0 {
            fields.push(field(REPLY_SERIAL, Value::U32(self.reply_to)));
        }
        if !signature.is_empty() {
            fields.push(field(SIGNATURE, Value::Signature(signature.to_owned())));
        }
        fields
    }

    /// The length of the message that begins with these bytes.
    ///
    /// # Errors
    /// It is none of ours, or longer than any that we wait for.
    pub fn length(prefix: &[u8; PREFIX]) -> Result<usize> {
        if prefix[0] != NATIVE || prefix[3] != VERSION {
            return Err(Error::Malformed("another byte order or version"));
        }
        let number = |at: usize| {
            let mut number = [0; 4];
            number.copy_from_slice(&prefix[at..at + 4]);
            u32::from_ne_bytes(number) as usize
        };
        let (body, fields) = (number(4), number(12));
        // Sums of numbers of 32 bits.
        let length = (PREFIX + fields).next_multiple_of(8) + body;
        match length <= LONGEST {
            true => Ok(length),
            false => Err(Error::Malformed("too long")),
        }
    }

    /// Reads a whole message.
    ///
    /// # Errors
    /// It is not one.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let prefix = bytes.first_chunk().ok_or(Error::Malformed("cut short"))?;
        if Self::length(prefix)? != bytes.len() {
            return Err(Error::Malformed("of another length"));
        }
        let kind = match bytes[1] {
            1 => Kind::Call,
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _ => return Err(Error::Malformed("of an unknown kind")),
        };
        let mut head = Decoder::new(bytes);
        let values = head.values("yyyyuua(yv)")?;
        head.align(8)?;
        let mut message = Self::empty(kind);
        let mut signature = String::new();
        if let [
            _,
            _,
            _,
            _,
            Value::U32(length),
            Value::U32(serial),
            Value::Array(_, fields),
        ] = &values[..]
        {
            message.serial = *serial;
            for field in fields {
                message.take_field(field, &mut signature)?;
            }
            // The length was compared with what is there.
            let body = &bytes[bytes.len() - *length as usize..];
            let mut body = Decoder::new(body);
            message.body = body.values(&signature)?;
            if !body.is_at_end() {
                return Err(Error::Malformed("longer than its signature says"));
            }
        }
        match message.serial {
            0 => Err(Error::Malformed("without a number")),
            _ => Ok(message),
        }
    }

    fn take_field(&mut self, field: &Value, signature: &mut String) -> Result<()> {
        let Value::Struct(members) = field else {
            return Ok(());
        };
        let [Value::Byte(code), Value::Variant(value)] = &members[..] else {
            return Ok(());
        };
        match (*code, &**value) {
            (PATH, Value::Path(path)) => self.path.clone_from(path),
            (INTERFACE, Value::Str(name)) => self.interface.clone_from(name),
            (MEMBER, Value::Str(name)) => self.member.clone_from(name),
            (ERROR_NAME, Value::Str(name)) => self.error.clone_from(name),
            (DESTINATION, Value::Str(name)) => self.destination.clone_from(name),
            (SENDER, Value::Str(name)) => self.sender.clone_from(name),
            (REPLY_SERIAL, Value::U32(serial)) => self.reply_to = *serial,
            (SIGNATURE, Value::Signature(text)) => signature.clone_from(text),
            (UNIX_FDS, Value::U32(0)) => {}
            (UNIX_FDS, _) => return Err(Error::Malformed("descriptors nobody asked for")),
            (
                PATH | INTERFACE | MEMBER | ERROR_NAME | DESTINATION | REPLY_SERIAL | SIGNATURE,
                _,
            ) => {
                return Err(Error::Malformed("a header field of a wrong type"));
            }
            // Unknown ones are to be ignored; the sender is of no interest.
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
