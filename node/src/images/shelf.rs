//! Unpacked images: each once, shared by the attempts that use it, counted, and removed when nobody used it for a while.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use stint_executor::{ImageConfig, ImageFiles};
use stint_protocol::Digest;
use tokio::time::Instant;

use super::UnpackError;
use super::archive::unpack;
use super::config::Written;

/// Before the name of what is not whole, or not wanted any more.
const DRAFT: &str = "draft-";
/// After the digest of an executable.
const PROGRAM: &str = ".program";
/// Names the life of the machine in which everything here was written.
const BOOT: &str = "boot";

/// What is unpacked: the bytes, and whether as one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    pub digest: Digest,
    pub program: bool,
}

struct Slot {
    uses: u32,
    /// When it was last given back.
    idle_since: Instant,
    files: Arc<tokio::sync::Mutex<Option<ImageFiles>>>,
}

/// The folder of unpacked images.
pub struct Shelf {
    folder: PathBuf,
    max_bytes: u64,
    opened: Instant,
    slots: Mutex<BTreeMap<Item, Slot>>,
    drafts: AtomicU64,
}

impl Shelf {
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
        fs::write(folder.join(BOOT), boot)?;
        let (opened, slots, drafts) = (Instant::now(), Mutex::default(), AtomicU64::new(0));
        Ok(Self { folder: folder.into(), max_bytes, opened, slots, drafts })
    }

    /// The files of an image, made by `fetch`'s bytes if they are not there. They stay until they are given back.
    pub async fn take<E>(
        self: &Arc<Self>,
        item: Item,
        fetch: impl Future<Output = Result<PathBuf, E>>,
    ) -> Result<Result<ImageFiles, UnpackError>, E> {
        let files = self.begin_use(item);
        let result = self.files(item, &files, fetch).await;
        if !matches!(result, Ok(Ok(_))) {
            self.give_back(item);
        }
        result
    }

    async fn files<E>(
        self: &Arc<Self>,
        item: Item,
        files: &tokio::sync::Mutex<Option<ImageFiles>>,
        fetch: impl Future<Output = Result<PathBuf, E>>,
    ) -> Result<Result<ImageFiles, UnpackError>, E> {
        let mut files = files.lock().await;
        if let Some(ready) = &*files {
            return Ok(Ok(ready.clone()));
        }
        if let Some(ready) = self.on_disk(item) {
            *files = Some(ready.clone());
            return Ok(Ok(ready));
        }
        let bytes = fetch.await?;
        let shelf = self.clone();
        let making = tokio::task::spawn_blocking(move || shelf.make(item, &bytes));
        let stopping =
            |_| UnpackError::Io { action: "unpacking".into(), source: io::ErrorKind::Interrupted.into() };
        let made = making.await.unwrap_or_else(|e| Err(stopping(e)));
        *files = made.as_ref().ok().cloned();
        Ok(made)
    }

    /// One use less.
    pub fn give_back(&self, item: Item) {
        if let Some(slot) = self.lock().get_mut(&item) {
            slot.uses = slot.uses.saturating_sub(1);
            slot.idle_since = Instant::now();
        }
    }

    /// Takes what nobody used for this long, and `in_use` does not name, out of the way; answers what is to be deleted.
    pub fn clear(&self, idle: Duration, in_use: impl Fn(&Digest) -> bool) -> io::Result<Vec<PathBuf>> {
        let mut cleared = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(item) = item_of(name) else { continue };
            // Nobody begins to use it between the look and the renaming.
            let mut slots = self.lock();
            let used = slots.get(&item).is_some_and(|slot| slot.uses > 0);
            let since = slots.get(&item).map_or(self.opened, |slot| slot.idle_since);
            if used || since.elapsed() < idle || in_use(&item.digest) {
                continue;
            }
            let draft = self.draft_path();
            fs::rename(&path, &draft)?;
            slots.remove(&item);
            cleared.push(draft);
        }
        Ok(cleared)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Item, Slot>> {
        self.slots.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn begin_use(&self, item: Item) -> Arc<tokio::sync::Mutex<Option<ImageFiles>>> {
        let mut slots = self.lock();
        let new = || Slot { uses: 0, idle_since: Instant::now(), files: Arc::default() };
        let slot = slots.entry(item).or_insert_with(new);
        slot.uses += 1;
        slot.files.clone()
    }

    fn path(&self, item: Item) -> PathBuf {
        self.folder.join(format!("{}{}", item.digest.hex(), if item.program { PROGRAM } else { "" }))
    }

    fn draft_path(&self) -> PathBuf {
        self.folder.join(format!("{DRAFT}{}", self.drafts.fetch_add(1, Ordering::Relaxed)))
    }

    /// What an earlier process of this node made.
    fn on_disk(&self, item: Item) -> Option<ImageFiles> {
        let path = self.path(item);
        if item.program {
            return path.is_file().then_some(ImageFiles::Executable(path));
        }
        let text = fs::read(path.join("config.json")).ok()?;
        let written: Written = serde_json::from_slice(&text).ok()?;
        Some(ImageFiles::Root { folder: path.join("root"), config: Arc::new(written.into()) })
    }

    fn make(&self, item: Item, bytes: &Path) -> Result<ImageFiles, UnpackError> {
        let (draft, path) = (self.draft_path(), self.path(item));
        let made = match item.program {
            true => make_program(bytes, &draft),
            false => self.make_root(bytes, &draft),
        };
        let placed = made.and_then(|()| {
            fs::rename(&draft, &path).map_err(UnpackError::io(format!("renaming {}", draft.display())))
        });
        if let Err(error) = placed {
            if let Err(left) = remove(&draft) {
                tracing::warn!(path = %draft.display(), error = %left, "a half-unpacked image is left until the next start");
            }
            return Err(error);
        }
        let gone = || UnpackError::Wrong(format!("{} is gone at once", path.display()));
        self.on_disk(item).ok_or_else(gone)
    }

    fn make_root(&self, bytes: &Path, draft: &Path) -> Result<(), UnpackError> {
        let made = DirBuilder::new().mode(0o755).create(draft);
        made.map_err(UnpackError::io(format!("making {}", draft.display())))?;
        let config: ImageConfig = unpack(bytes, draft, self.max_bytes)?;
        let text = serde_json::to_vec(&Written::from(&config));
        let text = text.map_err(|e| UnpackError::Wrong(format!("its configuration: {e}")))?;
        fs::write(draft.join("config.json"), text).map_err(UnpackError::io("writing its configuration"))
    }
}

