//! The cluster's bytes as this node's execution host sees them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use sha2::{Digest as _, Sha256};
use stint_executor::{ImageFiles, PullEnd, Store, StoreError, StoreFuture};
use stint_protocol::image::Named;
use stint_protocol::{Blob, Digest, ImageSource, Tenant};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::UnpackError;
use super::cache::{ImageCache, ImageKey, remove};
use crate::executor_metrics::ImageSource::Cluster;
use crate::limits;
use crate::node::Node;
use crate::wire::{Refusal, RefusalCode};

/// What each attempt uses, by its tenant and what its task calls the image.
type ImagesInUse = BTreeMap<(Tenant, String), Vec<ImageKey>>;

/// The store of one node. It does not keep its node alive.
#[derive(Clone)]
pub struct ImageStore {
    node: Weak<Node>,
    cache: Arc<ImageCache>,
    given: Arc<Mutex<ImagesInUse>>,
}

impl From<Refusal> for StoreError {
    fn from(refusal: Refusal) -> Self {
        match refusal.code {
            RefusalCode::Invalid | RefusalCode::NotFound | RefusalCode::Denied => {
                StoreError::Wrong(refusal.message)
            }
            _ => StoreError::Unavailable(refusal.message),
        }
    }
}

impl ImageStore {
    /// What this node's attempts get and leave.
    pub fn new(node: &Arc<Node>, cache: Arc<ImageCache>) -> Self {
        Self { node: Arc::downgrade(node), cache, given: Arc::default() }
    }

    fn node(&self) -> Result<Arc<Node>, StoreError> {
        self.node.upgrade().ok_or_else(|| StoreError::Unavailable("this node is stopping".into()))
    }

    async fn take(self, tenant: Tenant, image: String) -> Result<ImageFiles, StoreError> {
        let node = self.node()?;
        let (blob, program) = bytes_of(&node, &tenant, &image).await?;
        let key = ImageKey { digest: blob.digest, program };
        // Set when it is not here yet.
        let begun = OnceLock::new();
        let fetched = async {
            let _ = begun.set(Instant::now());
            let path = node.stored()?.fetch(blob).await?;
            checked(&node, blob, path).await
        };
        let result = self.cache.get(key, fetched).await;
        if let Some(begun) = begun.get() {
            node.applied.work.pulled(Cluster, pull_end(&result), begun.elapsed());
        }
        let files = result?.map_err(|error| match error {
            UnpackError::Wrong(why) => StoreError::Wrong(format!("image {image}: {why}")),
            UnpackError::Io { .. } => StoreError::Unavailable(format!("image {image}: {error}")),
        })?;
        let mut given = self.given.lock().unwrap_or_else(|e| e.into_inner());
        given.entry((tenant, image)).or_default().push(key);
        Ok(files)
    }

    async fn fetch_for(self, tenant: Tenant, blob: Blob) -> Result<PathBuf, StoreError> {
        let node = self.node()?;
        let has = |state: &stint_scheduler::State| state.tenant_has(&tenant, &blob.digest);
        // This peer may lag behind whoever gave the order.
        if !has(&node.applied.view().state) && !has(&node.leader_client.read().await?) {
            return Err(StoreError::Wrong(format!("{} is not found in tenant {tenant}", blob.digest)));
        }
        let path = node.stored()?.fetch(blob).await?;
        checked(&node, blob, path).await
    }
}

fn pull_end<T>(result: &Result<Result<T, UnpackError>, StoreError>) -> PullEnd {
    match result {
        Ok(Ok(_)) => PullEnd::Pulled,
        Err(StoreError::Wrong(_)) => PullEnd::Missing,
        Ok(Err(_)) | Err(StoreError::Unavailable(_)) => PullEnd::Failed,
    }
}

