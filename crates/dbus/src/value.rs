// SPDX-License-Identifier: Apache-2.0
//! Values and their types. A type is written as its signature, as `a(ss)`.

/// A value of any type but a descriptor.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `y`
    Byte(u8),
    /// `b`
    Bool(bool),
    /// `n`
    I16(i16),
    /// `q`
    U16(u16),
    /// `i`
    I32(i32),
    /// `u`
    U32(u32),
    /// `x`
    I64(i64),
    /// `t`
    U64(u64),
    /// `d`
    Double(f64),
    /// `s`
    Str(String),
    /// `o`
    Path(String),
    /// `g`
    Signature(String),
    /// `a`: the signature of its elements, and them.
    Array(String, Vec<Value>),
    /// `(...)`
    Struct(Vec<Value>),
    /// `{..}`: key and value, only in an array.
    Entry(Box<Value>, Box<Value>),
    /// `v`
    Variant(Box<Value>),
}

impl Value {
    /// A string.
    pub fn str(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    /// An array of strings.
    pub fn strings(all: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::Array("s".to_owned(), all.into_iter().map(Self::str).collect())
    }

    /// An array of bytes.
    pub fn bytes(all: impl IntoIterator<Item = u8>) -> Self {
        Self::Array("y".to_owned(), all.into_iter().map(Self::Byte).collect())
    }

    /// In a variant.
    pub fn variant(self) -> Self {
        Self::Variant(Box::new(self))
    }

    /// The text of a string or a path.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) | Self::Path(text) => Some(text),
            _ => None,
        }
    }

    /// What is in a variant; any other value itself.
    pub fn unwrapped(&self) -> &Self {
        match self {
            Self::Variant(value) => value.unwrapped(),
            value => value,
        }
    }

    /// Its type.
    pub fn signature(&self) -> String {
        let mut signature = String::new();
        self.write_signature(&mut signature);
        signature
    }

    pub(crate) fn write_signature(&self, to: &mut String) {
        let letter = match self {
            Self::Byte(_) => 'y',
            Self::Bool(_) => 'b',
            Self::I16(_) => 'n',
            Self::U16(_) => 'q',
            Self::I32(_) => 'i',
            Self::U32(_) => 'u',
            Self::I64(_) => 'x',
            Self::U64(_) => 't',
            Self::Double(_) => 'd',
            Self::Str(_) => 's',
            Self::Path(_) => 'o',
            Self::Signature(_) => 'g',
            Self::Variant(_) => 'v',
            Self::Array(element, _) => {
                to.push('a');
                to.push_str(element);
                return;
            }
            Self::Struct(members) => {
                to.push('(');
                for member in members {
                    member.write_signature(to);
                }
                to.push(')');
                return;
            }
            Self::Entry(key, value) => {
                to.push('{');
                key.write_signature(to);
                value.write_signature(to);
                to.push('}');
                return;
            }
        };
        to.push(letter);
    }
}

/// What the first letter of a type says about its alignment.
pub(crate) fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

/// The first complete type of a signature, and what follows it. `None`: there is none.
///
/// Nesting is limited as the D-Bus specification limits it: 32 arrays and 32 others.
pub(crate) fn split_type(signature: &str) -> Option<(&str, &str)> {
    let length = type_length(signature.as_bytes(), 0, 0)?;
    Some(signature.split_at(length))
}

fn type_length(signature: &[u8], arrays: usize, structs: usize) -> Option<usize> {
    if arrays > 32 || structs > 32 {
        return None;
    }
    match signature.first()? {
        b'y' | b'b' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' | b's' | b'o' | b'g'
        | b'v' => Some(1),
        b'a' if signature.get(1) == Some(&b'{') => {
            let key = type_length(signature.get(2..)?, arrays + 1, structs + 1)?;
            // A key is of a basic type.
            if key != 1 || signature.get(2) == Some(&b'v') {
                return None;
            }
            let value = type_length(signature.get(3..)?, arrays + 1, structs + 1)?;
            (signature.get(3 + value) == Some(&b'}')).then_some(4 + value)
        }
        b'a' => Some(1 + type_length(signature.get(1..)?, arrays + 1, structs)?),
        b'(' => {
            let mut length = 1;
            while signature.get(length)? != &b')' {
                length += type_length(signature.get(length..)?, arrays, structs + 1)?;
            }
            (length > 1).then_some(length + 1)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_split_into_complete_types() {
        assert_eq!(split_type("sa(sv)u"), Some(("s", "a(sv)u")));
        assert_eq!(split_type("a(sv)u"), Some(("a(sv)", "u")));
        assert_eq!(split_type("aay"), Some(("aay", "")));
        assert_eq!(split_type("a{sv}s"), Some(("a{sv}", "s")));
        for bad in [
            "", "a", "(", "()", "(s", "z", "{sv}", "a{vs}", "a{s}", "a{svs}", ")", "h",
        ] {
            assert_eq!(split_type(bad), None, "{bad}");
        }
        assert!(split_type(&format!("{}y", "a".repeat(32))).is_some());
        assert_eq!(split_type(&format!("{}y", "a".repeat(33))), None);
        let deep = |n: usize| format!("{}y{}", "(".repeat(n), ")".repeat(n));
        assert!(split_type(&deep(32)).is_some());
        assert_eq!(split_type(&deep(33)), None);
    }

    #[test]
    fn a_value_knows_its_type() {
        let devices = Value::Array(
            "(ss)".to_owned(),
            vec![Value::Struct(vec![
                Value::str("/dev/null"),
                Value::str("r"),
            ])],
        );
        assert_eq!(devices.signature(), "a(ss)");
        assert_eq!(devices.clone().variant().signature(), "v");
        assert_eq!(
            Value::Struct(vec![Value::U64(1), devices]).signature(),
            "(ta(ss))"
        );
    }
}
