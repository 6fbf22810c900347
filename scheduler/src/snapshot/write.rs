//! Writes a snapshot item by item: nothing of it is gathered before it is written but the places of the specs, some forty
//! bytes for a spec that itself takes hundreds.

use std::collections::BTreeMap;
use std::io;

use minicbor::Encoder;
use minicbor::encode::write::Writer;
use minicbor::encode::{Error, Write};
use stint_protocol::SharedSpec;

use super::FORMAT;
use crate::access_token::StoredAccessToken;
use crate::join_token::{JoinToken, StoredToken};
use crate::state::State;

/// Fields of a snapshot that are always written, in their order; `read` says what they are.
const FIELDS: u64 = 17;

/// Writes the whole state. `to` gets many small pieces and should gather them.
pub fn write_snapshot(state: &State, to: impl io::Write) -> io::Result<()> {
    write(state, true, Writer::new(to)).map_err(io::Error::other)
}

/// `sharing`: a spec that several tasks share is written once. Which tasks share an allocation may differ between a
/// replica that applied and one that was restored from a snapshot; for comparing, no two tasks share one.
pub(super) fn write<W: Write>(state: &State, sharing: bool, to: W) -> Result<(), Error<W::Error>> {
    let mut e = Encoder::new(to);
    let instances = !state.instances.is_empty();
    let authorities = !state.authorities.is_empty() || instances;
    let uids = !state.uids.is_empty() || authorities;
    let tokens = !state.access_tokens.is_empty() || uids;
    let changed = state.audit.revision > 0 || tokens;
    let later = u64::from(changed) + u64::from(tokens) + 2 * u64::from(uids) + u64::from(authorities);
    e.array(FIELDS + later + if instances { super::instances::FIELDS } else { 0 })?
        .u32(FORMAT)?
        .bool(state.configured)?
        .encode(&*state.settings)?
        .encode(state.time)?;
    e.u64(state.next_sequence)?.u64(state.next_node)?.u64(state.finished_total)?;
    let mut places = Places { by_address: BTreeMap::new(), next: 0, sharing };
    write_specs(state, &mut places, &mut e)?;
    places.next = 0;
    write_tasks(state, &mut places, &mut e)?;
    e.array(state.nodes.len() as u64)?;
    for node in state.nodes.values() {
        e.encode(&**node)?;
    }
    write_keys(state, &mut e)?;
    e.array(state.join_tokens.len() as u64)?;
    for (hash, JoinToken { expires, limit }) in &state.join_tokens {
        e.encode(StoredToken { hash: (*hash).into(), expires: *expires, limit: limit.clone() })?;
    }
    e.encode(state.version)?;
    write_images(state, &mut e)?;
    // Earlier versions read none: it is written once settings have changed, or there is anything of what comes behind it,
    // which takes a cluster that has left those behind.
    if changed {
        e.encode(&*state.audit)?;
    }
    if tokens {
        e.array(state.access_tokens.len() as u64)?;
        for (hash, token) in &state.access_tokens {
            e.encode(StoredAccessToken { hash: (*hash).into(), token: token.clone() })?;
        }
    }
    if uids {
        e.encode((state.uids.latest, &state.uids.first))?.array(state.uids.iter().count() as u64)?;
        for (tenant, uid) in state.uids.iter() {
            e.encode((tenant, uid))?;
        }
    }
    if authorities {
        e.encode(&*state.authorities)?;
    }
    if instances {
        super::instances::write(&state.instances, &mut e)?;
    }
    e.ok()
}

/// Where each spec stands in the table of specs: a number for each allocation, in the order in which tasks have it.
struct Places {
    by_address: BTreeMap<usize, u32>,
    next: u32,
    sharing: bool,
}

impl Places {
    /// The place of a spec, and whether it is met for the first time.
    fn place_of(&mut self, spec: &SharedSpec) -> (u32, bool) {
        let address = std::ptr::from_ref(&**spec) as usize;
        if let Some(place) = self.by_address.get(&address).filter(|_| self.sharing) {
            return (*place, false);
        }
        let place = self.next;
        self.next += 1;
        if self.sharing {
            self.by_address.insert(address, place);
        }
        (place, true)
    }
}

fn all_specs(state: &State) -> impl Iterator<Item = SharedSpec> + '_ {
    let live = state.tasks.values().map(|task| task.spec.clone());
    live.chain(state.history.iter().map(|(_, task)| task.spec))
}

/// Gathers the shared ones before it writes them, as an array says its length first: a look at all finished tasks unpacks them.
fn write_specs<W: Write>(
    state: &State,
    places: &mut Places,
    e: &mut Encoder<W>,
) -> Result<(), Error<W::Error>> {
    if !places.sharing {
        e.array((state.tasks.len() + state.history.len()) as u64)?;
        return all_specs(state).try_for_each(|spec| e.encode(&spec)?.ok());
    }
    let specs: Vec<SharedSpec> = all_specs(state).filter(|spec| places.place_of(spec).1).collect();
    e.array(specs.len() as u64)?;
    specs.iter().try_for_each(|spec| e.encode(spec)?.ok())
}

fn write_tasks<W: Write>(
    state: &State,
    places: &mut Places,
    e: &mut Encoder<W>,
) -> Result<(), Error<W::Error>> {
    e.array(state.tasks.len() as u64)?;
    for (id, task) in &state.tasks {
        e.encode((id, places.place_of(&task.spec).0, &task.fields))?;
    }
    e.array(state.history.len() as u64)?;
    for (id, task) in state.history.iter() {
        e.array(3)?.encode(id)?.u32(places.place_of(&task.spec).0)?;
        task.write(e)?;
    }
    Ok(())
}

fn write_keys<W: Write>(state: &State, e: &mut Encoder<W>) -> Result<(), Error<W::Error>> {
    e.array(state.key_order.len() as u64)?;
    for (at, tenant, key) in &state.key_order {
        let record = state.keys.get(&(tenant.clone(), key.clone()));
        let record = record.unwrap_or_else(|| panic!("idempotency key {key} has an age and no record"));
        e.encode((at, tenant, key, record))?;
    }
    Ok(())
}

fn write_images<W: Write>(state: &State, e: &mut Encoder<W>) -> Result<(), Error<W::Error>> {
    e.array(state.images.len() as u64)?;
    for image in state.images.values() {
        e.encode(&**image)?;
    }
    e.array(state.blobs.len() as u64)?;
    for (digest, record) in &state.blobs {
        e.encode((digest, &**record))?;
    }
    e.array(state.keeps.len() as u64)?;
    for ((tenant, digest), keep) in &state.keeps {
        e.encode((tenant, digest, keep))?;
    }
    e.ok()
}
