//! Reads of the registry and of what the cluster stores.

use std::ops::Bound;
use std::sync::Arc;

use stint_protocol::image::Named;
use stint_protocol::{Digest, ImageId, ImageName, NodeId, Tenant};

use super::State;
use crate::image::{BlobRecord, Image};

impl State {
    /// An image of any tenant, one that is kept for its tasks alone included.
    pub fn image(&self, id: ImageId) -> Option<&Arc<Image>> {
        self.images.get(&id)
    }

    /// The image of this name; with a digest only if it has that content.
    pub fn image_named(&self, tenant: &Tenant, named: &Named) -> Option<&Arc<Image>> {
        let id = self.image_names.get(&(tenant.clone(), named.name.clone()))?;
        let fits = |image: &&Arc<Image>| {
            named.digest.is_none_or(|wanted| image.source.blob().is_some_and(|blob| blob.digest == wanted))
        };
        self.images.get(id).filter(fits)
    }

    /// As `image_named`, also one that is not listed any more but used.
    pub fn image_kept(&self, tenant: &Tenant, named: &Named) -> Option<&Arc<Image>> {
        let wanted = |image: &&Arc<Image>| {
            let digest = image.source.blob().map(|blob| blob.digest);
            image.tenant == *tenant && image.name == named.name && digest == named.digest
        };
        self.image_named(tenant, named).or_else(|| self.images.values().find(wanted))
    }

    /// Listed images of a tenant whose names come after `after`, by name.
    pub fn images_after<'a>(
        &'a self,
        tenant: &'a Tenant,
        after: Option<&ImageName>,
    ) -> impl Iterator<Item = &'a Arc<Image>> + use<'a> {
        let first = match after {
            Some(after) => Bound::Excluded((tenant.clone(), after.clone())),
            None => Bound::Included((tenant.clone(), ImageName::first())),
        };
        let named = self.image_names.range((first, Bound::Unbounded));
        let own = named.take_while(move |((of, _), _)| of == tenant);
        own.filter_map(|(_, id)| self.images.get(id))
    }

    /// Live tasks that use it.
    pub fn image_uses(&self, id: ImageId) -> u32 {
        self.image_uses.get(&id).copied().unwrap_or(0)
    }

    /// Stored bytes.
    pub fn blob(&self, digest: &Digest) -> Option<&Arc<BlobRecord>> {
        self.blobs.get(digest)
    }

    /// Everything that is stored.
    pub fn blobs(&self) -> impl Iterator<Item = (&Digest, &Arc<BlobRecord>)> {
        self.blobs.iter()
    }

    /// What nothing refers to, the longest unused first.
    pub fn unused_blobs(&self) -> impl Iterator<Item = Digest> + '_ {
        self.unused_blobs.iter().map(|(_, digest)| *digest)
    }

    /// Whether a tenant has an image of these bytes or has them kept: others do not find them.
    pub fn tenant_has(&self, tenant: &Tenant, digest: &Digest) -> bool {
        let of = |image: &Arc<Image>| {
            image.tenant == *tenant && image.source.blob().is_some_and(|blob| blob.digest == *digest)
        };
        self.keeps.contains_key(&(tenant.clone(), *digest)) || self.images.values().any(of)
    }

    /// Whether a node runs a task of this content.
    pub fn runs_blob(&self, node: NodeId, digest: &Digest) -> bool {
        self.leases_of(node).any(|lease| {
            let pinned = self.tasks.get(&lease.task).and_then(|task| task.spec.pinned.as_ref());
            pinned.and_then(|pinned| pinned.source.blob()).is_some_and(|blob| blob.digest == *digest)
        })
    }
}
