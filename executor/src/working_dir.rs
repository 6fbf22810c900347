//! Where a program starts: its work folder, unless its task names another place.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::shim_api::inside::{HOST_FOLDERS, WORK};

const NOT_THERE: &str = "is no folder that it can see";

/// The part below the work folder, which the program sees at `work`; none when it is elsewhere, or the folder itself.
fn below<'a>(wanted: &'a str, work: &str) -> Option<&'a str> {
    let relative = match wanted.strip_prefix(work) {
        Some(rest) if rest.starts_with('/') => rest.trim_start_matches('/'),
        _ => wanted,
    };
    Some(relative.trim_end_matches('/')).filter(|part| !part.is_empty() && !part.starts_with('/'))
}

/// The place as the program sees it, whose work folder is at `work`.
pub fn inside(wanted: &str, work: &str) -> String {
    match below(wanted, work) {
        Some(part) => format!("{work}/{part}"),
        None => wanted.to_owned(),
    }
}

/// Folders to be made for it, outermost first: `folder` is the work folder on the host.
pub fn to_be_made(wanted: Option<&str>, work: &str, folder: &Path) -> Vec<PathBuf> {
    let Some(part) = wanted.and_then(|wanted| below(wanted, work)) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = Path::new(part).ancestors().map(|above| folder.join(above)).collect();
    // The last of the ancestors is empty: the work folder itself.
    folders.pop();
    folders.reverse();
    folders
}

/// The place for a program of crun's without a root file system of its own. Attempts share that root, and crun makes a
/// folder that is missing: so only what is there for sure. `host`: it shows the host's system folders.
pub fn in_shared_root(wanted: &str, host: bool) -> Result<String, String> {
    let plain = wanted.trim_end_matches('/');
    if below(wanted, WORK).is_some() || ["", "/tmp", "/dev/shm", WORK].contains(&plain) {
        return Ok(wanted.to_owned());
    }
    let shown = |real: &PathBuf| {
        let folders = HOST_FOLDERS.iter().map(|name| Path::new("/").join(name));
        let inside = folders.into_iter().any(|folder| real.starts_with(folder));
        // crun goes there before it becomes the program's user: only where everybody may.
        host && real.is_dir() && inside && real.ancestors().all(lets_everybody_in)
    };
    // Without links, which could lead through what it does not show.
    let real = std::fs::canonicalize(wanted).ok().filter(shown);
    real.map(|real| real.display().to_string()).ok_or_else(|| {
        let there = if host { "it has the host's system folders, " } else { "it has " };
        format!("working directory {wanted:?}: {NOT_THERE}: without an image {there}/work, /tmp and /dev/shm")
    })
}

fn lets_everybody_in(folder: &Path) -> bool {
    std::fs::metadata(folder).is_ok_and(|found| found.mode() & 0o001 != 0)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_that_others_may_not_enter_lets_nobody_in() {
        let outer = tempfile::tempdir().unwrap();
        let mode = |bits| std::fs::set_permissions(outer.path(), Permissions::from_mode(bits)).unwrap();
        for (bits, enters) in [(0o755, true), (0o711, true), (0o700, false), (0o750, false)] {
            mode(bits);
            assert_eq!(lets_everybody_in(outer.path()), enters, "{bits:o}");
        }
        // Below a system folder, where only root can make one.
        let Ok(private) = tempfile::tempdir_in("/opt") else { return };
        let open = private.path().join("open");
        std::fs::create_dir(&open).unwrap();
        let wanted = open.to_str().unwrap();
        for (bits, enters) in [(0o700, false), (0o755, true)] {
            std::fs::set_permissions(private.path(), Permissions::from_mode(bits)).unwrap();
            assert_eq!(in_shared_root(wanted, true).is_ok(), enters, "{bits:o}");
        }
    }

    #[test]
    fn in_a_root_that_others_use_only_what_is_there_for_sure_is_taken() {
        for wanted in ["src/deep", "/work/src", "/work/", "/", "/tmp"] {
            assert_eq!(in_shared_root(wanted, false).as_deref(), Ok(wanted));
        }
        assert_eq!(in_shared_root("/usr/lib/", true).as_deref(), Ok("/usr/lib"));
        for (wanted, host) in
            [("/usr/lib", false), ("/usr/no/such", true), ("/etc/passwd", true), ("/root", true)]
        {
            let message = in_shared_root(wanted, host).unwrap_err();
            assert!(message.contains(wanted) && message.contains("/work"), "{message}");
        }
    }

    #[test]
    fn only_what_is_below_the_work_folder_is_made() {
        let made = |wanted| to_be_made(Some(wanted), "/work", Path::new("/data/w"));
        let deep: Vec<PathBuf> = vec!["/data/w/a".into(), "/data/w/a/b".into()];
        for wanted in ["a/b", "a/b/", "/work/a/b"] {
            assert_eq!(
                (inside(wanted, "/work").as_str(), made(wanted)),
                ("/work/a/b", deep.clone()),
                "{wanted}"
            );
        }
        for elsewhere in ["/work", "/workshop", "/srv/a", "/"] {
            assert_eq!((inside(elsewhere, "/work").as_str(), made(elsewhere)), (elsewhere, Vec::new()));
        }
        assert_eq!(to_be_made(None, "/work", Path::new("/data/w")), Vec::<PathBuf>::new());
    }
}
