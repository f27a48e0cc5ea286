// SPDX-License-Identifier: Apache-2.0
//! Frames: a header of ten bytes and a body of at most 4 MiB.
//!
//! ```text
//!  0      4        8      9       10
//!  | len  | stream | type | flags | body …      both integers big endian
//! ```
//!
//! [`Frames`] cuts a byte stream into frames. It holds memory only while a frame is incomplete, at
//! most [`GROW`] ahead of the bytes that arrived (whatever a header claims), and gives all of it
//! back with the frame. A body over the limit is skipped, so the stream stays usable.

use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::RecvFlags;

/// Bytes of a header.
pub(crate) const HEADER_LEN: usize = 10;
/// The longest body, the same in every implementation.
pub(crate) const BODY_MAX: usize = 4 << 20;

/// What one `recv` takes; most frames fit and are then never copied.
const SCRATCH: usize = 8 << 10;
/// What a large body grows by.
const GROW: usize = 256 << 10;
/// What one call of [`Frames::read`] takes, so that no peer keeps the others waiting.
const SHARE: usize = 128 << 10;

/// Type of a frame that carries a request.
pub(crate) const REQUEST: u8 = 1;
/// Type of a frame that carries a response.
pub(crate) const RESPONSE: u8 = 2;
/// Type of a frame of a streaming method.
pub(crate) const DATA: u8 = 3;

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) length: u32,
    pub(crate) stream: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
}

impl Header {
    pub(crate) fn parse(bytes: &[u8; HEADER_LEN]) -> Self {
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, flags] = *bytes;
        Self {
            length: u32::from_be_bytes([l0, l1, l2, l3]),
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            kind,
            flags,
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; HEADER_LEN] {
        let [l0, l1, l2, l3] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, l3, s0, s1, s2, s3, self.kind, self.flags]
    }
}

/// A frame's body, borrowed from the read buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It was longer than [`BODY_MAX`] and has been skipped.
    Oversize,
}

/// Where reading stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Everything there was has been read: the next edge will tell of more.
    Drained,
    /// There may be more: call again after the others had their turn, no edge will come.
    More,
    /// The peer has closed its end.
    Closed,
}

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The beginning of an incomplete frame, header included.
    partial: Vec<u8>,
    skip: Option<Skip>,
}

/// An oversize frame whose body is being thrown away.
#[derive(Debug)]
struct Skip {
    header: Header,
    left: usize,
}

