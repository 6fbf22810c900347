//! Who calls, as it is told itself.

use stint_protocol::api;

use super::access::Operation;
use super::{Principal, Service, ServiceError};

impl Service {
    /// Tenant and role of the caller, and how it proved them.
    pub fn who_am_i(&self, caller: &Principal) -> Result<api::Caller, ServiceError> {
        self.allow(caller, Operation::WhoAmI)?;
        Ok(caller.document())
    }
}
