//! Unpacked images: each once, shared by the attempts that use it, counted, and removed when nobody used it for a while.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::future::Future;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use stint_executor::{ImageConfig, ImageFiles};
use stint_protocol::Digest;
use tokio::time::Instant;

use super::UnpackError;
use super::archive::unpack;
use super::config::ImageConfigFile;

/// Before the name of what is not whole, or not wanted any more.
const DRAFT: &str = "draft-";
/// After the digest of an executable.
const PROGRAM: &str = ".program";
/// Names the life of the machine in which everything here was written.
const BOOT: &str = "boot";

/// What is unpacked: the bytes, and whether as one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageKey {
    pub digest: Digest,
    pub program: bool,
}

struct CacheSlot {
    uses: u32,
    /// When it was last given back.
    idle_since: Instant,
    files: Arc<tokio::sync::Mutex<Option<ImageFiles>>>,
}

/// The folder of unpacked images.
pub struct ImageCache {
    folder: PathBuf,
    max_bytes: u64,
    opened: Instant,
    slots: Mutex<BTreeMap<ImageKey, CacheSlot>>,
    drafts: AtomicU64,
}

impl ImageCache {
    /// Opens or makes the folder. What an earlier process unpacked stays good until the machine starts anew: it was never
    /// synced, and can be made again.
    pub fn open(folder: &Path, max_bytes: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o711).create(folder)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let known = fs::read_to_string(folder.join(BOOT)).unwrap_or_default();
        let good = !boot.is_empty() && boot == known;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if !good || name.starts_with(DRAFT) {
                remove(&path)?;
            }
        }
        let mut file = OpenOptions::new();
        let mut file = file.create(true).truncate(true).write(true).mode(0o600).open(folder.join(BOOT))?;
        file.write_all(boot.as_bytes())?;
        let (opened, slots, drafts) = (Instant::now(), Mutex::default(), AtomicU64::new(0));
        Ok(Self { folder: folder.into(), max_bytes, opened, slots, drafts })
    }

    /// The files of an image, made by `fetch`'s bytes if they are not there. They stay until they are given back.
    pub async fn get<E>(
        self: &Arc<Self>,
        key: ImageKey,
        fetch: impl Future<Output = Result<PathBuf, E>>,
    ) -> Result<Result<ImageFiles, UnpackError>, E> {
        let files = self.begin_use(key);
        let result = self.files(key, &files, fetch).await;
        if !matches!(result, Ok(Ok(_))) {
            self.release(key);
        }
        result
    }

    async fn files<E>(
        self: &Arc<Self>,
        key: ImageKey,
        files: &tokio::sync::Mutex<Option<ImageFiles>>,
        fetch: impl Future<Output = Result<PathBuf, E>>,
    ) -> Result<Result<ImageFiles, UnpackError>, E> {
        let mut files = files.lock().await;
        if let Some(ready) = &*files {
            return Ok(Ok(ready.clone()));
        }
        if let Some(ready) = self.on_disk(key) {
            *files = Some(ready.clone());
            return Ok(Ok(ready));
        }
        let bytes = fetch.await?;
        let cache = self.clone();
        let making = tokio::task::spawn_blocking(move || cache.make(key, &bytes));
        let stopping =
            |_| UnpackError::Io { action: "unpacking".into(), source: io::ErrorKind::Interrupted.into() };
        let made = making.await.unwrap_or_else(|e| Err(stopping(e)));
        *files = made.as_ref().ok().cloned();
        Ok(made)
    }

    /// One use less.
    pub fn release(&self, key: ImageKey) {
        if let Some(slot) = self.lock().get_mut(&key) {
            slot.uses = slot.uses.saturating_sub(1);
            slot.idle_since = Instant::now();
        }
    }

    /// Takes what nobody used for this long, and `in_use` does not name, out of the way; answers what is to be deleted.
    pub fn evict_idle(&self, idle: Duration, in_use: impl Fn(&Digest) -> bool) -> io::Result<Vec<PathBuf>> {
        let mut cleared = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(key) = key_of(name) else { continue };
            // Nobody begins to use it between the look and the renaming.
            let mut slots = self.lock();
            let used = slots.get(&key).is_some_and(|slot| slot.uses > 0);
            let since = slots.get(&key).map_or(self.opened, |slot| slot.idle_since);
            if used || since.elapsed() < idle || in_use(&key.digest) {
                continue;
            }
            let temporary = self.draft_path();
            fs::rename(&path, &temporary)?;
            slots.remove(&key);
            cleared.push(temporary);
        }
        Ok(cleared)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ImageKey, CacheSlot>> {
        self.slots.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn begin_use(&self, key: ImageKey) -> Arc<tokio::sync::Mutex<Option<ImageFiles>>> {
        let mut slots = self.lock();
        let new = || CacheSlot { uses: 0, idle_since: Instant::now(), files: Arc::default() };
        let slot = slots.entry(key).or_insert_with(new);
        slot.uses += 1;
        slot.files.clone()
    }

    fn path(&self, key: ImageKey) -> PathBuf {
        self.folder.join(format!("{}{}", key.digest.hex(), if key.program { PROGRAM } else { "" }))
    }

    fn draft_path(&self) -> PathBuf {
        self.folder.join(format!("{DRAFT}{}", self.drafts.fetch_add(1, Ordering::Relaxed)))
    }

    /// What an earlier process of this node made.
    fn on_disk(&self, key: ImageKey) -> Option<ImageFiles> {
        let path = self.path(key);
        if key.program {
            return path.is_file().then_some(ImageFiles::Executable(path));
        }
        let text = fs::read(path.join("config.json")).ok()?;
        let written: ImageConfigFile = serde_json::from_slice(&text).ok()?;
        Some(ImageFiles::Root { folder: path.join("root"), config: Arc::new(written.into()) })
    }

    fn make(&self, key: ImageKey, bytes: &Path) -> Result<ImageFiles, UnpackError> {
        let (temporary, path) = (self.draft_path(), self.path(key));
        let made = match key.program {
            true => make_program(bytes, &temporary),
            false => self.make_root(bytes, &temporary),
        };
        let placed = made.and_then(|()| {
            fs::rename(&temporary, &path)
                .map_err(UnpackError::io(format!("renaming {}", temporary.display())))
        });
        if let Err(error) = placed {
            if let Err(left) = remove(&temporary) {
                tracing::warn!(path = %temporary.display(), error = %left, "a half-unpacked image is left until the next start");
            }
            return Err(error);
        }
        let gone = || UnpackError::Wrong(format!("{} is gone at once", path.display()));
        self.on_disk(key).ok_or_else(gone)
    }

    fn make_root(&self, bytes: &Path, temporary: &Path) -> Result<(), UnpackError> {
        let made = DirBuilder::new().mode(0o755).create(temporary);
        made.map_err(UnpackError::io(format!("making {}", temporary.display())))?;
        let config: ImageConfig = unpack(bytes, temporary, self.max_bytes)?;
        let text = serde_json::to_vec(&ImageConfigFile::from(&config));
        let text = text.map_err(|e| UnpackError::Wrong(format!("its configuration: {e}")))?;
        fs::write(temporary.join("config.json"), text).map_err(UnpackError::io("writing its configuration"))
    }
}

