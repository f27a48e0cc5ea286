// SPDX-License-Identifier: Apache-2.0
//! Traffic of a container's network interfaces, from `/proc/<pid>/net/dev`: no namespace has to be
//! entered.

/// An interface, and what went through it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name in the container.
    pub name: String,
    /// What came in.
    pub received: Traffic,
    /// What went out.
    pub sent: Traffic,
}

/// One direction of traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were damaged or could not be sent.
    pub errors: u64,
    /// Packets that were given up.
    pub dropped: u64,
}

/// Reads what the process sees; empty when it is gone. Traffic with itself does not count.
pub(crate) fn of_process(pid: i32) -> Vec<Interface> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    parse(&list)
}

fn parse(list: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let mut numbers = numbers.split_whitespace().map(str::parse::<u64>);
        let mut traffic = |others: usize| {
            let mut next = || numbers.next()?.ok();
            let traffic = Traffic {
                bytes: next()?,
                packets: next()?,
                errors: next()?,
                dropped: next()?,
            };
            for _ in 0..others {
                next()?;
            }
            Some(traffic)
        };
        Some(Interface {
            name: name.trim().to_owned(),
            received: traffic(4)?,
            sent: traffic(0)?,
        })
    };
    let interfaces = list.lines().filter_map(interface);
    interfaces
        .filter(|interface| interface.name != "lo")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let list = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0: 1 2 3 4 5 6 7 8 11 12 13 14 15 16 17 18
";
        let traffic = |bytes| Traffic {
            bytes,
            packets: bytes + 1,
            errors: bytes + 2,
            dropped: bytes + 3,
        };
        let expected = Interface {
            name: "eth0".to_owned(),
            received: traffic(1),
            sent: traffic(11),
        };
        assert_eq!(parse(list), [expected]);
        assert_eq!(parse("eth0: 1 2 3"), []);
    }
}
