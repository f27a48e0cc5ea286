// SPDX-License-Identifier: Apache-2.0
//! One shim under one private containerd, with the image in it: where tests run.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::cache::Generation;
use crate::client::Client;
use crate::container::Builder;
use crate::containerd::Containerd;
use crate::events::Recorder;
use crate::failure::{Outcome, SOON, failed, wait_until};
use crate::host;

/// A shim under test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shim {
    /// The Go shim and the runc that came with the containerd.
    Reference,
    /// This project's.
    Ours,
}

impl Shim {
    /// The name under which containerd finds it.
    #[must_use]
    pub fn runtime(self) -> &'static str {
        match self {
            Self::Reference => "io.containerd.runc.v2",
            Self::Ours => "io.containerd.rust.v2",
        }
    }

    /// The folder that must come first in containerd's PATH. Ours holds our shim and nothing else:
    /// no runc of any kind is to be found there.
    fn programs(self, generation: &Generation) -> Outcome<PathBuf> {
        match self {
            Self::Reference => match env::var_os("RUNC") {
                Some(runc) => reference_programs_with(Path::new(&runc), generation),
                None => Ok(generation.bin.clone()),
            },
            Self::Ours => our_programs(),
        }
    }
}

impl fmt::Display for Shim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reference => "reference",
            Self::Ours => "ours",
        })
    }
}

/// The Go shim, with another program in the place of the runc that came with it: `RUNC=<path>` runs
/// the tests of the reference shim over `ocirun`.
fn reference_programs_with(runc: &Path, generation: &Generation) -> Outcome<PathBuf> {
    let folder = programs_folder().join(format!("reference-{generation}"));
    if folder.exists() {
        return Ok(folder);
    }
    fs::create_dir_all(&folder)?;
    for entry in fs::read_dir(&generation.bin)? {
        let entry = entry?;
        if entry.file_name() != "runc" {
            std::os::unix::fs::symlink(entry.path(), folder.join(entry.file_name()))?;
        }
    }
    fs::copy(runc, folder.join("runc"))?;
    Ok(folder)
}

/// A copy of our shim, for somebody may build a new one while tests run.
fn our_programs() -> Outcome<PathBuf> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = FOLDER.get_or_init(|| copy_our_shim().map_err(|failure| failure.to_string()));
    made.clone().map_err(failed)
}

fn copy_our_shim() -> Outcome<PathBuf> {
    let folder = programs_folder();
    fs::create_dir_all(&folder)?;
    fs::copy(our_shim()?, folder.join("containerd-shim-rust-v2"))?;
    Ok(folder)
}

/// Named like an instance's, so that a later run sweeps it.
pub(crate) fn programs_folder() -> PathBuf {
    env::temp_dir().join(format!("shim-e2e-{}-programs", std::process::id()))
}

