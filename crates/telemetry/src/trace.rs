// SPDX-License-Identifier: Apache-2.0
//! The trace of whoever calls us: W3C Trace Context, as it comes in ttrpc metadata.

/// The metadata key that carries it.
pub const TRACEPARENT: &str = "traceparent";

/// A `traceparent`: which trace a call is part of, and which span of it made the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// The trace.
    pub id: [u8; 16],
    /// The caller's span.
    pub parent: [u8; 8],
    /// Whether the caller records the trace.
    pub sampled: bool,
}

impl Trace {
    /// Parses `version-traceid-parentid-flags`; `None` for anything that the recommendation does
    /// not allow: then the call is as if it had none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let [version] = hex(parts.next()?)?;
        let id = hex(parts.next()?)?;
        let parent = hex(parts.next()?)?;
        let [flags] = hex(parts.next()?)?;
        // Later versions may add parts; this one may not.
        let valid = version != 0xff && (version != 0 || parts.next().is_none());
        (valid && id != [0; 16] && parent != [0; 8]).then_some(Self {
            id,
            parent,
            sampled: flags & 1 == 1,
        })
    }
}

/// Exactly `2 * N` lower-case hexadecimal digits.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes = text.as_bytes();
    if bytes.len() != 2 * N {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (to, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        *to = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_or_ignored() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = Trace::parse(good).unwrap();
        assert_eq!((trace.id[0], trace.id[15]), (0x0a, 0x9c));
        assert_eq!((trace.parent[0], trace.sampled), (0xb7, true));
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more";
        assert!(!Trace::parse(later).unwrap().sampled);
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert_eq!(Trace::parse(bad), None, "{bad:?}");
        }
    }
}
