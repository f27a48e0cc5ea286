// SPDX-License-Identifier: Apache-2.0
//! The agent that decides on system calls of a container: `SCMP_ACT_NOTIFY`.
//!
//! ```text
//!   init                          shim                          agent
//!    | loads the filter             |                             |
//!    | Seccomp, its number  ─────►  |                             |
//!    |                              | takes the listener out of init
//!    |   ◄──────── SeccompDone      |                             |
//!    |                              | state, listener  ────────►  |
//! ```
//!
//! Init is under the filter when it speaks: it writes one packet, and nothing that it does after
//! that need get an answer before the agent has the listener.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxSeccomp;
use rustix::process::{Pid, PidfdGetfdFlags, pidfd_getfd};
use serde_json::{Value, json};
use sys::Call;
use sys::spawn::Child;

use crate::error::{Attempt, Error, Result};
use crate::sync::{Channel, Kind};

/// The version of the specification that the agent's message follows.
const OCI_VERSION: &str = "1.3.0";

/// Where the listener goes, and with which words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    path: PathBuf,
    metadata: Option<String>,
}

/// Which process the listener is of.
pub(crate) struct Subject<'a> {
    /// The container's id.
    pub(crate) id: &'a str,
    /// The status of the container.
    pub(crate) status: &'static str,
    /// Its init.
    pub(crate) init: Pid,
    pub(crate) bundle: &'a Path,
    pub(crate) annotations: &'a HashMap<String, String>,
}

impl Agent {
    /// The one that the profile names.
    ///
    /// # Errors
    /// It names none.
    pub(crate) fn of(profile: &LinuxSeccomp) -> Result<Self> {
        let path = profile.listener_path().clone().unwrap_or_default();
        if path.as_os_str().is_empty() {
            let field = "linux.seccomp.listenerPath";
            return Err(Error::spec(field, "seccomp listenerPath is not set"));
        }
        Ok(Self {
            path,
            metadata: profile.listener_metadata().clone(),
        })
    }

    /// Takes the listener from init and gives it to the agent.
    ///
    /// # Errors
    /// Init does not have it, or the agent is not there.
    pub(crate) fn serve(
        &self,
        channel: &Channel,
        number: i32,
        child: &Child,
        subject: &Subject<'_>,
    ) -> Result<()> {
        let listener = pidfd_getfd(&child.pidfd, number, PidfdGetfdFlags::empty())
            .call("pidfd_getfd", || number.to_string())
            .attempt(|| "get the seccomp listener")?;
        // It waits for the agent by itself, where it must.
        channel.signal(Kind::SeccompDone, &[])?;
        self.send(&self.message(child.pid, subject), listener)
    }

    fn message(&self, pid: Pid, subject: &Subject<'_>) -> Value {
        let mut message = json!({
            "ociVersion": OCI_VERSION,
            "fds": ["seccompFd"],
            "pid": pid.as_raw_nonzero().get(),
            "state": {
                "ociVersion": OCI_VERSION,
                "id": subject.id,
                "status": subject.status,
                "pid": subject.init.as_raw_nonzero().get(),
                "bundle": subject.bundle,
            },
        });
        if let Some(metadata) = self.metadata.as_ref().filter(|text| !text.is_empty()) {
            message["metadata"] = metadata.as_str().into();
        }
        if !subject.annotations.is_empty() {
            message["state"]["annotations"] = json!(subject.annotations);
        }
        message
    }

    fn send(&self, message: &Value, listener: OwnedFd) -> Result<()> {
        let path = &self.path;
        let agent = UnixStream::connect(path)
            .call("connect", || format!("{path:?}"))
            .attempt(|| "failed to connect with seccomp agent specified in the seccomp profile")?;
        sys::packet::send(&agent, message.to_string().as_bytes(), &[listener.as_fd()])
            .attempt(|| format!("cannot send seccomp fd to {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn agent(path: PathBuf) -> Agent {
        Agent {
            path,
            metadata: Some("words".to_owned()),
        }
    }

    #[test]
    fn the_agent_gets_the_state_and_the_descriptor_in_one_message() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let socket = UnixListener::bind(&path).unwrap();
        let annotations = HashMap::from([("a".to_owned(), "b".to_owned())]);
        let own = Pid::from_raw(7).unwrap();
        let subject = Subject {
            id: "c1",
            status: "creating",
            init: own,
            bundle: Path::new("/b"),
            annotations: &annotations,
        };
        let agent = agent(path);
        let null = std::fs::File::open("/dev/null").unwrap().into();
        agent.send(&agent.message(own, &subject), null).unwrap();
        let (stream, _) = socket.accept().unwrap();
        let mut data = [0; 4096];
        let (size, fds) = sys::packet::receive(&stream, &mut data, 1).unwrap();
        assert_eq!(fds.len(), 1);
        let got: Value = serde_json::from_slice(&data[..size]).unwrap();
        let wanted = json!({
            "ociVersion": "1.3.0", "fds": ["seccompFd"], "pid": 7, "metadata": "words",
            "state": {"ociVersion": "1.3.0", "id": "c1", "status": "creating", "pid": 7,
                      "bundle": "/b", "annotations": {"a": "b"}},
        });
        assert_eq!(got, wanted);
    }

    #[test]
    fn without_an_agent_the_error_says_so() {
        let null = std::fs::File::open("/dev/null").unwrap().into();
        let error = agent("/nowhere/agent.sock".into()).send(&json!({}), null);
        assert_eq!(
            error.unwrap_err().to_string(),
            "failed to connect with seccomp agent specified in the seccomp profile: \
             connect(\"/nowhere/agent.sock\"): no such file or directory"
        );
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        let profile = serde_json::from_value(profile).unwrap();
        assert!(
            Agent::of(&profile)
                .unwrap_err()
                .to_string()
                .contains("listenerPath is not set")
        );
    }
}