/// The bytes of a task's image, and whether they are one program.
async fn bytes_of(node: &Node, tenant: &Tenant, image: &str) -> Result<(Blob, bool), StoreError> {
    let foreign = || StoreError::Wrong(format!("{image:?} is no image of the registry"));
    let named = Named::of_task(image).ok_or_else(foreign)?;
    let named = named.map_err(|e| StoreError::Wrong(e.to_string()))?;
    let known = node.applied.view().state.image_kept(tenant, &named).cloned();
    let found = match known {
        Some(found) => Some(found),
        // This peer may lag behind whoever gave the order.
        None => node.leader_client.read().await?.image_kept(tenant, &named).cloned(),
    };
    let unknown = || StoreError::Wrong(format!("no image {named} in tenant {tenant}"));
    match &found.ok_or_else(unknown)?.source {
        ImageSource::Executable(blob) => Ok((*blob, true)),
        ImageSource::Rootfs(blob) => Ok((*blob, false)),
        ImageSource::Docker(_) => Err(StoreError::Wrong(format!("image {named} is for Docker alone"))),
    }
}

/// The file, if its bytes are still what its name says; a damaged one is removed, and fetched anew by the next who asks.
async fn checked(node: &Node, blob: Blob, path: PathBuf) -> Result<PathBuf, StoreError> {
    let file = path.clone();
    let hashing = tokio::task::spawn_blocking(move || digest_of(&file));
    match hashing.await {
        Ok(Ok(digest)) if digest == blob.digest => Ok(path),
        Ok(Ok(_)) => {
            tracing::error!(%blob, "stored bytes are damaged and are removed");
            let removed = node.stored()?.disk.remove(&blob.digest);
            removed.map_err(|e| StoreError::Unavailable(e.to_string()))?;
            Err(StoreError::Unavailable(format!("the copy of {blob} on this node was damaged")))
        }
        Ok(Err(error)) => Err(StoreError::Unavailable(format!("reading {}: {error}", path.display()))),
        Err(_) => Err(StoreError::Unavailable("this node is stopping".into())),
    }
}

fn digest_of(path: &Path) -> std::io::Result<Digest> {
    let mut file = std::fs::File::open(path)?;
    let (mut hash, mut part) = (Sha256::new(), vec![0; limits::BLOB_CHUNK_BYTES]);
    loop {
        match file.read(&mut part)? {
            0 => return Ok(Digest::from_bytes(hash.finalize().into())),
            read => hash.update(&part[..read]),
        }
    }
}

impl Store for ImageStore {
    fn image(&self, tenant: &Tenant, image: &str) -> StoreFuture<ImageFiles> {
        Box::pin(self.clone().take(tenant.clone(), image.to_owned()))
    }

    fn release(&self, tenant: &Tenant, image: &str) {
        let mut given = self.given.lock().unwrap_or_else(|e| e.into_inner());
        let name = (tenant.clone(), image.to_owned());
        let Some(items) = given.get_mut(&name) else { return };
        let key = items.pop();
        if items.is_empty() {
            given.remove(&name);
        }
        if let Some(key) = key {
            self.cache.release(key);
        }
    }

    fn fetch(&self, tenant: &Tenant, blob: Blob) -> StoreFuture<PathBuf> {
        Box::pin(self.clone().fetch_for(tenant.clone(), blob))
    }

    fn keep(&self, tenant: &Tenant, file: PathBuf) -> StoreFuture<Blob> {
        let (store, tenant) = (self.clone(), tenant.clone());
        Box::pin(async move { Ok(store.node()?.stored()?.keep_file(tenant, file).await?) })
    }
}

/// Removes unpacked images that nobody uses, until the peer stops.
pub async fn maintenance(node: Arc<Node>, cache: Arc<ImageCache>) {
    let mut tick = interval(limits::IMAGE_CACHE_ROUND);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Ok(idle) = node.stored().map(|blobs| blobs.settings.keep_unpacked) else { return };
        let (state, id, cache) = (node.applied.view().state, node.id, cache.clone());
        let clearing = tokio::task::spawn_blocking(move || -> std::io::Result<usize> {
            // An attempt that an earlier process of this node started is not counted, but its lease is known.
            let cleared = cache.evict_idle(idle, |digest| state.runs_blob(id, digest))?;
            cleared.iter().try_for_each(|path| remove(path))?;
            Ok(cleared.len())
        });
        match clearing.await {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(count)) => tracing::info!(count, "unpacked images that nobody used are removed"),
            Ok(Err(error)) => tracing::warn!(%error, "unpacked images cannot be removed"),
        }
    }
}
