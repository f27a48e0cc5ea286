// SPDX-License-Identifier: Apache-2.0
//! Mount options as fstab, the OCI specification and containerd write them.

use serde::{Deserialize, Serialize};
use sys::mount::{Attributes, Extent, attr, ms};

/// What one option means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Nothing.
    Nothing,
    /// `MS_*` bits on.
    Set(u64),
    /// `MS_*` bits off.
    Clear(u64),
    /// A change of propagation.
    Propagate(Propagation),
    /// `MOUNT_ATTR_*` on, for the whole tree.
    SetAll(u64),
    /// `MOUNT_ATTR_*` off, for the whole tree.
    ClearAll(u64),
    /// Fill a tmpfs with what it hides.
    CopyUp,
    /// An id-mapped mount, with or without what is mounted below it.
    Idmap(Extent),
}

/// How mount events travel to and from a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Propagation {
    /// One of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`.
    pub kind: u64,
    /// For the mounts below it, too.
    pub recursive: bool,
}

impl Propagation {
    /// One of the eight words: `private`, `rprivate`, `slave`, …
    pub fn parse(word: &str) -> Option<Self> {
        let (kind, recursive) = match word {
            "private" => (ms::PRIVATE, false),
            "rprivate" => (ms::PRIVATE, true),
            "slave" => (ms::SLAVE, false),
            "rslave" => (ms::SLAVE, true),
            "shared" => (ms::SHARED, false),
            "rshared" => (ms::SHARED, true),
            "unbindable" => (ms::UNBINDABLE, false),
            "runbindable" => (ms::UNBINDABLE, true),
            _ => return None,
        };
        Some(Self { kind, recursive })
    }

    /// As `mount(2)` takes it.
    pub fn flags(self) -> u64 {
        self.kind | if self.recursive { ms::REC } else { 0 }
    }
}

/// The meaning of a word, or none if it is for the file system to understand.
pub(crate) fn meaning(word: &str) -> Option<Meaning> {
    use Meaning::{Clear, ClearAll, CopyUp, Idmap, Nothing, Propagate, Set, SetAll};
    if let Some(propagation) = Propagation::parse(word) {
        return Some(Propagate(propagation));
    }
    Some(match word {
        "defaults" | "" => Nothing,
        "bind" => Set(ms::BIND),
        "rbind" => Set(ms::BIND | ms::REC),
        "remount" => Set(ms::REMOUNT),
        "ro" => Set(ms::RDONLY),
        "rw" => Clear(ms::RDONLY),
        "nosuid" => Set(ms::NOSUID),
        "suid" => Clear(ms::NOSUID),
        "nodev" => Set(ms::NODEV),
        "dev" => Clear(ms::NODEV),
        "noexec" => Set(ms::NOEXEC),
        "exec" => Clear(ms::NOEXEC),
        "nosymfollow" => Set(ms::NOSYMFOLLOW),
        "symfollow" => Clear(ms::NOSYMFOLLOW),
        "sync" => Set(ms::SYNCHRONOUS),
        "async" => Clear(ms::SYNCHRONOUS),
        "dirsync" => Set(ms::DIRSYNC),
        "mand" => Set(ms::MANDLOCK),
        "nomand" => Clear(ms::MANDLOCK),
        "noatime" => Set(ms::NOATIME),
        "atime" => Clear(ms::NOATIME),
        "nodiratime" => Set(ms::NODIRATIME),
        "diratime" => Clear(ms::NODIRATIME),
        "relatime" => Set(ms::RELATIME),
        "norelatime" => Clear(ms::RELATIME),
        "strictatime" => Set(ms::STRICTATIME),
        "nostrictatime" => Clear(ms::STRICTATIME),
        "lazytime" => Set(ms::LAZYTIME),
        "nolazytime" => Clear(ms::LAZYTIME),
        "iversion" => Set(ms::I_VERSION),
        "noiversion" => Clear(ms::I_VERSION),
        "silent" => Set(ms::SILENT),
        "loud" => Clear(ms::SILENT),
        "rro" => SetAll(attr::RDONLY),
        "rrw" => ClearAll(attr::RDONLY),
        "rnosuid" => SetAll(attr::NOSUID),
        "rsuid" => ClearAll(attr::NOSUID),
        "rnodev" => SetAll(attr::NODEV),
        "rdev" => ClearAll(attr::NODEV),
        "rnoexec" => SetAll(attr::NOEXEC),
        "rexec" => ClearAll(attr::NOEXEC),
        "rnosymfollow" => SetAll(attr::NOSYMFOLLOW),
        "rsymfollow" => ClearAll(attr::NOSYMFOLLOW),
        "rnodiratime" => SetAll(attr::NODIRATIME),
        "rdiratime" => ClearAll(attr::NODIRATIME),
        "rrelatime" => SetAll(attr::RELATIME),
        "rnoatime" => SetAll(attr::NOATIME),
        "rstrictatime" => SetAll(attr::STRICTATIME),
        // The opposite of a class of access times is the kernel's default, relatime.
        "rnorelatime" | "ratime" | "rnostrictatime" => ClearAll(attr::ATIME),
        "tmpcopyup" => CopyUp,
        "idmap" => Idmap(Extent::Mount),
        "ridmap" => Idmap(Extent::Tree),
        _ => return None,
    })
}

