// SPDX-License-Identifier: Apache-2.0
//! Manual pages and completion scripts, made of the command line's description.

use std::path::Path;

use clap::CommandFactory as _;

use crate::args::Cli;
use crate::error::{Error, Exit};
use crate::print;

pub(crate) fn completions(shell: clap_complete::Shell) -> Result<Exit, Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "shimctl", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Success)
}

/// Prints the main page, or writes all pages to a directory.
pub(crate) fn pages(directory: Option<&Path>) -> Result<Exit, Error> {
    let mut command = Cli::command();
    command.build();
    let page = |command: &clap::Command| {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(command.clone()).render(&mut page);
        rendered.map_err(Error::io("write manual page"))?;
        Ok::<_, Error>(page)
    };
    let Some(directory) = directory else {
        print(&String::from_utf8_lossy(&page(&command)?))?;
        return Ok(Exit::Success);
    };
    let write = |name: &str, page: &[u8]| {
        let path = directory.join(format!("{name}.1"));
        std::fs::write(&path, page).map_err(Error::io(format!("write {}", path.display())))
    };
    write("shimctl", &page(&command)?)?;
    for sub in command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
    {
        let name = format!("shimctl-{}", sub.get_name());
        let named = sub.clone().name(name.clone());
        write(&name, &page(&named)?)?;
    }
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        pages(Some(folder.path())).unwrap();
        let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(text("shimctl.1").contains("Exit status"));
        for sub in Cli::command().get_subcommands() {
            assert!(text(&format!("shimctl-{}.1", sub.get_name())).contains(".TH"));
        }
        Cli::command().debug_assert();
    }
}
