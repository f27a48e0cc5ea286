// SPDX-License-Identifier: Apache-2.0
//! What a caller may add to a bundle's configuration before the container is created.

use std::path::Path;

use oci_spec::runtime::Mount;

use super::Bundle;

impl Bundle {
    /// An annotation of the specification.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        let annotations = self.spec.annotations().as_ref()?;
        annotations.get(name).map(String::as_str)
    }

    /// Adds a mount of a directory of the host, after those of the specification: nobody in the
    /// container can write to it, execute from it or use devices in it.
    pub fn add_sealed_mount(&mut self, source: &Path, destination: &Path) {
        let mut mount = Mount::default();
        let options = ["bind", "nosuid", "noexec", "nodev", "ro"];
        mount
            .set_destination(destination.to_owned())
            .set_typ(Some("bind".to_owned()))
            .set_source(Some(source.to_owned()))
            .set_options(Some(options.map(str::to_owned).to_vec()));
        self.spec
            .mounts_mut()
            .get_or_insert_with(Vec::new)
            .push(mount);
    }

    /// Adds a variable to the environment of the container's own process, not to that of execs.
    pub fn add_variable(&mut self, name: &str, value: &str) {
        if let Some(process) = self.spec.process_mut() {
            let env = process.env_mut().get_or_insert_with(Vec::new);
            env.push(format!("{name}={value}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_and_variables_come_after_those_of_the_specification() {
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{"ociVersion": "1.0.2", "annotations": {"a": "b"}, "root": {"path": "r"},
            "process": {"cwd": "/", "args": ["x"], "env": ["A=1"], "user": {"uid": 0, "gid": 0}},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"namespaces": [{"type": "mount"}]}}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let mut bundle = Bundle::load(folder.path()).unwrap();
        bundle.add_sealed_mount(Path::new("/host/dir"), Path::new("/run/dir"));
        bundle.add_variable("B", "2");
        assert_eq!(bundle.annotation("a"), Some("b"));
        assert_eq!(bundle.annotation("c"), None);
        let mounts = bundle.spec.mounts().as_ref().unwrap();
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[1].destination(), Path::new("/run/dir"));
        assert_eq!(mounts[1].source().as_deref(), Some(Path::new("/host/dir")));
        let process = bundle.spec.process().as_ref().unwrap();
        assert_eq!(process.env().as_ref().unwrap(), &["A=1", "B=2"]);
    }
}
