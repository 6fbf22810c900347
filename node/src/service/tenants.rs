//! Tenants that the cluster has anything of: listed, and removed by administrators.

use stint_protocol::{Tenant, TimeMs, api, version};
use stint_scheduler::{
    ChangedBy, Setting, State, TenantHoldings, TenantRules, TenantSetting, UpdateSettings,
};

use super::access::Operation;
use super::{Principal, Service, ServiceError};
use crate::leader_client::unexpected;
use crate::wire::{Reply, Request};

impl Service {
    /// The tenants that have anything, as far as the caller sees them.
    pub async fn list_tenants(&self, caller: &Principal) -> Result<Vec<api::ListedTenant>, ServiceError> {
        self.allow(caller, Operation::ListTenants)?;
        let (state, now) = (self.read().await?, self.node.clock.wall());
        let seen = state.known_tenants(now).into_iter().filter(|tenant| caller.sees(tenant));
        Ok(seen.map(|tenant| listed(&state, tenant, now)).collect())
    }

    /// Gives a tenant back the rules of every tenant, unless it has anything that is in use; what it was. Its user number stays its own: no
    /// other tenant ever gets it.
    pub async fn remove_tenant(
        &self,
        caller: &Principal,
        tenant: &Tenant,
    ) -> Result<api::ListedTenant, ServiceError> {
        self.allow(caller, Operation::RemoveTenant)?;
        let (state, now) = (self.read().await?, self.node.clock.wall());
        if !state.known_tenants(now).contains(tenant) {
            return Err(ServiceError::TenantNotFound(tenant.clone()));
        }
        let in_the_way = in_the_way(tenant, &state.holdings(tenant, now));
        if !in_the_way.is_empty() {
            return Err(ServiceError::TenantInUse { tenant: tenant.clone(), has: in_the_way.join(", ") });
        }
        let removed = listed(&state, tenant.clone(), now);
        if state.settings().tenants.rules(tenant) != TenantRules::default_for(tenant) {
            self.forget_rules(caller, tenant, state.audit().revision).await?;
        }
        tracing::info!(%tenant, by = caller.proof.describe(), "tenant removed");
        Ok(removed)
    }

    /// Only as they were looked at: whoever changes them meanwhile wants them.
    async fn forget_rules(
        &self,
        caller: &Principal,
        tenant: &Tenant,
        revision: u64,
    ) -> Result<(), ServiceError> {
        self.node.leader_client.check_speaks(version::TENANT_RULES)?;
        let rules = TenantSetting::all_in(&TenantRules::default_for(tenant)).into_iter();
        let to = rules.map(|rule| Setting::Tenant(tenant.clone(), rule)).collect();
        let (role, proof) = (caller.role.as_str().into(), caller.proof.describe());
        let by = ChangedBy { role, proof, peer: self.node.id };
        let update = UpdateSettings { to, if_revision: Some(revision), by };
        match self.ask(Request::UpdateSettings(update)).await? {
            Reply::Done { index } => {
                self.node.leader_client.read_at(index).await.map(drop).map_err(Into::into)
            }
            other => Err(unexpected(&other).into()),
        }
    }
}

/// What somebody must end or remove first, with how.
fn in_the_way(tenant: &Tenant, holdings: &TenantHoldings) -> Vec<String> {
    let TenantHoldings { unfinished, finished: _, images, tokens } = holdings;
    let of =
        |count: &u64, what: &str, advice: &str| (*count > 0).then(|| format!("{count} {what} ({advice})"));
    let root = (*tenant == Tenant::default_tenant()).then(|| "root, whose tenant it is".to_owned());
    let parts = [
        of(unfinished, "unfinished tasks", "stint cancel"),
        of(images, "images", "stint image rm"),
        of(tokens, "valid tokens", "stint token rm"),
        root,
    ];
    parts.into_iter().flatten().collect()
}

fn listed(state: &State, tenant: Tenant, now: TimeMs) -> api::ListedTenant {
    let TenantHoldings { unfinished, finished, images, tokens } = state.holdings(&tenant, now);
    let TenantRules { max_priority, weight, images: allowed, dedicated } =
        state.settings().tenants.rules(&tenant);
    api::ListedTenant {
        uid: state.tenant_uid(&tenant),
        tenant: tenant.to_string(),
        max_priority: max_priority.into(),
        weight,
        unfinished,
        finished,
        images,
        tokens,
        allowed_images: allowed.patterns().to_vec(),
        dedicated,
    }
}
