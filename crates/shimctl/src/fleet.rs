// SPDX-License-Identifier: Apache-2.0
//! Asking all shims at once, and finding one by a name.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use diagnostics::v1::{
    Container, ContainersRequest, InfoRequest, InfoResponse, QueuesRequest, QueuesResponse,
};

use crate::args::Global;
use crate::client::{Client, Silence};
use crate::discover::{self, Shim};
use crate::error::Error;

/// So many are asked at the same time.
const TOGETHER: usize = 64;

/// A shim and what it said.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) shim: Shim,
    pub(crate) said: Result<T, Silence>,
}

/// What a shim says of itself and its containers.
#[derive(Debug, Default)]
pub(crate) struct Overview {
    pub(crate) info: InfoResponse,
    pub(crate) containers: Vec<Container>,
    pub(crate) queues: QueuesResponse,
}

/// Asks all these shims, many at once. Answers are in the order of the shims.
pub(crate) fn ask<T: Send>(
    shims: Vec<Shim>,
    timeout: Duration,
    question: impl Fn(&Shim, &mut Client) -> Result<T, Silence> + Sync,
) -> Vec<Answer<T>> {
    let next = AtomicUsize::new(0);
    let said: Vec<Mutex<Option<Result<T, Silence>>>> =
        shims.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..shims.len().min(TOGETHER) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(shim), Some(place)) = (shims.get(index), said.get(index)) else {
                        return;
                    };
                    let answer = Client::connect(shim, timeout)
                        .and_then(|mut client| question(shim, &mut client));
                    if let Ok(mut place) = place.lock() {
                        *place = Some(answer);
                    }
                }
            });
        }
    });
    let said = said.into_iter().map(|place| {
        let said = place.into_inner().ok().flatten();
        said.unwrap_or(Err(Silence::Late(timeout)))
    });
    shims
        .into_iter()
        .zip(said)
        .map(|(shim, said)| Answer { shim, said })
        .collect()
}

/// What all shims say of themselves.
pub(crate) fn overview(global: &Global) -> Vec<Answer<Overview>> {
    let shims = discover::shims(global.namespace.as_deref());
    ask(shims, global.timeout, |_, client| look(client))
}

/// What one shim says of itself.
pub(crate) fn look(client: &mut Client) -> Result<Overview, Silence> {
    let info = client.call(&InfoRequest::new())?;
    let mut containers = client.call(&ContainersRequest::new())?.containers;
    containers.sort_by(|a, b| (a.created_unix_ns, &a.id).cmp(&(b.created_unix_ns, &b.id)));
    let queues = match client.call(&QueuesRequest::new()) {
        // An older shim cannot tell.
        Err(Silence::Old) => QueuesResponse::new(),
        other => other?,
    };
    Ok(Overview {
        info,
        containers,
        queues,
    })
}

/// The label that names a container of a pod.
pub(crate) const NAME: &str = "io.kubernetes.cri.container-name";
/// The label that names a pod.
pub(crate) const POD: &str = "io.kubernetes.cri.sandbox-name";
/// The label with a pod's namespace.
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
/// The label with a pod's id.
pub(crate) const POD_ID: &str = "io.kubernetes.cri.sandbox-id";

/// A label, or "".
pub(crate) fn label<'a>(container: &'a Container, name: &str) -> &'a str {
    container.labels.get(name).map_or("", String::as_str)
}

/// What people call a container: `pod/name`, or nothing.
pub(crate) fn display_name(container: &Container) -> String {
    match (label(container, POD), label(container, NAME)) {
        ("", "") => String::new(),
        (pod, "") => pod.to_owned(),
        ("", name) => name.to_owned(),
        (pod, name) => format!("{pod}/{name}"),
    }
}

/// Whether a container is meant by one of these; by none is any.
pub(crate) fn is_wanted(shim: &str, container: &Container, wanted: &[String]) -> bool {
    let names = [
        container.id.as_str(),
        shim,
        label(container, POD),
        label(container, NAME),
        label(container, POD_ID),
    ];
    wanted.is_empty()
        || wanted
            .iter()
            .any(|wanted| names.iter().any(|name| name.starts_with(wanted.as_str())))
}

/// One shim, and the container in it that was meant; `None` if it was the shim.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) shim: Shim,
    pub(crate) container: Option<Container>,
    /// Why the shim said nothing when it was looked for: not to be asked again.
    pub(crate) silence: Option<Silence>,
}

impl Target {
    /// The container's id, or "".
    pub(crate) fn container_id(&self) -> &str {
        self.container.as_ref().map_or("", |c| c.id.as_str())
    }

    /// For headings.
    pub(crate) fn name(&self) -> String {
        match &self.container {
            Some(container) => format!("{}/{}", self.shim.namespace, container.id),
            None => self.shim.name(),
        }
    }

