// SPDX-License-Identifier: Apache-2.0
//! Standard streams and terminals.

use std::os::fd::{AsFd, OwnedFd};

use sys::Call;

use super::{Descriptor, Init, StepError, StepResult};
use crate::process::{self, Terminal};
use crate::rootfs;
use crate::sync::Kind;

impl Init {
    pub(super) fn place_stdio(&mut self) -> StepResult {
        if let Some(fd) = self.take(Descriptor::Stdin) {
            rustix::stdio::dup2_stdin(fd).call("dup2", || "stdin")?;
        }
        if let Some(fd) = self.take(Descriptor::Stdout) {
            rustix::stdio::dup2_stdout(fd).call("dup2", || "stdout")?;
        }
        if let Some(fd) = self.take(Descriptor::Stderr) {
            rustix::stdio::dup2_stderr(fd).call("dup2", || "stderr")?;
        }
        Ok(())
    }

    /// Standard streams that are the host's null device become the container's: no descriptor of
    /// the host's file systems stays.
    pub(super) fn reopen_dev_null(&mut self) -> StepResult {
        let mut null = None;
        for number in 0..3 {
            let current = match number {
                0 => rustix::stdio::stdin(),
                1 => rustix::stdio::stdout(),
                _ => rustix::stdio::stderr(),
            };
            let stat = rustix::fs::fstat(current).call("fstat", || number.to_string())?;
            if !process::is_dev_null(&stat) {
                continue;
            }
            if null.is_none() {
                null = Some(open_dev_null()?);
            }
            if let Some(Some(null)) = &null {
                match number {
                    0 => rustix::stdio::dup2_stdin(null),
                    1 => rustix::stdio::dup2_stdout(null),
                    _ => rustix::stdio::dup2_stderr(null),
                }
                .call("dup2", || format!("/dev/null, {number}"))?;
            }
        }
        Ok(())
    }

    pub(super) fn open_terminal(&mut self) -> StepResult {
        let Terminal::Yes(size) = self.plan.process.terminal else {
            return Ok(());
        };
        let slave = self.make_terminal(size)?;
        if let Some(rootfs) = &self.rootfs {
            rootfs.mount_console(slave.as_fd())?;
        }
        control(&slave)
    }

    pub(super) fn open_exec_terminal(&mut self) -> StepResult {
        let Terminal::Yes(size) = self.plan.process.terminal else {
            return Ok(());
        };
        let slave = self.make_terminal(size)?;
        control(&slave)
    }

    /// Makes a pseudo-terminal of the container and gives its master to the shim.
    pub(super) fn make_terminal(
        &self,
        size: Option<process::ConsoleSize>,
    ) -> Result<OwnedFd, StepError> {
        let (master, slave) = rootfs::open_console()?;
        if let Some(size) = size {
            let window = rustix::termios::Winsize {
                ws_row: size.height,
                ws_col: size.width,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            rustix::termios::tcsetwinsize(&master, window).call("ioctl", || "TIOCSWINSZ")?;
        }
        self.channel
            .signal(Kind::Console, &[master.as_fd()])
            .map_err(|e| StepError::new(format!("hand over the terminal: {e}")))?;
        Ok(slave)
    }

    pub(super) fn own_stdio(&mut self) -> StepResult {
        Ok(process::own_stdio(self.plan.process.uid)?)
    }
}

/// The terminal becomes the session's, and the three standard streams.
fn control(slave: &OwnedFd) -> StepResult {
    rustix::process::ioctl_tiocsctty(slave).call("ioctl", || "TIOCSCTTY")?;
    rustix::stdio::dup2_stdin(slave).call("dup2", || "terminal, 0")?;
    rustix::stdio::dup2_stdout(slave).call("dup2", || "terminal, 1")?;
    rustix::stdio::dup2_stderr(slave).call("dup2", || "terminal, 2")?;
    Ok(())
}

/// The container's null device, if what is at /dev/null is one. An image without it keeps the
/// host's.
fn open_dev_null() -> Result<Option<OwnedFd>, StepError> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let Ok(fd) = open("/dev/null", flags, Mode::empty()) else {
        return Ok(None);
    };
    let stat = rustix::fs::fstat(&fd).call("fstat", || "/dev/null")?;
    if !process::is_dev_null(&stat) {
        return Ok(None);
    }
    rustix::fs::fcntl_setfl(&fd, OFlags::empty()).call("fcntl", || "F_SETFL")?;
    Ok(Some(fd))
}
