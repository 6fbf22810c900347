//! The replicated settings: shown, and changed by administrators.

use std::collections::BTreeMap;

use stint_protocol::{Tenant, api, version};
use stint_scheduler::{ChangedBy, UpdateSettings};

use super::access::Operation;
use super::{Principal, Service, ServiceError, documents};
use crate::config::replicated::{self, Scope};
use crate::leader_client::unexpected;
use crate::wire::{Reply, Request};

/// A change that is asked for.
pub struct SettingsUpdate {
    pub of: Scope,
    /// Texts by key, as in the configuration.
    pub values: BTreeMap<String, String>,
    /// Only if the settings still have this revision.
    pub if_revision: Option<u64>,
}

impl Service {
    /// The settings, and who changed them lately. The rules of `tenant` are among them in any case.
    pub async fn settings(
        &self,
        caller: &Principal,
        tenant: Option<&Tenant>,
    ) -> Result<api::Settings, ServiceError> {
        self.allow(caller, Operation::GetSettings)?;
        Ok(documents::settings(&self.read().await?, caller, tenant))
    }

    /// Changes settings, all or none; the settings with what was changed.
    pub async fn update_settings(
        &self,
        caller: &Principal,
        update: SettingsUpdate,
    ) -> Result<api::Settings, ServiceError> {
        self.allow(caller, Operation::UpdateSettings)?;
        let SettingsUpdate { of, values, if_revision } = update;
        let to = replicated::read(&of, &values)?;
        self.node.leader_client.check_speaks(version::SETTINGS)?;
        let (role, proof) = (caller.role.as_str().into(), caller.proof.describe());
        let by = ChangedBy { role, proof, peer: self.node.id };
        let request = Request::UpdateSettings(UpdateSettings { to, if_revision, by });
        match self.ask(request).await? {
            Reply::Done { index } => {
                let state = self.node.leader_client.read_at(index).await?;
                Ok(documents::settings(&state, caller, of.tenant()))
            }
            other => Err(unexpected(&other).into()),
        }
    }
}
