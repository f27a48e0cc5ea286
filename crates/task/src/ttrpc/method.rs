// SPDX-License-Identifier: Apache-2.0
//! The methods of `containerd.task.v2.Task` and `containerd.task.v3.Task`.
//!
//! The two services differ in nothing but the name: containerd up to 1.7 calls v2, later ones try
//! v3 first. Anything else is Unimplemented in go-ttrpc's words, on which containerd's own
//! probing for the version relies.

use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, CreateTaskRequest, DeleteRequest,
    ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, StartRequest, StateRequest, StatsRequest, UpdateTaskRequest, WaitRequest,
};
use protobuf::Message;

use crate::status::{Code, Status};

const SERVICES: [&str; 2] = ["containerd.task.v3.Task", "containerd.task.v2.Task"];

macro_rules! methods {
    ($($method:ident $name:literal $request:ty;)*) => {
        /// A method of the Task service.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs)] // The names are the service's.
        pub enum Method { $($method,)* }

        /// A decoded request of the Task service.
        #[derive(Clone, PartialEq)]
        #[allow(missing_docs)] // The names are the service's.
        pub enum TaskRequest { $($method($request),)* }

        impl Method {
            /// Every method.
            pub const ALL: &[Method] = &[$(Method::$method,)*];

            /// The name on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Method::$method => $name,)* }
            }

            fn by_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Method::$method),)* _ => None }
            }

            /// Decodes the request message of this method.
            ///
            /// # Errors
            /// InvalidArgument: the payload is not such a message.
            pub fn decode(self, payload: &[u8]) -> Result<TaskRequest, Status> {
                match self { $(Method::$method => parse(payload).map(TaskRequest::$method),)* }
            }
        }

        impl TaskRequest {
            /// The method that takes this request.
            pub fn method(&self) -> Method {
                match self { $(TaskRequest::$method(_) => Method::$method,)* }
            }

            /// The id of the container (of the shim's pod for Shutdown) that is asked for.
            pub fn container_id(&self) -> &str {
                match self { $(TaskRequest::$method(request) => &request.id,)* }
            }
        }
    };
}

methods! {
    State "State" StateRequest;
    Create "Create" CreateTaskRequest;
    Start "Start" StartRequest;
    Delete "Delete" DeleteRequest;
    Pids "Pids" PidsRequest;
    Pause "Pause" PauseRequest;
    Resume "Resume" ResumeRequest;
    Checkpoint "Checkpoint" CheckpointTaskRequest;
    Kill "Kill" KillRequest;
    Exec "Exec" ExecProcessRequest;
    ResizePty "ResizePty" ResizePtyRequest;
    CloseIo "CloseIO" CloseIORequest;
    Update "Update" UpdateTaskRequest;
    Wait "Wait" WaitRequest;
    Stats "Stats" StatsRequest;
    Connect "Connect" ConnectRequest;
    Shutdown "Shutdown" ShutdownRequest;
}

fn parse<M: Message>(payload: &[u8]) -> Result<M, Status> {
    M::parse_from_bytes(payload).map_err(|error| {
        let text = format!("ttrpc: error unmarshalling payload: {error}");
        Status::new(Code::InvalidArgument, text)
    })
}

/// Names the request without its fields: printing those would load the messages' reflection
/// tables, which then stay in memory.
impl std::fmt::Debug for TaskRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({:?})", self.method().name(), self.container_id())
    }
}

impl Method {
    /// Finds the method, in either version of the service.
    ///
    /// # Errors
    /// Unimplemented: no such service, or no such method in it.
    pub fn parse(service: &str, method: &str) -> Result<Self, Status> {
        if !SERVICES.contains(&service) {
            return Err(Status::new(
                Code::Unimplemented,
                format!("service {service}"),
            ));
        }
        Self::by_name(method)
            .ok_or_else(|| Status::new(Code::Unimplemented, format!("method {method}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_the_service_have_all_methods() {
        for service in SERVICES {
            for &method in Method::ALL {
                assert_eq!(Method::parse(service, method.name()), Ok(method));
            }
        }
        assert_eq!(Method::ALL.len(), 17);
    }

    #[test]
    fn anything_else_is_unimplemented_in_gos_words() {
        let refused = |service, method| {
            let status = Method::parse(service, method).unwrap_err();
            assert_eq!(status.code, Code::Unimplemented);
            status.message
        };
        assert_eq!(
            refused("containerd.task.v4.Task", "State"),
            "service containerd.task.v4.Task"
        );
        assert_eq!(refused("containerd.task.v2.Task", "state"), "method state");
        assert_eq!(refused("", ""), "service ");
    }

    #[test]
    fn requests_are_decoded_or_refused() {
        let kill = KillRequest {
            id: "c1".into(),
            signal: 15,
            all: true,
            ..Default::default()
        };
        let request = Method::Kill
            .decode(&kill.write_to_bytes().unwrap())
            .unwrap();
        assert_eq!(
            (request.method(), request.container_id()),
            (Method::Kill, "c1")
        );
        assert_eq!(format!("{request:?}"), "Kill(\"c1\")");
        assert!(matches!(request, TaskRequest::Kill(decoded) if decoded == kill));
        let status = Method::Kill.decode(&[0x0a, 0xff]).unwrap_err();
        assert_eq!(status.code, Code::InvalidArgument);
    }
}
