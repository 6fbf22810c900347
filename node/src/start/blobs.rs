//! The bytes that this peer keeps for the cluster, what attempts wrote last, and the images that it unpacks.

use std::sync::Arc;

use stint_executor::Store;
use tokio::task::JoinSet;

use super::NodeError;
use crate::blobs::{BlobContext, Blobs, maintenance};
use crate::config::Config;
use crate::endings;
use crate::identity::DataDir;
use crate::images::{self, ImageCache, ImageStore};
use crate::node::Node;

/// Opens them and looks after them; other peers are told that there are none before. Answers what attempts get of them.
pub fn start(
    node: &Arc<Node>,
    dir: &DataDir,
    config: &Config,
    tasks: &mut JoinSet<()>,
) -> Result<Arc<dyn Store>, NodeError> {
    let blobs = Blobs::open(&dir.path.join("blobs"), config.blobs.clone(), BlobContext::reached_by(node));
    let blobs = Arc::new(blobs?);
    // Set here alone, once.
    let _ = node.blobs.set(blobs.clone());
    tasks.spawn(maintenance::run(blobs));
    if let Some(endings) = node.applied.endings.get() {
        tasks.spawn(endings::fill::run(node.clone(), endings.clone()));
    }
    let folder = dir.path.join("images");
    let cache = ImageCache::open(&folder, config.blobs.max_unpacked);
    let cache = Arc::new(cache.map_err(|source| NodeError::Images { folder, source })?);
    tasks.spawn(images::maintenance(node.clone(), cache.clone()));
    Ok(Arc::new(ImageStore::new(node, cache)))
}
