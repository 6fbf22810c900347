//! The replicated settings: shown, and changed by administrators.

use std::collections::BTreeMap;

use stint_protocol::{Class, api, version};
use stint_scheduler::{ChangedBy, UpdateSettings};

use super::access::{Operation, allow};
use super::{Principal, Service, ServiceError, documents};
use crate::config::replicated;
use crate::leader_client::unexpected;
use crate::wire::{Reply, Request};

/// A change that is asked for.
pub struct SettingsUpdate {
    /// None: the cluster's own settings.
    pub class: Option<Class>,
    /// Texts by key, as in the configuration.
    pub values: BTreeMap<String, String>,
    /// Only if the settings still have this revision.
    pub if_revision: Option<u64>,
}

impl Service {
    /// The settings, and who changed them lately.
    pub async fn settings(&self, caller: &Principal) -> Result<api::Settings, ServiceError> {
        allow(caller, Operation::GetSettings)?;
        Ok(documents::settings(&self.read().await?))
    }

    /// Changes settings, all or none; the settings with what was changed.
    pub async fn update_settings(
        &self,
        caller: &Principal,
        update: SettingsUpdate,
    ) -> Result<api::Settings, ServiceError> {
        allow(caller, Operation::UpdateSettings)?;
        let SettingsUpdate { class, values, if_revision } = update;
        let to = replicated::read(class, &values)?;
        self.node.leader_client.check_speaks(version::SETTINGS)?;
        let (role, proof) = (caller.role.as_str().into(), caller.proof.as_str().into());
        let by = ChangedBy { role, proof, peer: self.node.id };
        let request = Request::UpdateSettings(UpdateSettings { to, if_revision, by });
        match self.ask(request).await? {
            Reply::Done { index } => Ok(documents::settings(&self.node.leader_client.read_at(index).await?)),
            other => Err(unexpected(&other).into()),
        }
    }
}
