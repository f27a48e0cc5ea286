// SPDX-License-Identifier: Apache-2.0
//! Overlays whose layers need more than `mount(2)`: too many for a page, or id-mapped.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::UnshareFlags;
use sys::Call;
use sys::mount::{Extent, Feature, MAX_PARAM_VALUE, MountApi, Param, ms};

use super::Request;

impl Request<'_> {
    /// An overlay of more layers than fit in a page: one by one if the kernel can, else by shorter
    /// names.
    pub(super) fn long_overlay(&self, target: &str, api: &MountApi) -> sys::Result<()> {
        let (layers, others) = self.layers();
        let plain = layers
            .iter()
            .all(|layer| !layer.is_empty() && layer.len() <= MAX_PARAM_VALUE)
            && others.iter().all(|param| param.len() <= MAX_PARAM_VALUE)
            && self.flags.set & ms::I_VERSION == 0;
        if plain && api.has(Feature::Detached) && api.has(Feature::AppendLowerdir) {
            match self.append_layers(&layers, &others, target, api) {
                // Before Linux 6.7: no such parameter.
                Err(e) if matches!(e.errno(), Errno::INVAL | Errno::NOSYS) => {}
                other => return other,
            }
        }
        self.overlay_from_common_directory(layers, &others, target)
    }

    fn append_layers(
        &self,
        layers: &[String],
        others: &[&str],
        target: &str,
        api: &MountApi,
    ) -> sys::Result<()> {
        let mut params = vec![Param::Value("source", &self.mount.source)];
        params.extend(layers.iter().map(|layer| Param::Value("lowerdir+", layer)));
        params.extend(self.params_of(others));
        let mount = api.filesystem("overlay", &params, self.flags.for_new_mount())?;
        let onto = rustix::fs::open(target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .call("open", || format!("{target:?}"))?;
        api.attach(&mount, &onto)
    }

    /// Names relative to the directory that all layers are in; a working directory is needed for
    /// that, so a thread of its own goes there.
    fn overlay_from_common_directory(
        &self,
        layers: Vec<String>,
        others: &[&str],
        target: &str,
    ) -> sys::Result<()> {
        let directory = common_directory(&layers);
        let names: Vec<String> = layers
            .iter()
            .map(|layer| escape_layer(&layer[directory.len()..]))
            .collect();
        let mut data = vec![format!("lowerdir={}", names.join(":"))];
        data.extend(others.iter().map(|param| (*param).to_owned()));
        let data = data.join(",");
        if data.len() >= rustix::param::page_size() {
            let args = format!("overlay with {} layers", layers.len());
            return Err(sys::Error::new("mount", args, Errno::TOOBIG));
        }
        let (source, flags) = (self.mount.source.as_str(), self.flags.set);
        let work = move || -> sys::Result<()> {
            sys::namespace::unshare(UnshareFlags::FS)?;
            rustix::process::chdir(&*directory).call("chdir", || format!("{directory:?}"))?;
            sys::mount::mount(Some(source), target, Some("overlay"), flags, Some(&data))
        };
        in_thread(work)
    }

    /// An overlay whose lower layers are id-mapped, attached nowhere. The upper layer is not: its
    /// files belong to whom they belong to.
    ///
    /// By descriptors if the kernel can. Else the mapped layers are put somewhere for a moment: in
    /// a mount namespace of their own, so that nothing can stay.
    pub(super) fn id_mapped_overlay(
        &self,
        user_namespace: BorrowedFd<'_>,
        rootfs: &Path,
        api: &MountApi,
    ) -> sys::Result<OwnedFd> {
        let (layers, others) = self.layers();
        if layers.iter().any(String::is_empty) {
            let args = "overlay with data-only layers, id-mapped";
            return Err(sys::Error::new("mount", args, Errno::OPNOTSUPP));
        }
        if api.has(Feature::DetachedLowerdir) {
            let mapped = id_map(&layers, user_namespace, api)?;
            match self.overlay_of_descriptors(&mapped, &others, api) {
                Ok(mount) => return Ok(mount),
                // Too old: whatever is really wrong is found again below.
                Err(e) => log::debug!("id-mapped overlay by descriptors: {e}"),
            }
        }
        in_thread(|| {
            sys::namespace::unshare(UnshareFlags::NEWNS)?;
            sys::mount::mount(None, "/", None, ms::PRIVATE | ms::REC, None)?;
            sys::mount::mount(Some("tmpfs"), rootfs, Some("tmpfs"), 0, None)?;
            rustix::process::chdir(rootfs).call("chdir", || format!("{rootfs:?}"))?;
            let api = MountApi::new();
            let names: Vec<String> = (0..layers.len()).map(|index| index.to_string()).collect();
            for (name, layer) in names.iter().zip(id_map(&layers, user_namespace, &api)?) {
                api.attach(&layer, &make_directory(name)?)?;
            }
            make_directory("whole")?;
            let mut data = vec![format!("lowerdir={}", names.join(":"))];
            data.extend(others.iter().map(|param| (*param).to_owned()));
            let (source, flags) = (Some(self.mount.source.as_str()), self.flags.set);
            sys::mount::mount(
                source,
                "whole",
                Some("overlay"),
                flags,
                Some(&data.join(",")),
            )?;
            api.clone_path("whole", Extent::Mount)
        })
    }

    fn overlay_of_descriptors(
        &self,
        layers: &[OwnedFd],
        others: &[&str],
        api: &MountApi,
    ) -> sys::Result<OwnedFd> {
        let mut params = vec![Param::Value("source", &self.mount.source)];
        params.extend(
            layers
                .iter()
                .map(|fd| Param::Descriptor("lowerdir+", fd.as_fd())),
        );
        params.extend(self.params_of(others));
        api.filesystem("overlay", &params, self.flags.for_new_mount())
    }

    /// The lower layers, and the other parameters.
    fn layers(&self) -> (Vec<String>, Vec<&str>) {
        let mut layers = Vec::new();
        let mut others = Vec::new();
        for param in &self.params {
            match param.strip_prefix("lowerdir=") {
                Some(list) => layers = split_layers(list),
                None => others.push(*param),
            }
        }
        (layers, others)
    }
}