/// Flags of `mount(2)`: what was asked to be on, and what was asked to be off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flags {
    /// `MS_*` on.
    pub set: u64,
    /// `MS_*` explicitly off.
    pub cleared: u64,
}

/// Flags of `mount(2)` that say what to do, not how the mount shall be.
const ACTIONS: u64 = ms::BIND | ms::REC | ms::REMOUNT;

/// Flags that select a class of access times.
const ATIME: u64 = ms::NOATIME | ms::RELATIME | ms::STRICTATIME;

/// Flags of `mount(2)` with their attribute.
const ATTRIBUTES: [(u64, u64); 6] = [
    (ms::RDONLY, attr::RDONLY),
    (ms::NOSUID, attr::NOSUID),
    (ms::NODEV, attr::NODEV),
    (ms::NOEXEC, attr::NOEXEC),
    (ms::NODIRATIME, attr::NODIRATIME),
    (ms::NOSYMFOLLOW, attr::NOSYMFOLLOW),
];

impl Flags {
    /// Later words win.
    pub(crate) fn apply(&mut self, meaning: Meaning) {
        match meaning {
            Meaning::Set(bits) => {
                self.set |= bits;
                self.cleared &= !bits;
            }
            Meaning::Clear(bits) => {
                self.set &= !bits;
                self.cleared |= bits;
            }
            _ => {}
        }
    }

    /// Whether all of the bits are on.
    pub fn has(&self, bits: u64) -> bool {
        self.set & bits == bits
    }

    /// The same without read-only: for a mount that is still to be filled.
    pub(crate) fn writable(mut self) -> Self {
        self.set &= !ms::RDONLY;
        self
    }

    /// Whether anything is said about how the mount shall be.
    pub(crate) fn any_attribute(&self) -> bool {
        self.set & !ACTIONS != 0 || self.cleared != 0
    }

    /// `MOUNT_ATTR_*` of a new mount.
    pub(crate) fn for_new_mount(&self) -> u64 {
        attributes(self.set) | atime_class(self.set)
    }

    /// What a bind mount with these flags changes of the mount it clones.
    ///
    /// As with `mount --bind -o …`, and as runc does it: the four classic flags are as the options
    /// say, whatever the source had, if there is any option at all. Access times stay as they are
    /// unless they are mentioned.
    pub(crate) fn for_bind(&self) -> Attributes {
        if !self.any_attribute() {
            return Attributes::default();
        }
        let classic = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        let mut changes = self.explicit();
        changes.clear |= classic & !changes.set;
        changes
    }

    /// Only what the options name: where the kernel protects flags of a mount that came from a
    /// more privileged namespace, the others must stay.
    pub(crate) fn explicit(&self) -> Attributes {
        let mut set = attributes(self.set);
        let mut clear = attributes(self.cleared) & !set;
        if self.set & ATIME != 0 {
            set |= atime_class(self.set);
            clear |= attr::ATIME;
        }
        Attributes::new(set, clear)
    }

    /// Flags for `mount(2)` with `MS_REMOUNT | MS_BIND`, given what the mount has now: does what
    /// the attributes say on kernels without `mount_setattr`.
    pub(crate) fn remount(current: u64, changes: Attributes) -> u64 {
        let mut flags = current;
        for (bit, attribute) in ATTRIBUTES {
            if changes.clear & attribute != 0 {
                flags &= !bit;
            }
            if changes.set & attribute != 0 {
                flags |= bit;
            }
        }
        if changes.clear & attr::ATIME != 0 {
            flags &= !ATIME;
            flags |= match changes.set & attr::ATIME {
                attr::NOATIME => ms::NOATIME,
                attr::STRICTATIME => ms::STRICTATIME,
                _ => ms::RELATIME,
            };
        }
        flags
    }
}

fn attributes(flags: u64) -> u64 {
    ATTRIBUTES
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .fold(0, |sum, (_, a)| sum | a)
}

/// As the kernel reads contradicting flags: strict before none before relative.
fn atime_class(flags: u64) -> u64 {
    if flags & ms::STRICTATIME != 0 {
        attr::STRICTATIME
    } else if flags & ms::NOATIME != 0 {
        attr::NOATIME
    } else {
        attr::RELATIME
    }
}

