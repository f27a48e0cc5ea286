// SPDX-License-Identifier: Apache-2.0
//! Stands in for the crates that are being written.
#![allow(dead_code)]

pub(crate) mod runtime {
    pub(crate) mod init {
        pub(crate) fn main() -> ! {
            std::process::exit(1)
        }
    }
    pub(crate) mod cleanup {
        use std::path::Path;
        pub(crate) struct Report {
            pub(crate) pid: i32,
        }
        pub(crate) fn force(_: &Path, _: &str, _: &str, _: &Path) -> sys::Result<Report> {
            Ok(Report { pid: 0 })
        }
    }
}

pub(crate) mod task {
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixListener;

    pub(crate) struct Config {
        pub(crate) listener: OwnedFd,
        pub(crate) debug_listener: Option<OwnedFd>,
        pub(crate) namespace: String,
        pub(crate) id: String,
        pub(crate) containerd_ttrpc_address: String,
        pub(crate) exe: OwnedFd,
        pub(crate) ready: OwnedFd,
        pub(crate) debug: bool,
    }

    /// Answers every call with success; `Shutdown` ends it.
    pub(crate) fn serve(config: Config) -> std::io::Result<()> {
        if config.id == "fail" {
            return Err(std::io::Error::other("made to fail"));
        }
        rustix::io::write(&config.ready, &[0])?;
        drop(config.ready);
        let listener = UnixListener::from(config.listener);
        loop {
            let (mut stream, _) = listener.accept()?;
            let mut header = [0; 10];
            while stream.read_exact(&mut header).is_ok() {
                let n = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
                let mut body = vec![0; n as usize];
                stream.read_exact(&mut body)?;
                header[..4].fill(0);
                header[8] = 2;
                stream.write_all(&header)?;
                if body.windows(8).any(|w| w == b"Shutdown") {
                    return Ok(());
                }
            }
        }
    }
}