impl Frames {
    /// Reads from the non-blocking `socket` and hands each frame to `sink`, in order.
    pub(crate) fn read(
        &mut self,
        socket: BorrowedFd<'_>,
        sink: &mut dyn FnMut(Header, Body<'_>),
    ) -> rustix::io::Result<Input> {
        let mut taken = 0;
        while taken < SHARE {
            match self.read_once(socket, sink) {
                Ok(0) => return Ok(Input::Closed),
                Ok(count) => taken += count,
                Err(Errno::AGAIN) => return Ok(Input::Drained),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(Input::More)
    }

    fn read_once(
        &mut self,
        socket: BorrowedFd<'_>,
        sink: &mut dyn FnMut(Header, Body<'_>),
    ) -> rustix::io::Result<usize> {
        let missing = self.missing();
        if missing > SCRATCH {
            // A large body goes to its place without a stop in between.
            self.partial.reserve_exact(missing.min(GROW));
            let start = self.partial.len();
            let end = start + missing.min(GROW);
            self.partial.resize(end, 0);
            let result = rustix::net::recv(socket, &mut self.partial[start..], RecvFlags::DONTWAIT);
            let count = result.map_or(0, |(_, count)| count);
            self.partial.truncate(start + count);
            self.hand_over_complete(sink);
            return result.map(|_| count);
        }
        let mut scratch = [MaybeUninit::<u8>::uninit(); SCRATCH];
        let ((bytes, _), _) = rustix::net::recv(socket, &mut scratch, RecvFlags::DONTWAIT)?;
        self.feed(bytes, sink);
        Ok(bytes.len())
    }

    /// How many bytes the incomplete frame is known to lack.
    fn missing(&self) -> usize {
        let Some(head) = self.partial.first_chunk::<HEADER_LEN>() else {
            return if self.partial.is_empty() {
                0
            } else {
                HEADER_LEN - self.partial.len()
            };
        };
        HEADER_LEN + Header::parse(head).length as usize - self.partial.len()
    }

    /// Takes bytes as they came, cut anywhere.
    fn feed(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(Header, Body<'_>)) {
        while !bytes.is_empty() {
            if let Some(skip) = &mut self.skip {
                let count = skip.left.min(bytes.len());
                skip.left -= count;
                bytes = &bytes[count..];
                if skip.left == 0 {
                    let header = skip.header;
                    self.skip = None;
                    sink(header, Body::Oversize);
                }
            } else if self.partial.is_empty() {
                match self.take_whole(bytes, sink) {
                    Some(rest) => bytes = rest,
                    None => {
                        self.partial.extend_from_slice(bytes);
                        return;
                    }
                }
            } else {
                let count = self.missing().min(bytes.len());
                self.partial.extend_from_slice(&bytes[..count]);
                bytes = &bytes[count..];
                self.hand_over_complete(sink);
            }
        }
    }

    /// Hands over the frame at the start of `bytes` (or starts to skip it), if it is all there.
    fn take_whole<'a>(
        &mut self,
        bytes: &'a [u8],
        sink: &mut dyn FnMut(Header, Body<'_>),
    ) -> Option<&'a [u8]> {
        let (head, rest) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let header = Header::parse(head);
        let length = header.length as usize;
        if length > BODY_MAX {
            self.skip = Some(Skip {
                header,
                left: length,
            });
            return Some(rest);
        }
        let (body, rest) = rest.split_at_checked(length)?;
        sink(header, Body::Whole(body));
        Some(rest)
    }

    /// Hands over the collected frame once its last byte has come, and frees its memory.
    fn hand_over_complete(&mut self, sink: &mut dyn FnMut(Header, Body<'_>)) {
        let Some((head, body)) = self.partial.split_first_chunk::<HEADER_LEN>() else {
            return;
        };
        let header = Header::parse(head);
        let length = header.length as usize;
        if length > BODY_MAX {
            self.skip = Some(Skip {
                header,
                left: length,
            });
        } else if body.len() == length {
            sink(header, Body::Whole(body));
        } else {
            return;
        }
        self.partial = Vec::new();
    }

    /// Bytes of memory held between calls.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.partial.capacity()
    }
}

/// A frame ready to send. `body` appends the body to the vector it is given.
///
/// A body over [`BODY_MAX`] is an error that holds its length: peers would refuse it.
pub(crate) fn encode(
    stream: u32,
    kind: u8,
    body_len: usize,
    body: impl FnOnce(&mut Vec<u8>),
) -> Result<Vec<u8>, usize> {
    let mut frame = Vec::with_capacity(HEADER_LEN + body_len);
    frame.extend_from_slice(&[0; HEADER_LEN]);
    body(&mut frame);
    let length = frame.len() - HEADER_LEN;
    if length > BODY_MAX {
        return Err(length);
    }
    let header = Header {
        length: length as u32,
        stream,
        kind,
        flags: 0,
    };
    frame[..HEADER_LEN].copy_from_slice(&header.to_bytes());
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame that owns its body; `None` is an oversize one.
    type Owned = (Header, Option<Vec<u8>>);

    fn frame(stream: u32, body: &[u8]) -> Vec<u8> {
        encode(stream, REQUEST, body.len(), |out| {
            out.extend_from_slice(body)
        })
        .unwrap()
    }

    fn header(stream: u32, length: usize) -> Header {
        Header {
            length: length as u32,
            stream,
            kind: REQUEST,
            flags: 0,
        }
    }

    fn feed(frames: &mut Frames, bytes: &[u8], got: &mut Vec<Owned>) {
        frames.feed(bytes, &mut |header, body| {
            got.push((
                header,
                match body {
                    Body::Whole(body) => Some(body.to_vec()),
                    Body::Oversize => None,
                },
            ));
        });
    }

    /// xorshift64: the same numbers in every run.
    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn a_header_survives_its_bytes() {
        let header = Header {
            length: 0x0102_0304,
            stream: 0xfffe_fdfc,
            kind: 2,
            flags: 7,
        };
        let bytes = header.to_bytes();
        assert_eq!(bytes, [1, 2, 3, 4, 0xff, 0xfe, 0xfd, 0xfc, 2, 7]);
        assert_eq!(Header::parse(&bytes), header);
    }

    #[test]
    fn frames_may_be_cut_at_every_byte() {
        let bodies = [&b""[..], b"x", &[7; 300], b"", b"end"];
        let stream: Vec<u8> = bodies
            .iter()
            .enumerate()
            .flat_map(|(n, body)| frame(n as u32, body))
            .collect();
        let want: Vec<Owned> = bodies
            .iter()
            .enumerate()
            .map(|(n, body)| (header(n as u32, body.len()), Some(body.to_vec())))
            .collect();
        for cut in 0..=stream.len() {
            let (mut frames, mut got) = (Frames::default(), Vec::new());
            feed(&mut frames, &stream[..cut], &mut got);
            feed(&mut frames, &stream[cut..], &mut got);
            assert_eq!(got, want, "cut at {cut}");
            assert_eq!(frames.held(), 0);
        }
        let (mut frames, mut got) = (Frames::default(), Vec::new());
        stream
            .chunks(1)
            .for_each(|byte| feed(&mut frames, byte, &mut got));
        assert_eq!(got, want);
    }

    #[test]
    fn frames_of_all_sizes_survive_random_cuts() {
        for seed in 1..=20 {
            let state = &mut 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed);
            let (mut stream, mut want) = (Vec::new(), Vec::new());
            for n in 0..30 {
                let size = random(state) as usize % [16, 300, 20_000, 300_000][n as usize % 4];
                let body: Vec<u8> = (0..size).map(|_| random(state) as u8).collect();
                stream.extend(frame(n, &body));
                want.push((header(n, size), Some(body)));
            }
            let (mut frames, mut got, mut rest) = (Frames::default(), Vec::new(), &stream[..]);
            while !rest.is_empty() {
                let count = (random(state) as usize % 9000 + 1).min(rest.len());
                feed(&mut frames, &rest[..count], &mut got);
                rest = &rest[count..];
            }
            assert!(got == want, "seed {seed}");
        }
    }

    #[test]
    fn an_oversize_body_is_skipped_wherever_it_is_cut() {
        let length = BODY_MAX + 5;
        let mut stream = header(1, length).to_bytes().to_vec();
        stream.resize(HEADER_LEN + length, 0xaa);
        stream.extend(frame(3, b"after"));
        let want = vec![
            (header(1, length), None),
            (header(3, 5), Some(b"after".to_vec())),
        ];
        for cut in (0..20).chain(HEADER_LEN + length - 3..stream.len()) {
            let (mut frames, mut got) = (Frames::default(), Vec::new());
            feed(&mut frames, &stream[..cut], &mut got);
            assert!(frames.held() < 64, "an oversize body is not kept");
            feed(&mut frames, &stream[cut..], &mut got);
            assert_eq!(got, want, "cut at {cut}");
        }
    }

    #[test]
    fn the_longest_body_is_a_body_and_one_more_byte_is_not() {
        assert_eq!(frame(1, &vec![0; BODY_MAX]).len(), HEADER_LEN + BODY_MAX);
        let body = vec![0; BODY_MAX + 1];
        let result = encode(1, REQUEST, 0, |out| out.extend_from_slice(&body));
        assert_eq!(result, Err(BODY_MAX + 1));
    }

    #[test]
    fn garbage_is_cut_into_something_without_panic() {
        for seed in 1..=200 {
            let state = &mut 0x2545_f491_4f6c_dd1d_u64.wrapping_mul(seed);
            let mut frames = Frames::default();
            for _ in 0..50 {
                let size = random(state) as usize % 200;
                let bytes: Vec<u8> = (0..size).map(|_| random(state) as u8).collect();
                feed(&mut frames, &bytes, &mut Vec::new());
            }
            assert!(frames.held() <= 32 << 10, "held {}", frames.held());
        }
    }
}