/// A file of its own: the stored bytes may be deleted or kept, whoever runs them.
fn make_program(bytes: &Path, temporary: &Path) -> Result<(), UnpackError> {
    let linked = fs::hard_link(bytes, temporary).or_else(|_| fs::copy(bytes, temporary).map(drop));
    linked.map_err(UnpackError::io(format!("making {}", temporary.display())))?;
    let runnable = fs::set_permissions(temporary, Permissions::from_mode(0o555));
    runnable.map_err(UnpackError::io(format!("protecting {}", temporary.display())))
}

fn key_of(name: &str) -> Option<ImageKey> {
    let (hex, program) = match name.strip_suffix(PROGRAM) {
        Some(hex) => (hex, true),
        None => (name, false),
    };
    Some(ImageKey { digest: hex.parse().ok()?, program })
}

/// Removes a file or a folder with all that is in it.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    const NEVER: Duration = Duration::from_secs(3_600);

    struct World {
        folder: tempfile::TempDir,
        cache: Arc<ImageCache>,
        fetched: AtomicU32,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let cache = Arc::new(ImageCache::open(&folder.path().join("images"), 1 << 20).unwrap());
            let mut archive = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(5);
            header.set_mode(0o755);
            archive.append_data(&mut header, "bin/tool", &b"hello"[..]).unwrap();
            fs::write(folder.path().join("bytes"), archive.into_inner().unwrap()).unwrap();
            Self { folder, cache, fetched: AtomicU32::new(0) }
        }

        async fn take(&self, key: ImageKey) -> Result<ImageFiles, UnpackError> {
            let bytes = self.folder.path().join("bytes");
            let fetch = async {
                self.fetched.fetch_add(1, Ordering::SeqCst);
                Ok::<_, ()>(bytes)
            };
            self.cache.get(key, fetch).await.unwrap()
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.folder.path().join("images")).unwrap();
            let mut names: Vec<String> =
                entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.retain(|name| name != BOOT);
            names.sort();
            names
        }
    }

    fn key(number: u8, program: bool) -> ImageKey {
        ImageKey { digest: Digest::from_bytes([number; 32]), program }
    }

    fn folder_of(files: &ImageFiles) -> &Path {
        match files {
            ImageFiles::Root { folder, .. } => folder,
            ImageFiles::Executable(path) => path,
        }
    }

    #[tokio::test]
    async fn many_who_ask_at_once_share_what_one_unpacks() {
        let world = World::new();
        let many = futures_util::future::join_all((0..8).map(|_| world.take(key(1, false)))).await;
        let first = many[0].as_ref().unwrap();
        assert!(many.iter().all(|files| files.as_ref().unwrap() == first));
        assert_eq!(world.fetched.load(Ordering::SeqCst), 1);
        assert_eq!(fs::read(folder_of(first).join("bin/tool")).unwrap(), b"hello");
        let program = world.take(key(1, true)).await.unwrap();
        let mode = fs::metadata(folder_of(&program)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode, world.names().len()), (0o555, 2));
    }

    #[tokio::test]
    async fn what_is_used_or_named_stays_and_the_rest_goes() {
        let world = World::new();
        let files = world.take(key(1, false)).await.unwrap();
        world.take(key(1, false)).await.unwrap();
        world.cache.release(key(1, false));
        let nobody = |_: &Digest| false;
        assert!(world.cache.evict_idle(Duration::ZERO, nobody).unwrap().is_empty(), "one still uses it");
        world.cache.release(key(1, false));
        assert!(world.cache.evict_idle(NEVER, nobody).unwrap().is_empty(), "it was used lately");
        assert!(world.cache.evict_idle(Duration::ZERO, |_| true).unwrap().is_empty(), "an attempt is known");
        let cleared = world.cache.evict_idle(Duration::ZERO, nobody).unwrap();
        assert!(cleared.len() == 1 && !folder_of(&files).exists());
        cleared.iter().for_each(|path| remove(path).unwrap());
        assert!(world.names().is_empty());
        // It is made anew.
        let again = world.take(key(1, false)).await.unwrap();
        assert!(folder_of(&again).join("bin/tool").exists());
        assert_eq!(world.fetched.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_restart_finds_what_is_whole_and_another_boot_finds_nothing() {
        let mut world = World::new();
        let files = world.take(key(1, false)).await.unwrap();
        let folder = world.folder.path().join("images");
        fs::create_dir(folder.join("draft-7")).unwrap();
        world.cache = Arc::new(ImageCache::open(&folder, 1 << 20).unwrap());
        assert_eq!(world.names(), [key(1, false).digest.hex()]);
        assert_eq!(world.take(key(1, false)).await.unwrap(), files);
        assert_eq!(world.fetched.load(Ordering::SeqCst), 1);
        fs::write(folder.join(BOOT), "another life of the machine").unwrap();
        ImageCache::open(&folder, 1 << 20).unwrap();
        assert!(world.names().is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_unpacked_leaves_nothing_and_is_tried_again() {
        let world = World::new();
        let good = fs::read(world.folder.path().join("bytes")).unwrap();
        fs::write(world.folder.path().join("bytes"), b"no archive").unwrap();
        assert!(matches!(world.take(key(1, false)).await, Err(UnpackError::Wrong(_))));
        assert!(world.names().is_empty());
        fs::write(world.folder.path().join("bytes"), good).unwrap();
        world.take(key(1, false)).await.unwrap();
        world.cache.release(key(1, false));
        assert_eq!(
            world.cache.evict_idle(Duration::ZERO, |_| false).unwrap().len(),
            1,
            "the failure counts no use"
        );
    }
}