/// Attributes for a whole tree, from words like `rro`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeAttributes {
    /// `MOUNT_ATTR_*` on.
    pub set: u64,
    /// `MOUNT_ATTR_*` off.
    pub clear: u64,
}

impl TreeAttributes {
    /// Later words win. The class of access times is set by clearing the whole mask.
    pub(crate) fn apply(&mut self, meaning: Meaning) {
        let timeless = attr::NOATIME | attr::STRICTATIME;
        match meaning {
            Meaning::SetAll(class) if class == attr::RELATIME || class & timeless != 0 => {
                self.set = self.set & !attr::ATIME | class;
                self.clear |= attr::ATIME;
            }
            Meaning::SetAll(bits) => {
                self.set |= bits;
                self.clear &= !bits;
            }
            Meaning::ClearAll(bits) => {
                self.set &= !bits;
                self.clear |= bits;
            }
            _ => {}
        }
    }

    /// As `mount_setattr(2)` takes them, if there are any.
    pub(crate) fn changes(&self) -> Option<Attributes> {
        let changes = Attributes::new(self.set, self.clear);
        (!changes.is_empty()).then_some(changes)
    }
}

/// Splits options that came as one comma-separated word; a quoted part keeps its commas.
pub(crate) fn split(word: &str) -> Vec<&str> {
    let mut quoted = false;
    word.split(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(words: &[&str]) -> Flags {
        let mut flags = Flags::default();
        words.iter().for_each(|w| flags.apply(meaning(w).unwrap()));
        flags
    }

    #[test]
    fn later_words_win() {
        assert_eq!(
            flags(&["ro", "rw"]),
            Flags {
                set: 0,
                cleared: ms::RDONLY
            }
        );
        assert_eq!(
            flags(&["rw", "ro"]),
            Flags {
                set: ms::RDONLY,
                cleared: 0
            }
        );
    }

    #[test]
    fn a_bind_without_options_changes_nothing_and_with_any_sets_the_classic_four() {
        assert!(flags(&["rbind"]).for_bind().is_empty());
        let all = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        assert_eq!(flags(&["rbind", "rw"]).for_bind(), Attributes::new(0, all));
        let expected = Attributes::new(attr::RDONLY, all & !attr::RDONLY);
        assert_eq!(flags(&["bind", "ro"]).for_bind(), expected);
        assert_eq!(
            flags(&["bind", "ro"]).explicit(),
            Attributes::new(attr::RDONLY, 0)
        );
        assert_eq!(
            flags(&["bind", "suid"]).explicit(),
            Attributes::new(0, attr::NOSUID)
        );
    }

    #[test]
    fn the_class_of_access_times_is_a_number_not_bits() {
        let changes = flags(&["bind", "noatime", "nodiratime"]).explicit();
        let set = attr::NOATIME | attr::NODIRATIME;
        assert_eq!(changes, Attributes::new(set, attr::ATIME));
        assert_eq!(
            flags(&["strictatime", "nosuid"]).for_new_mount(),
            0x20 | attr::NOSUID
        );
        assert_eq!(flags(&["relatime"]).for_new_mount(), 0);
        let mut tree = TreeAttributes::default();
        tree.apply(meaning("rnoatime").unwrap());
        tree.apply(meaning("rstrictatime").unwrap());
        assert_eq!(
            tree.changes(),
            Some(Attributes::new(attr::STRICTATIME, attr::ATIME))
        );
        tree.apply(meaning("rrelatime").unwrap());
        assert_eq!(tree.changes(), Some(Attributes::new(0, attr::ATIME)));
    }

    #[test]
    fn a_remount_keeps_what_is_not_mentioned() {
        let current = ms::NOSUID | ms::RDONLY | ms::STRICTATIME;
        let changes = Attributes::new(attr::NODEV, attr::RDONLY);
        let expected = ms::NOSUID | ms::NODEV | ms::STRICTATIME;
        assert_eq!(Flags::remount(current, changes), expected);
        let changes = Attributes::new(attr::NOATIME, attr::ATIME);
        assert_eq!(Flags::remount(current, changes) & ATIME, ms::NOATIME);
    }

    #[test]
    fn what_is_no_flag_is_for_the_file_system() {
        for word in [
            "acl",
            "size=64m",
            "mode=755",
            "newinstance",
            "X-mount.mkdir",
        ] {
            assert_eq!(meaning(word), None, "{word}");
        }
        assert_eq!(split("mode=755,size=1k"), ["mode=755", "size=1k"]);
        assert_eq!(
            split("context=\"a:c1,c2\",ro"),
            ["context=\"a:c1,c2\"", "ro"]
        );
    }
}
