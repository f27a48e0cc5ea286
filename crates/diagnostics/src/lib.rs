// SPDX-License-Identifier: Apache-2.0
//! What a shim tells about itself: the messages of `containerdshimrust.diagnostics.v1.Diagnostics`.
//!
//! The service is on the shim's own ttrpc socket, beside Task. Messages are made of
//! `proto/diagnostics.proto`, where each field is described; `docs/diagnostics.md` is for readers.
//! Here are the names; the server is in the crate `task`.

/// The messages.
#[allow(missing_docs, unreachable_pub, reason = "generated")]
pub mod v1 {
    mod generated {
        include!(concat!(env!("OUT_DIR"), "/v1/mod.rs"));
    }
    pub use generated::diagnostics::*;
}

/// Full name of the service.
pub const SERVICE: &str = "containerdshimrust.diagnostics.v1.Diagnostics";

/// How long a call that polls is held at most, whatever it asks for.
pub const WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(60);

macro_rules! methods {
    ($($method:ident $request:ident $response:ident;)*) => {
        /// A method of the service.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs)] // The names are the service's.
        pub enum Method { $($method,)* }

        impl Method {
            /// Every method.
            pub const ALL: &[Method] = &[$(Method::$method,)*];

            /// The name on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Method::$method => stringify!($method),)* }
            }
        }

        $(impl Call for v1::$request {
            type Response = v1::$response;
            const METHOD: Method = Method::$method;
        })*
    };
}

/// A request: it knows its method and what answers it.
pub trait Call: protobuf::Message {
    /// What answers it.
    type Response: protobuf::Message;
    /// The method that takes it.
    const METHOD: Method;
}

methods! {
    Info InfoRequest InfoResponse;
    Containers ContainersRequest ContainersResponse;
    Events EventsRequest EventsResponse;
    Spans SpansRequest SpansResponse;
    SyncMessages SyncMessagesRequest SyncMessagesResponse;
    Log LogRequest LogResponse;
    Stats StatsRequest StatsResponse;
    Descriptors DescriptorsRequest DescriptorsResponse;
    Threads ThreadsRequest ThreadsResponse;
    Queues QueuesRequest QueuesResponse;
    LogLevel LogLevelRequest LogLevelResponse;
    SetLogLevel SetLogLevelRequest SetLogLevelResponse;
}

impl Method {
    /// Finds a method by its name on the wire.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|method| method.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_methods_are_those_of_the_proto_file() {
        let proto = include_str!("../proto/diagnostics.proto");
        let in_file: Vec<_> = proto
            .lines()
            .filter_map(|line| line.trim().strip_prefix("rpc "))
            .filter_map(|line| line.split('(').next())
            .collect();
        let ours: Vec<_> = Method::ALL.iter().map(|method| method.name()).collect();
        assert_eq!(ours, in_file);
        let package = SERVICE.strip_suffix(".Diagnostics").unwrap();
        assert!(proto.contains(&format!("package {package};")));
        assert_eq!(Method::by_name("Spans"), Some(Method::Spans));
        assert_eq!(Method::by_name("spans"), None);
    }

    #[test]
    fn messages_survive_the_wire() {
        use protobuf::Message;
        let mut poll = v1::Poll::new();
        poll.since = 7;
        poll.from_now = true;
        let bytes = poll.write_to_bytes().unwrap();
        assert_eq!(v1::Poll::parse_from_bytes(&bytes).unwrap(), poll);
    }
}
