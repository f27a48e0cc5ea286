// SPDX-License-Identifier: Apache-2.0
//! What an epoll event is about, in the 64 bits that the kernel hands back.

use runtime::cgroups::pressure::Level;
use stdio::Stream;

/// Whom an event is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// A client wants to connect.
    Listener,
    /// A signal is pending.
    Signals,
    /// A worker has finished something.
    Workers,
    /// An init process has logged.
    LogPipe,
    /// The connection to containerd's events service.
    Publisher,
    /// A client's connection.
    Connection(u64),
    /// A process has ended.
    Exit(u64),
    /// A container's memory counters may have changed; named by its init.
    Memory(u64),
    /// A container's memory is as short as that; named by its init.
    Pressure(u64, Level),
    /// A container has said something to its `NOTIFY_SOCKET`.
    Notify(u64),
    /// A stream of a process can go on.
    Stream(u64, Stream),
}

const KIND: u32 = 56;

impl Token {
    /// Kind in the highest byte, key below; keys count up from 1 and never reach 2^54.
    pub(crate) fn encode(self) -> u64 {
        let (kind, key) = match self {
            Token::Listener => (0, 0),
            Token::Signals => (1, 0),
            Token::Workers => (2, 0),
            Token::LogPipe => (3, 0),
            Token::Publisher => (4, 0),
            Token::Connection(key) => (5, key),
            Token::Exit(key) => (6, key),
            Token::Stream(key, Stream::Stdin) => (7, key),
            Token::Stream(key, Stream::Stdout) => (8, key),
            Token::Stream(key, Stream::Stderr) => (9, key),
            Token::Memory(key) => (10, key),
            Token::Notify(key) => (20, key),
            Token::Pressure(key, Level::Low) => (30, key),
            Token::Pressure(key, Level::Medium) => (31, key),
            Token::Pressure(key, Level::Critical) => (32, key),
        };
        kind << KIND | key
    }

    pub(crate) fn decode(bits: u64) -> Option<Self> {
        let key = bits & ((1 << KIND) - 1);
        Some(match bits >> KIND {
            0 => Token::Listener,
            1 => Token::Signals,
            2 => Token::Workers,
            3 => Token::LogPipe,
            4 => Token::Publisher,
            5 => Token::Connection(key),
            6 => Token::Exit(key),
            7 => Token::Stream(key, Stream::Stdin),
            8 => Token::Stream(key, Stream::Stdout),
            9 => Token::Stream(key, Stream::Stderr),
            10 => Token::Memory(key),
            20 => Token::Notify(key),
            30 => Token::Pressure(key, Level::Low),
            31 => Token::Pressure(key, Level::Medium),
            32 => Token::Pressure(key, Level::Critical),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [
            Token::Listener,
            Token::Publisher,
            Token::Connection(7),
            Token::Exit(1 << 40),
            Token::Memory(2),
            Token::Notify(9),
            Token::Pressure(4, Level::Low),
            Token::Pressure(4, Level::Medium),
            Token::Pressure(4, Level::Critical),
            Token::Stream(3, Stream::Stdin),
            Token::Stream(3, Stream::Stderr),
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(u64::MAX), None);
    }
}