    /// A connection to the shim.
    pub(crate) fn connect(&self, timeout: Duration) -> Result<Client, Error> {
        self.ask(timeout).map_err(|source| self.silent(source))
    }

    /// The same, for those who can do without an answer.
    pub(crate) fn ask(&self, timeout: Duration) -> Result<Client, Silence> {
        match &self.silence {
            Some(silence) => Err(silence.clone()),
            None => Client::connect(&self.shim, timeout),
        }
    }

    pub(crate) fn silent(&self, source: Silence) -> Error {
        Error::Silent {
            shim: self.shim.name(),
            source,
        }
    }
}

/// Finds what goes by this name: a container's id, a shim's id (a pod's), a server's pid, or the
/// beginning of an id.
pub(crate) fn find(global: &Global, id: &str) -> Result<Target, Error> {
    let shims = discover::shims(global.namespace.as_deref());
    let answers = ask(shims, global.timeout, |_, client| {
        Ok(client.call(&ContainersRequest::new())?.containers)
    });
    let found = answers.into_iter().map(|Answer { shim, said }| match said {
        Ok(containers) => (shim, containers, None),
        // Then the file system tells what it has.
        Err(silence) => {
            let containers = discover::containers_of(&shim);
            (shim, containers, Some(silence))
        }
    });
    choose(found, id)
}

/// A shim, its containers, and why it said nothing itself.
type Found = (Shim, Vec<Container>, Option<Silence>);

fn choose(all: impl IntoIterator<Item = Found>, id: &str) -> Result<Target, Error> {
    let mut exact = Vec::new();
    let mut begins = Vec::new();
    for (shim, containers, silence) in all {
        let mut shim_is_a_container = false;
        let is_pid = shim.pid != 0 && shim.pid.to_string() == id;
        for container in containers {
            let is_own = container.id == shim.id;
            shim_is_a_container |= is_own;
            let place = match container.id.as_str() {
                other if other == id || (is_own && is_pid) => &mut exact,
                other if other.starts_with(id) => &mut begins,
                _ => continue,
            };
            place.push(Target {
                shim: shim.clone(),
                container: Some(container),
                silence: silence.clone(),
            });
        }
        if shim_is_a_container {
            continue;
        }
        let target = || Target {
            shim: shim.clone(),
            container: None,
            silence: silence.clone(),
        };
        if shim.id == id || is_pid {
            exact.push(target());
        } else if shim.id.starts_with(id) {
            begins.push(target());
        }
    }
    let mut found = if exact.is_empty() { begins } else { exact };
    match found.len() {
        0 => Err(Error::NoSuch { id: id.to_owned() }),
        1 => Ok(found.remove(0)),
        _ => Err(Error::Ambiguous {
            id: id.to_owned(),
            candidates: found.iter().map(Target::name).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shim(id: &str, pid: i32, ids: &[&str], silence: Option<Silence>) -> Found {
        let container = |id: &&str| Container {
            id: (*id).to_owned(),
            ..Container::new()
        };
        let shim = Shim {
            namespace: "ns".into(),
            id: id.into(),
            pid,
            socket: None,
            bundle: None,
        };
        (shim, ids.iter().map(container).collect(), silence)
    }

    fn all() -> Vec<Found> {
        let late = Silence::Late(Duration::from_millis(100));
        vec![
            shim("pod1", 10, &["pod1", "web1", "web2"], None),
            shim("pod2", 20, &["silent"], Some(late)),
            shim("pod3", 30, &["other"], None),
        ]
    }

    #[test]
    fn names_are_found_whole_or_by_their_beginning() {
        let find = |id: &str| {
            let found = choose(all(), id)?;
            Ok((found.shim.id.clone(), found.container_id().to_owned()))
        };
        let ok = |shim: &str, container: &str| Ok::<_, Error>((shim.into(), container.into()));
        let same = |a: Result<(String, String), Error>, b: Result<(String, String), Error>| {
            assert_eq!(a.ok(), b.ok());
        };
        same(find("web1"), ok("pod1", "web1"));
        same(find("oth"), ok("pod3", "other"));
        same(find("pod1"), ok("pod1", "pod1"));
        same(find("pod3"), ok("pod3", ""));
        same(find("20"), ok("pod2", ""));
        same(find("10"), ok("pod1", "pod1"));
        assert!(matches!(find("nothing"), Err(Error::NoSuch { .. })));
        let ambiguous = find("web").unwrap_err().to_string();
        assert_eq!(ambiguous, "\"web\" could be any of ns/web1, ns/web2");
        let silent = choose(all(), "pod2").unwrap();
        assert_eq!((silent.shim.pid, silent.container_id()), (20, ""));
        assert!(
            silent.ask(Duration::from_secs(60)).is_err(),
            "it is not asked again"
        );
        same(find("silent"), ok("pod2", "silent"));
    }
}
