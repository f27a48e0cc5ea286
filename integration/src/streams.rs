// SPDX-License-Identifier: Apache-2.0
//! The client's side of one process's stdio: what was chosen, the FIFOs, what came.

use std::fs;
use std::path::PathBuf;

use crate::failure::{Outcome, SOON, failed};
use crate::lab::Lab;
use crate::stdio::{Reader, Writer, make_fifo};

/// Where a process's stdio goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stdio {
    /// Nowhere.
    Null,
    /// stdout and stderr into FIFOs; stdin from one if so chosen.
    Fifos(Stdin),
    /// A terminal, both ways.
    Terminal,
    /// stdout and stderr to an address as `file:///path`.
    Address(String),
}

/// Does a process have a stdin?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdin {
    /// No.
    Closed,
    /// Yes.
    Open,
}

/// What a process left behind.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: u32,
    /// What it wrote.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Finished {
    /// The output of a process that succeeded.
    ///
    /// # Errors
    /// When it did not.
    pub fn success(self) -> Outcome<String> {
        if self.status == 0 {
            return Ok(self.stdout);
        }
        Err(failed(format!("the process failed: {self:?}")))
    }
}

/// The client's side of one process's stdio.
pub struct Streams {
    folder: PathBuf,
    /// Names for the request: stdin, stdout, stderr.
    pub(crate) names: [String; 3],
    pub(crate) terminal: bool,
    stdout: Option<Reader>,
    stderr: Option<Reader>,
}

impl Streams {
    /// Makes the FIFOs and begins to read.
    pub(crate) fn open(lab: &Lab, stdio: &Stdio) -> Outcome<Self> {
        let mut this = Self {
            folder: lab.containerd().folder().join("io").join(lab.new_id()),
            names: [const { String::new() }; 3],
            terminal: *stdio == Stdio::Terminal,
            stdout: None,
            stderr: None,
        };
        match stdio {
            Stdio::Null => {}
            Stdio::Address(address) => {
                this.names[1].clone_from(address);
                this.names[2].clone_from(address);
            }
            Stdio::Fifos(stdin) => {
                if *stdin == Stdin::Open {
                    this.fifo(0)?;
                }
                this.stdout = Some(Reader::start(&this.fifo(1)?)?);
                this.stderr = Some(Reader::start(&this.fifo(2)?)?);
            }
            Stdio::Terminal => {
                this.fifo(0)?;
                this.stdout = Some(Reader::start(&this.fifo(1)?)?);
            }
        }
        Ok(this)
    }

    fn fifo(&mut self, number: usize) -> Outcome<PathBuf> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(number.to_string());
        make_fifo(&path)?;
        self.names[number] = path.to_string_lossy().into_owned();
        Ok(path)
    }

    /// What comes from stdout.
    ///
    /// # Errors
    /// When it does not come here.
    pub fn stdout(&self) -> Outcome<&Reader> {
        let reader = self.stdout.as_ref();
        reader.ok_or_else(|| failed("nobody reads this process's stdout"))
    }

    /// What comes from stderr.
    ///
    /// # Errors
    /// When it does not come here.
    pub fn stderr(&self) -> Outcome<&Reader> {
        let reader = self.stderr.as_ref();
        reader.ok_or_else(|| failed("nobody reads this process's stderr"))
    }

    /// Opens the writing end of stdin.
    ///
    /// # Errors
    /// When nobody reads there.
    pub fn stdin(&self) -> Outcome<Writer> {
        Writer::open(self.names[0].as_ref())
    }

    /// Stops reading stdout, as a client that goes does.
    pub fn stop_reading(&mut self) {
        self.stdout = None;
    }

    /// Reads stdout (again), as a client that attaches does.
    ///
    /// # Errors
    /// What open says.
    pub fn read_again(&mut self) -> Outcome {
        self.stdout = None;
        self.stdout = Some(Reader::start(self.names[1].as_ref())?);
        Ok(())
    }

    /// Waits for the end of both streams.
    pub(crate) fn collect(&self) -> Outcome<(String, String)> {
        let read = |reader: &Option<Reader>| match reader {
            Some(reader) => reader.wait_end(SOON),
            None => Ok(Vec::new()),
        };
        let (stdout, stderr) = (read(&self.stdout)?, read(&self.stderr)?);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((text(stdout), text(stderr)))
    }
}
