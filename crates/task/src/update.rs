// SPDX-License-Identifier: Apache-2.0
//! Update: the resources of a container change.

use containerd_shim_protos::api::UpdateTaskRequest;

use crate::container::{Mode, ReplyTo};
use crate::server::Server;
use crate::service::empty;
use crate::status::{self, Operation, Status};

impl Server {
    pub(crate) fn update(&mut self, to: ReplyTo, request: UpdateTaskRequest) {
        if let Err(status) = self.container(&request.id) {
            return self.reply(to, Err(status));
        }
        let id = request.id.clone();
        self.enqueue(&request.id.clone(), Mode::Exclusive, move |server| {
            if let Err(status) = server.begin_update(to, &request) {
                server.reply(to, Err(status));
                server.operation_finished(&id, Mode::Exclusive);
            }
        });
    }

    /// Annotations of the request mean nothing to a runtime.
    fn begin_update(&mut self, to: ReplyTo, request: &UpdateTaskRequest) -> Result<(), Status> {
        let container = self.container(&request.id)?;
        if container.phase_for_status() == status::Phase::Stopped {
            return Err(Status::refused(Operation::Update, status::Phase::Stopped));
        }
        let runtime = container
            .runtime
            .clone()
            .ok_or_else(Status::container_not_created)?;
        let resources = runtime::spec::parse_resources(&request.resources.value)
            .map_err(Status::invalid_argument)?;
        let id = request.id.clone();
        self.workers.run(move || {
            let updated = runtime.update(&resources);
            Box::new(move |server: &mut Server| {
                let answer = match updated {
                    Ok(()) => empty(),
                    Err(e) => {
                        log::error!("update {id}: {e}");
                        Err(Status::unknown(format!("OCI runtime update failed: {e}")))
                    }
                };
                server.reply(to, answer);
                server.operation_finished(&id, Mode::Exclusive);
            })
        });
        Ok(())
    }
}
