// SPDX-License-Identifier: Apache-2.0
//! Lines of `/proc/<pid>/mountinfo`. Its length is the host's business: read on rare paths only.

/// What we need of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountInfo<'a> {
    /// Its id.
    pub(crate) id: &'a str,
    /// Which directory of the file system is mounted.
    pub(crate) root: String,
    /// Where.
    pub(crate) mount_point: String,
    /// The file system's type.
    pub(crate) fstype: &'a str,
}

impl<'a> MountInfo<'a> {
    /// Parses a line: `36 35 98:0 /root /mount/point opts tag:1 … - fstype source superopts`.
    pub(crate) fn parse(line: &'a str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let id = fields.next()?;
        let mut fields = fields.skip(2);
        let (root, mount_point) = (fields.next()?, fields.next()?);
        let fstype = filesystem.split(' ').next()?;
        Some(Self {
            id,
            root: unescape(root),
            mount_point: unescape(mount_point),
            fstype,
        })
    }

    /// Whether it is mounted on or below a path.
    pub(crate) fn is_below(&self, path: &str) -> bool {
        match self.mount_point.strip_prefix(path) {
            Some(rest) => rest.is_empty() || rest.starts_with('/') || path.ends_with('/'),
            None => false,
        }
    }
}

/// Where a file system of this type is mounted in the calling thread's mount namespace.
pub(crate) fn mounted(fstype: &str) -> Option<std::path::PathBuf> {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").ok()?;
    let mut mounts = table.lines().filter_map(MountInfo::parse);
    let found = mounts.find(|mount| mount.fstype == fstype)?;
    Some(found.mount_point.into())
}

/// Blanks and the like are written as `\040`.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part
            .get(..3)
            .and_then(|code| u8::from_str_radix(code, 8).ok())
        {
            Some(byte) => {
                out.push(byte);
                out.extend_from_slice(&part.as_bytes()[3..]);
            }
            None => {
                out.push(b'\\');
                out.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_parsed_and_unescaped() {
        let line = r"36 35 98:0 /a /mnt\040x/y rw,noatime master:1 shared:2 - ext3 /dev/root rw";
        let info = MountInfo::parse(line).unwrap();
        assert_eq!(
            (info.id, info.root.as_str(), info.fstype),
            ("36", "/a", "ext3")
        );
        assert_eq!(info.mount_point, "/mnt x/y");
        assert!(info.is_below("/mnt x") && info.is_below("/mnt x/y") && info.is_below("/"));
        assert!(!info.is_below("/mnt"));
        assert_eq!(MountInfo::parse("36 35 98:0"), None);
    }
}
