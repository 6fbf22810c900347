//! What each tenant may, and how much of the cluster it is due beside others.

use std::collections::BTreeMap;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use stint_protocol::image::SCHEME;
use stint_protocol::{ImageList, TaskSpec, Tenant, limits};

/// The rules of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TenantRules {
    /// The highest priority that its tasks may have.
    #[n(0)]
    pub max_priority: u8,
    /// At the same priority it is due so many times the share of a tenant with weight 1.
    #[n(1)]
    pub weight: u32,
    /// Which images its tasks may name.
    #[n(2)]
    #[cbor(encode_with = "minicbor::Encode::encode", is_nil = "ImageList::is_any")]
    #[cbor(decode_with = "minicbor::Decode::decode", nil = "any_image")]
    pub images: ImageList,
    /// It shares its nodes with nobody: its tasks run on those that name it alone.
    #[n(3)]
    #[cbor(encode_with = "minicbor::Encode::encode", is_nil = "is_off")]
    #[cbor(decode_with = "minicbor::Decode::decode", nil = "off")]
    pub dedicated: bool,
}

fn is_off(flag: &bool) -> bool {
    !flag
}

fn off() -> Option<bool> {
    Some(false)
}

fn any_image() -> Option<ImageList> {
    Some(ImageList::default())
}

impl TenantRules {
    /// The rules of a tenant that nobody gave any. The default tenant is that of clients that name none: a cluster on which
    /// there is no other has nobody to protect from high priorities.
    pub fn default_for(tenant: &Tenant) -> Self {
        let max_priority =
            if tenant.is_default() { limits::MAX_PRIORITY } else { limits::TENANT_MAX_PRIORITY };
        Self { max_priority, weight: 1, images: ImageList::default(), dedicated: false }
    }
}

/// One rule of a tenant with a value.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum TenantSetting {
    #[n(0)]
    MaxPriority(#[n(0)] u8),
    #[n(1)]
    Weight(#[n(0)] u32),
    #[n(2)]
    Images(#[n(0)] ImageList),
    #[n(3)]
    Dedicated(#[n(0)] bool),
}

impl TenantSetting {
    /// Every rule, as it is.
    pub fn all_in(rules: &TenantRules) -> Vec<TenantSetting> {
        vec![
            TenantSetting::MaxPriority(rules.max_priority),
            TenantSetting::Weight(rules.weight),
            TenantSetting::Images(rules.images.clone()),
            TenantSetting::Dedicated(rules.dedicated),
        ]
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            TenantSetting::MaxPriority(_) => "max_priority",
            TenantSetting::Weight(_) => "weight",
            TenantSetting::Images(_) => "images",
            TenantSetting::Dedicated(_) => "dedicated",
        }
    }

    pub(super) fn current(&self, rules: &TenantRules) -> TenantSetting {
        match self {
            TenantSetting::MaxPriority(_) => TenantSetting::MaxPriority(rules.max_priority),
            TenantSetting::Weight(_) => TenantSetting::Weight(rules.weight),
            TenantSetting::Images(_) => TenantSetting::Images(rules.images.clone()),
            TenantSetting::Dedicated(_) => TenantSetting::Dedicated(rules.dedicated),
        }
    }

    pub(super) fn put(&self, rules: &mut TenantRules) {
        match self {
            TenantSetting::MaxPriority(most) => rules.max_priority = *most,
            TenantSetting::Weight(weight) => rules.weight = *weight,
            TenantSetting::Images(images) => rules.images = images.clone(),
            TenantSetting::Dedicated(dedicated) => rules.dedicated = *dedicated,
        }
    }
}

/// A task names an image that its tenant may not use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tenant {tenant} may not use image {image}, only {allowed}")]
pub struct ImageNotAllowed {
    pub tenant: Tenant,
    pub image: String,
    pub allowed: ImageList,
}

/// The image as its user names it, too, where it is registered and stands for a Docker reference.
fn shown(spec: &TaskSpec, image: &str) -> String {
    match &spec.pinned {
        Some(pinned) if pinned.source.blob().is_none() => format!("{SCHEME}{} ({image})", pinned.name),
        _ => image.into(),
    }
}

/// The rules of tenants, as far as they are not those that every tenant has at first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantTable {
    rules: BTreeMap<Tenant, TenantRules>,
    /// How many of them share their nodes with nobody: where there is none, placement looks at no neighbours.
    dedicated: usize,
}

impl TenantTable {
    /// Whether a tenant's task may name its image. A task without one names nothing that could be forbidden.
    pub(crate) fn check_image(&self, tenant: &Tenant, spec: &TaskSpec) -> Result<(), ImageNotAllowed> {
        let allowed = self.rules.get(tenant).map(|rules| &rules.images);
        match (allowed, &spec.image) {
            (Some(allowed), Some(image)) if !allowed.allows(image) => {
                let (tenant, allowed) = (tenant.clone(), allowed.clone());
                Err(ImageNotAllowed { tenant, image: shown(spec, image), allowed })
            }
            _ => Ok(()),
        }
    }

    /// The rules of any tenant.
    pub fn rules(&self, tenant: &Tenant) -> TenantRules {
        self.rules.get(tenant).cloned().unwrap_or_else(|| TenantRules::default_for(tenant))
    }

    /// Gives a tenant other rules; one that has those of the beginning again is forgotten.
    pub fn put(&mut self, tenant: &Tenant, rules: TenantRules) {
        self.dedicated += usize::from(rules.dedicated);
        let before = match rules == TenantRules::default_for(tenant) {
            true => self.rules.remove(tenant),
            false => self.rules.insert(tenant.clone(), rules),
        };
        self.dedicated -= usize::from(before.is_some_and(|rules| rules.dedicated));
    }

    /// Whether any tenant shares its nodes with nobody.
    pub(crate) fn any_dedicated(&self) -> bool {
        self.dedicated > 0
    }

    /// Whether a tenant shares its nodes with nobody.
    pub(crate) fn is_dedicated(&self, tenant: &Tenant) -> bool {
        self.any_dedicated() && self.rules.get(tenant).is_some_and(|rules| rules.dedicated)
    }

    /// Whether attempts of these two may be on one node.
    pub(crate) fn may_share(&self, one: &Tenant, other: &Tenant) -> bool {
        one == other || !(self.is_dedicated(one) || self.is_dedicated(other))
    }

    /// The tenants that have rules of their own, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Tenant, &TenantRules)> {
        self.rules.iter()
    }

    /// Tenants that have rules of their own.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether every tenant has the rules of the beginning.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

/// An empty table is not written: settings without one are read and written as before there were any.
impl<C> Encode<C> for TenantTable {
    fn encode<W: encode::Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        self.rules.encode(e, ctx)
    }

    fn is_nil(&self) -> bool {
        self.rules.is_empty()
    }
}