/// The shim's executable: `$SHIM`, or what `scripts/build` makes.
///
/// # Errors
/// When it cannot be built.
pub fn our_shim() -> Outcome<PathBuf> {
    if let Some(chosen) = env::var_os("SHIM") {
        return Ok(chosen.into());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/build");
    let output = Command::new(script)
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(failed("scripts/build failed"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().into())
}

/// One shim under one private containerd.
pub struct Lab {
    /// Which containerd.
    pub generation: Generation,
    /// Which shim.
    pub shim: Shim,
    containerd: Containerd,
    connection: Mutex<(Client, Arc<Recorder>)>,
    next: AtomicU32,
}

impl Lab {
    /// Starts the containerd and imports the image.
    ///
    /// # Errors
    /// With the log, when that does not work.
    pub fn start(generation: &Generation, shim: Shim) -> Outcome<Self> {
        static INSTANCES: AtomicU32 = AtomicU32::new(0);
        let number = INSTANCES.fetch_add(1, Ordering::Relaxed);
        let programs = shim.programs(generation)?;
        let name = format!("{generation}-{shim}-{number}");
        let containerd = Containerd::start(generation, &programs, &name)?;
        let connection = connect(&containerd).and_then(|connection| {
            containerd.import_image()?;
            Ok(connection)
        });
        let connection = connection
            .map_err(|failure| failed(format!("{failure}\n{}", containerd.log_since(0))))?;
        Ok(Self {
            generation: generation.clone(),
            shim,
            containerd,
            connection: Mutex::new(connection),
            next: AtomicU32::new(0),
        })
    }

    /// Another lab of the same kind, for a test that must not be disturbed, or disturbs.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn another(&self) -> Outcome<Self> {
        Self::start(&self.generation, self.shim)
    }

    /// Is the shim under test the Go shim?
    #[must_use]
    pub fn is_reference(&self) -> bool {
        self.shim == Shim::Reference
    }

    /// The containerd.
    #[must_use]
    pub fn containerd(&self) -> &Containerd {
        &self.containerd
    }

    /// A connection to it.
    #[must_use]
    pub fn client(&self) -> Client {
        self.connection().0.clone()
    }

    /// The events since the last start.
    #[must_use]
    pub fn events(&self) -> Arc<Recorder> {
        self.connection().1.clone()
    }

    /// Starts the daemon again after a kill. Events are recorded anew.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn launch_again(&self) -> Outcome {
        self.containerd.launch()?;
        let fresh = connect(&self.containerd)?;
        *self.connection() = fresh;
        Ok(())
    }

    /// An id that nothing in this lab has had.
    #[must_use]
    pub fn new_id(&self) -> String {
        format!("c{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A container that will run `args`.
    pub fn container<const N: usize>(&self, args: [&str; N]) -> Builder<'_> {
        Builder::new(self, self.new_id(), &args)
    }

    /// A container that will run a shell script.
    pub fn script(&self, text: &str) -> Builder<'_> {
        self.container(["sh", "-c", text])
    }

    /// The cgroup of a container.
    #[must_use]
    pub fn cgroup(&self, id: &str) -> String {
        format!("/{}/{id}", self.containerd.namespace())
    }

    /// What there still is of a container that should have left nothing.
    #[must_use]
    pub fn left_of(&self, id: &str) -> Vec<String> {
        let namespace = self.containerd.namespace();
        let bundle = self.containerd.bundle(id);
        let mut left = Vec::new();
        for mount in host::mounts_below(&bundle) {
            left.push(format!("mount {}", mount.display()));
        }
        for folder in host::cgroup_folders(&self.cgroup(id)) {
            left.push(format!("cgroup {}", folder.display()));
        }
        for shim in host::shims(&self.containerd.address(), id) {
            left.push(format!("process {} {}", shim.pid, shim.command));
        }
        let work = "root/io.containerd.runtime.v2.task";
        let work = self
            .containerd
            .folder()
            .join(work)
            .join(&namespace)
            .join(id);
        let state = Path::new("/run/containerd/runc").join(&namespace).join(id);
        let sockets = host::shim_sockets(&self.containerd.address(), &namespace, id);
        for path in [bundle, work, state].iter().chain(&sockets) {
            if path.exists() {
                left.push(path.display().to_string());
            }
        }
        left
    }

    /// Waits until nothing is left of a container.
    ///
    /// # Errors
    /// When something stays.
    pub fn expect_nothing_left_of(&self, id: &str) -> Outcome {
        let clean = wait_until(SOON, "", || self.left_of(id).is_empty().then_some(()));
        clean.map_err(|_| failed(format!("left of {id}: {:#?}", self.left_of(id))))
    }

    /// Waits for the events of a container that has been deleted, and checks that they are
    /// `wanted`: these, in this order, no other; as `create start exit delete`.
    ///
    /// The last, `delete`, may be missing from the Go shim before 2.3: it does not send what is in
    /// its queue when it ends.
    ///
    /// # Errors
    /// With what came instead.
    pub fn expect_events(&self, id: &str, wanted: &str) -> Outcome {
        let enough = match wanted.strip_suffix(" delete") {
            Some(shorter) if self.is_reference() && !self.generation.at_least(2, 3) => shorter,
            _ => wanted,
        };
        let events = self.events();
        let came = wait_until(SOON, "", || {
            let names = events.names(id);
            (names.len() >= enough.split(' ').count()).then_some(names)
        });
        let names = came.unwrap_or_else(|_| events.names(id)).join(" ");
        if names == wanted || names == enough {
            return Ok(());
        }
        Err(failed(format!(
            "events of {id}: wanted {wanted}, got {names}"
        )))
    }

    /// The shim process of a container or pod.
    ///
    /// # Errors
    /// When there is not exactly one.
    pub fn shim_pid(&self, group: &str) -> Outcome<u32> {
        let found = host::shims(&self.containerd.address(), group);
        match found.as_slice() {
            [one] => Ok(one.pid),
            other => Err(failed(format!("shims of {group}: {other:?}"))),
        }
    }

    fn connection(&self) -> MutexGuard<'_, (Client, Arc<Recorder>)> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect(containerd: &Containerd) -> Outcome<(Client, Arc<Recorder>)> {
    let client = Client::connect(&containerd.address(), &containerd.namespace())?;
    let recorder = Arc::new(Recorder::start(&client)?);
    Ok((client, recorder))
}