fn id_map(
    layers: &[String],
    user_namespace: BorrowedFd<'_>,
    api: &MountApi,
) -> sys::Result<Vec<OwnedFd>> {
    let mapped = |layer: &String| {
        let tree = api.clone_path(layer.as_str(), Extent::Mount)?;
        api.set_id_map(&tree, user_namespace, Extent::Mount)?;
        Ok(tree)
    };
    layers.iter().map(mapped).collect()
}

fn make_directory(name: &str) -> sys::Result<OwnedFd> {
    rustix::fs::mkdir(name, Mode::from_raw_mode(0o755)).call("mkdir", || format!("{name:?}"))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(name, flags, Mode::empty()).call("open", || format!("{name:?}"))
}

/// Runs in a thread that may have a working directory or namespaces of its own.
fn in_thread<T: Send>(work: impl FnOnce() -> sys::Result<T> + Send) -> sys::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("mount".into())
            .stack_size(64 * 1024)
            .spawn_scoped(scope, work)
            .call("clone", || "mount thread")?;
        let died = || sys::Error::new("clone", "mount thread", Errno::CANCELED);
        thread.join().unwrap_or_else(|_| Err(died()))
    })
}

/// Layers are separated by colons; a backslash takes the meaning from what follows it.
pub(super) fn split_layers(list: &str) -> Vec<String> {
    let mut layers = vec![String::new()];
    let mut chars = list.chars();
    while let Some(c) = chars.next() {
        let last = layers.len() - 1;
        match c {
            ':' => layers.push(String::new()),
            '\\' => layers[last].extend(chars.next()),
            other => layers[last].push(other),
        }
    }
    layers
}

pub(super) fn escape_layer(layer: &str) -> String {
    layer.chars().fold(String::new(), |mut out, c| {
        if matches!(c, ':' | '\\' | ',') {
            out.push('\\');
        }
        out.push(c);
        out
    })
}

/// The longest directory that all paths are below, with a slash at its end.
pub(super) fn common_directory(paths: &[String]) -> String {
    let Some((first, rest)) = paths.split_first() else {
        return String::new();
    };
    // The last name of a path stays: a layer cannot have an empty one.
    let mut length = first
        .trim_end_matches('/')
        .rfind('/')
        .map_or(0, |at| at + 1);
    for path in rest {
        let equal = first
            .bytes()
            .zip(path.trim_end_matches('/').bytes())
            .take(length)
            .take_while(|(a, b)| a == b)
            .count();
        length = first[..equal].rfind('/').map_or(0, |at| at + 1);
    }
    first[..length].to_owned()
}