impl<'b, C> Decode<'b, C> for TenantTable {
    fn decode(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Self, decode::Error> {
        let rules: BTreeMap<Tenant, TenantRules> = Decode::decode(d, ctx)?;
        let dedicated = rules.values().filter(|rules| rules.dedicated).count();
        Ok(Self { rules, dedicated })
    }

    fn nil() -> Option<Self> {
        Some(Self::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_changed_is_kept_and_written() {
        let team = Tenant::new("team-7").unwrap();
        let mut table = TenantTable::default();
        let at_first = |max_priority| TenantRules {
            max_priority,
            weight: 1,
            images: ImageList::default(),
            dedicated: false,
        };
        assert_eq!(table.rules(&team), at_first(50));
        assert_eq!(table.rules(&Tenant::default_tenant()), at_first(100));
        let images = "ghcr.io/acme/*".parse().unwrap();
        let rules = TenantRules { max_priority: 80, weight: 3, images, dedicated: false };
        table.put(&team, rules.clone());
        let read: TenantTable = minicbor::decode(&minicbor::to_vec(&table).unwrap()).unwrap();
        assert_eq!((read.rules(&team), read.len()), (rules.clone(), 1));
        // What is as at first between others is left out, and found again.
        let dedicated = TenantRules { dedicated: true, images: ImageList::default(), ..rules };
        for _ in 0..2 {
            table.put(&team, dedicated.clone());
            let read: TenantTable = minicbor::decode(&minicbor::to_vec(&table).unwrap()).unwrap();
            assert_eq!((read.rules(&team), &read), (dedicated.clone(), &table));
            assert!(read.is_dedicated(&team) && !read.may_share(&team, &Tenant::default_tenant()));
        }
        table.put(&team, TenantRules::default_for(&team));
        assert!(!table.any_dedicated());
        assert!(table.is_empty() && Encode::<()>::is_nil(&table));
    }
}
