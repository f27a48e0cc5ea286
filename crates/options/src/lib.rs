// SPDX-License-Identifier: Apache-2.0
//! The runtime options that containerd sends with `start`, `-info` and `Create`.
//!
//! | module     | what                                                             |
//! |------------|------------------------------------------------------------------|
//! | `wire`     | the two protobuf messages: `containerd.runc.v1.Options` and `runtimeoptions.v1.Options` |
//! | `table`    | options as a table of keys: TOML of the second message, JSON of `options.json` |
//! | `file`     | `options.json` in the bundle, as the Go shim writes it            |
//! | `binary`   | what a `BinaryName` means to a shim with its runtime inside       |
//!
//! Both messages and both table forms mean the same thing: [`Options`]. What is not known is
//! ignored; what is known but of the wrong type is an error.

mod binary;
mod file;
mod table;
mod wire;

pub use file::FILE_NAME;

/// Where container state is kept unless [`Options::root`] says otherwise.
pub const DEFAULT_ROOT: &str = "/run/containerd/runc";

/// Options of the runtime; the default of each is the zero value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Enter the rootfs with `MS_MOVE` and `chroot` instead of `pivot_root`.
    pub no_pivot_root: bool,
    /// Stay in the session keyring that the shim has.
    pub no_new_keyring: bool,
    /// A cgroup that the shim joins.
    pub shim_cgroup: String,
    /// Owner of the container's stdio pipes.
    pub io_uid: u32,
    /// Group of the container's stdio pipes.
    pub io_gid: u32,
    /// A runtime to execute; see [`Options::check_binary`].
    pub binary_name: String,
    /// Directory of runtime state; empty means [`DEFAULT_ROOT`]: see [`Options::state_root`].
    pub root: String,
    /// The CRIU executable (containerd 1.7 and older).
    pub criu_path: String,
    /// Manage cgroups through systemd; `cgroupsPath` is `slice:prefix:name`.
    pub systemd_cgroup: bool,
    /// Consumed by containerd's client.
    pub criu_image_path: String,
    /// CRIU's working directory when restoring; empty means `<bundle>/work`.
    pub criu_work_path: String,
    /// Consumed by containerd.
    pub task_api_address: String,
    /// Consumed by containerd.
    pub task_api_version: u32,
}

impl Options {
    /// Decodes the contents of an `Any`; an empty type URL means no options.
    ///
    /// Only the last element of `type_url` is compared: callers prefix it in several ways.
    ///
    /// # Errors
    /// The type is not one of the two known, the message does not decode, or the file that it
    /// names cannot be read.
    pub fn from_any(type_url: &str, value: &[u8]) -> Result<Self, Error> {
        match type_url.rsplit('/').next().unwrap_or_default() {
            "" => Ok(Self::default()),
            wire::RUNC => wire::runc(value),
            wire::GENERIC => wire::generic(value),
            _ => Err(Error::UnknownType(type_url.to_owned())),
        }
    }

    /// Whether [`Options::from_any`] knows this type URL.
    pub fn is_known_type(type_url: &str) -> bool {
        matches!(
            type_url.rsplit('/').next(),
            Some(wire::RUNC | wire::GENERIC)
        )
    }

    /// The directory of runtime state; a container's is `<state_root>/<namespace>/<id>`.
    pub fn state_root(&self) -> &str {
        if self.root.is_empty() {
            DEFAULT_ROOT
        } else {
            &self.root
        }
    }
}

/// Options that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An `Any` of some other type.
    #[error("unsupported options type {0:?}")]
    UnknownType(String),
    /// Bytes that are not the message they claim to be.
    #[error("decode {message}")]
    Wire {
        /// Full name of the message.
        message: &'static str,
        /// What the decoder says.
        #[source]
        source: protobuf::Error,
    },
    /// A TOML text that does not parse.
    #[error("parse runtime options as TOML")]
    Toml(#[source] basic_toml::Error),
    /// A JSON file that does not parse.
    #[error("parse {path}")]
    Json {
        /// The file.
        path: String,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// A known key with a value of the wrong type.
    #[error("option {key}: want {want}, have {have}")]
    Type {
        /// The key as it was given.
        key: String,
        /// The type that the option has.
        want: &'static str,
        /// The value that was given.
        have: String,
    },
    /// A file that cannot be read or written.
    #[error("{verb} {path}")]
    File {
        /// `read` or `write`.
        verb: &'static str,
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// `BinaryName` cannot be found.
    #[error("exec: {0:?}: executable file not found in $PATH")]
    BinaryNotInPath(String),
    /// `BinaryName` is a path that leads to no executable file.
    #[error("exec: {path:?}: {why}")]
    BinaryNotExecutable {
        /// The path.
        path: String,
        /// Why, in Go's words.
        why: String,
    },
    /// `BinaryName` is another runtime.
    #[error(
        "runtime binary {0:?} cannot be used: this shim has its runtime built in \
         (leave BinaryName empty or set it to \"runc\")"
    )]
    BinaryRefused(String),
}