/// A file of its own: the stored bytes may be deleted or kept, whoever runs them.
fn make_program(bytes: &Path, draft: &Path) -> Result<(), UnpackError> {
    let linked = fs::hard_link(bytes, draft).or_else(|_| fs::copy(bytes, draft).map(drop));
    linked.map_err(UnpackError::io(format!("making {}", draft.display())))?;
    let runnable = fs::set_permissions(draft, Permissions::from_mode(0o555));
    runnable.map_err(UnpackError::io(format!("protecting {}", draft.display())))
}

fn item_of(name: &str) -> Option<Item> {
    let (hex, program) = match name.strip_suffix(PROGRAM) {
        Some(hex) => (hex, true),
        None => (name, false),
    };
    Some(Item { digest: hex.parse().ok()?, program })
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
        shelf: Arc<Shelf>,
        fetched: AtomicU32,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let shelf = Arc::new(Shelf::open(&folder.path().join("images"), 1 << 20).unwrap());
            let mut archive = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(5);
            header.set_mode(0o755);
            archive.append_data(&mut header, "bin/tool", &b"hello"[..]).unwrap();
            fs::write(folder.path().join("bytes"), archive.into_inner().unwrap()).unwrap();
            Self { folder, shelf, fetched: AtomicU32::new(0) }
        }

        async fn take(&self, item: Item) -> Result<ImageFiles, UnpackError> {
            let bytes = self.folder.path().join("bytes");
            let fetch = async {
                self.fetched.fetch_add(1, Ordering::SeqCst);
                Ok::<_, ()>(bytes)
            };
            self.shelf.take(item, fetch).await.unwrap()
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

    fn item(number: u8, program: bool) -> Item {
        Item { digest: Digest::of([number; 32]), program }
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
        let many = futures_util::future::join_all((0..8).map(|_| world.take(item(1, false)))).await;
        let first = many[0].as_ref().unwrap();
        assert!(many.iter().all(|files| files.as_ref().unwrap() == first));
        assert_eq!(world.fetched.load(Ordering::SeqCst), 1);
        assert_eq!(fs::read(folder_of(first).join("bin/tool")).unwrap(), b"hello");
        let program = world.take(item(1, true)).await.unwrap();
        let mode = fs::metadata(folder_of(&program)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode, world.names().len()), (0o555, 2));
    }

    #[tokio::test]
    async fn what_is_used_or_named_stays_and_the_rest_goes() {
        let world = World::new();
        let files = world.take(item(1, false)).await.unwrap();
        world.take(item(1, false)).await.unwrap();
        world.shelf.give_back(item(1, false));
        let nobody = |_: &Digest| false;
        assert!(world.shelf.clear(Duration::ZERO, nobody).unwrap().is_empty(), "one still uses it");
        world.shelf.give_back(item(1, false));
        assert!(world.shelf.clear(NEVER, nobody).unwrap().is_empty(), "it was used lately");
        assert!(world.shelf.clear(Duration::ZERO, |_| true).unwrap().is_empty(), "an attempt is known");
        let cleared = world.shelf.clear(Duration::ZERO, nobody).unwrap();
        assert!(cleared.len() == 1 && !folder_of(&files).exists());
        cleared.iter().for_each(|path| remove(path).unwrap());
        assert!(world.names().is_empty());
        // It is made anew.
        let again = world.take(item(1, false)).await.unwrap();
        assert!(folder_of(&again).join("bin/tool").exists());
        assert_eq!(world.fetched.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_restart_finds_what_is_whole_and_another_boot_finds_nothing() {
        let mut world = World::new();
        let files = world.take(item(1, false)).await.unwrap();
        let folder = world.folder.path().join("images");
        fs::create_dir(folder.join("draft-7")).unwrap();
        world.shelf = Arc::new(Shelf::open(&folder, 1 << 20).unwrap());
        assert_eq!(world.names(), [item(1, false).digest.hex()]);
        assert_eq!(world.take(item(1, false)).await.unwrap(), files);
        assert_eq!(world.fetched.load(Ordering::SeqCst), 1);
        fs::write(folder.join(BOOT), "another life of the machine").unwrap();
        Shelf::open(&folder, 1 << 20).unwrap();
        assert!(world.names().is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_unpacked_leaves_nothing_and_is_tried_again() {
        let world = World::new();
        let good = fs::read(world.folder.path().join("bytes")).unwrap();
        fs::write(world.folder.path().join("bytes"), b"no archive").unwrap();
        assert!(matches!(world.take(item(1, false)).await, Err(UnpackError::Wrong(_))));
        assert!(world.names().is_empty());
        fs::write(world.folder.path().join("bytes"), good).unwrap();
        world.take(item(1, false)).await.unwrap();
        world.shelf.give_back(item(1, false));
        assert_eq!(
            world.shelf.clear(Duration::ZERO, |_| false).unwrap().len(),
            1,
            "the failure counts no use"
        );
    }
}
