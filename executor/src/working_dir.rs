//! Where a program starts: its work folder, unless its task names another place.

use std::path::{Path, PathBuf};

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

#[cfg(test)]
mod tests {
    use super::*;

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
