//! Folders and files of a node that a task asks to see, and those that a node lets tasks see.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use minicbor::{Decode, Encode};

use crate::class::Runtime;
use crate::limits;
use crate::task::{InvalidSpec, refuse};

/// A folder or file of its node that a task sees.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct HostMount {
    /// Absolute, on the node.
    #[n(0)]
    pub source: String,
    /// Absolute, as the program sees it. Unset: where it is on the node.
    #[n(1)]
    pub target: Option<String>,
    /// Unset: the program may read only.
    #[n(2)]
    pub writable: bool,
}

/// Places of every container that nothing is mounted over, with all below them.
const TAKEN: [&str; 9] =
    ["/proc", "/sys", "/dev", "/work", "/binary", "/run/secrets", "/tmp/work", "/tmp/binary", "/tmp/secrets"];

impl HostMount {
    /// Where the program sees it.
    pub fn target(&self) -> &str {
        self.target.as_deref().unwrap_or(&self.source)
    }

    fn check(&self) -> Result<(), InvalidSpec> {
        check_path(&self.source)?;
        check_path(self.target())?;
        match is_taken(self.target()) {
            None => Ok(()),
            Some(taken) => {
                refuse("mounts", format!("{self}: {taken} is the container's own: name another target"))
            }
        }
    }
}

/// The place of the container's own that a mount at this path would lie in or hide.
pub fn is_taken(target: &str) -> Option<&'static str> {
    let target = Path::new(target);
    TAKEN.into_iter().find(|taken| target.starts_with(taken) || Path::new(taken).starts_with(target))
}

impl fmt::Display for HostMount {
    /// As it is written: `SOURCE[:TARGET][:rw]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if let Some(target) = &self.target {
            write!(f, ":{target}")?;
        }
        f.write_str(if self.writable { ":rw" } else { "" })
    }
}

/// A text that is no mount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no mount: write SOURCE[:TARGET][:rw], for example /data/sets:/in")]
pub struct InvalidMount(String);

impl FromStr for HostMount {
    type Err = InvalidMount;

    /// `SOURCE[:TARGET][:rw]`; which paths may be is for `TaskSpec::resolve` to say.
    fn from_str(text: &str) -> Result<Self, InvalidMount> {
        let (paths, writable) = match text.strip_suffix(":rw") {
            Some(paths) => (paths, true),
            None => (text.strip_suffix(":ro").unwrap_or(text), false),
        };
        let (source, target) = match paths.split(':').collect::<Vec<&str>>()[..] {
            [source] => (source, None),
            [source, target] if !target.is_empty() => (source, Some(target)),
            _ => return Err(InvalidMount(text.into())),
        };
        if source.is_empty() {
            return Err(InvalidMount(text.into()));
        }
        Ok(Self { source: source.into(), target: target.map(String::from), writable })
    }
}

fn check_path(path: &str) -> Result<(), InvalidSpec> {
    let wrong = |problem: &str| {
        refuse("mounts", format!("{path:?} {problem}: write an absolute path without `.`, `..` and `:`"))
    };
    if path.len() > limits::PATH_BYTES {
        return refuse("mounts", format!("a path has {} bytes; {} at most", path.len(), limits::PATH_BYTES));
    }
    let Some(below) = path.strip_prefix('/') else { return wrong("is not absolute") };
    if path.contains(['\0', ':', ',']) {
        return wrong("holds a character that cannot be there");
    }
    let plain = |part: &str| !matches!(part, "" | "." | "..") && part.len() <= limits::PATH_PART_BYTES;
    if path != "/" && !below.split('/').all(plain) {
        return wrong("has a part that is empty, `.`, `..` or too long");
    }
    Ok(())
}

/// Refuses what no node could mount.
pub(crate) fn check(mounts: &[HostMount]) -> Result<(), InvalidSpec> {
    let most = limits::MOUNTS;
    if mounts.len() > most {
        return refuse("mounts", format!("names {} folders; {most} at most", mounts.len()));
    }
    for (place, mount) in mounts.iter().enumerate() {
        mount.check()?;
        // Root would make the inner one's place in the outer one's folder, and the order would count.
        let (own, others) = (Path::new(mount.target()), &mounts[..place]);
        let lies_in = |other: &&HostMount| {
            let other = Path::new(other.target());
            own.starts_with(other) || other.starts_with(own)
        };
        if let Some(other) = others.iter().find(lies_in) {
            let (own, other) = (mount.target(), other.target());
            return refuse(
                "mounts",
                format!("{own} and {other} lie in each other: name targets side by side"),
            );
        }
    }
    Ok(())
}

/// A folder or file of a node that the tasks of a runtime may see.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct MountRoot {
    #[n(0)]
    pub path: String,
    #[n(1)]
    pub writable: bool,
    /// Also what lies below it.
    #[n(2)]
    pub below: bool,
}

impl MountRoot {
    /// Whether it lets tasks have this mount.
    pub fn holds(&self, mount: &HostMount) -> bool {
        let (root, source) = (Path::new(&self.path), Path::new(&mount.source));
        let inside = if self.below { source.starts_with(root) } else { source == root };
        inside && (self.writable || !mount.writable)
    }
}

/// Why a node does not let a task have a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRefused {
    pub runtime: Runtime,
    pub mount: HostMount,
    /// Only where the node shows it anyway.
    pub elsewhere: bool,
    /// The node cannot mount for this runtime at all.
    pub never: bool,
}

/// What of these mounts a node does not give; `roots` is unset where it cannot mount for the runtime at all.
pub(crate) fn refused(
    runtime: Runtime,
    roots: Option<&[MountRoot]>,
    asked: &[HostMount],
) -> Vec<MountRefused> {
    let refused = asked.iter().filter_map(|mount| {
        // Processes see the host's files where they are.
        let elsewhere = runtime == Runtime::Process && mount.target() != mount.source;
        let is_open = roots.is_some_and(|roots| roots.iter().any(|root| root.holds(mount)));
        let refused = MountRefused { runtime, mount: mount.clone(), elsewhere, never: roots.is_none() };
        (elsewhere || !is_open).then_some(refused)
    });
    refused.collect()
}

impl fmt::Display for MountRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runtime, mount, elsewhere, never } = self;
        let source = &mount.source;
        match runtime {
            Runtime::Process if *never => {
                write!(f, "mounts nothing for runtime process: set executor.sandbox = true there")
            }
            _ if *never => write!(f, "mounts nothing for runtime {runtime}: use another runtime"),
            _ if *elsewhere => {
                write!(
                    f,
                    "shows {source} to runtime {runtime} where it is only: leave the target out, or use crun"
                )
            }
            _ => {
                let (does, key) = if mount.writable { ("write in", "writable") } else { ("see", "readable") };
                let itself = if *runtime == Runtime::Docker { " (docker: the very folder)" } else { "" };
                let advice = format!("let its operator add it to [executor.mounts] {key}{itself}");
                write!(f, "does not let tasks of {runtime} {does} {source}: {advice}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(text: &str) -> HostMount {
        let (text, writable) = text.strip_suffix(":rw").map_or((text, false), |text| (text, true));
        let (source, target) = text.split_once(':').map_or((text, None), |(s, t)| (s, Some(t.to_owned())));
        HostMount { source: source.to_owned(), target, writable }
    }

    #[test]
    fn what_no_node_could_mount_is_refused() {
        let good = ["/data", "/data:/in", "/data/a b:/deep/in:rw", "/etc/hosts:/tmp/hosts", "/srv:/tmp/x"];
        let mounts: Vec<HostMount> = good.into_iter().skip(1).map(mount).collect();
        assert_eq!(check(&mounts), Ok(()));
        for text in good {
            assert_eq!((mount(text).check(), mount(text).to_string()), (Ok(()), text.to_owned()));
        }
        let cases = [
            ("data:/in", "is not absolute"),
            ("/data:in", "is not absolute"),
            ("/data/../etc:/in", "`..`"),
            ("/data//x:/in", "is empty"),
            ("/data/:/in", "is empty"),
            ("/data,x:/in", "cannot be there"),
            ("/data:/proc/1", "/proc is the container's own"),
            ("/data:/", "/proc is the container's own"),
            ("/tmp", "/tmp/work is the container's own"),
            ("/data:/run", "/run/secrets is the container's own"),
            ("/data:/work/in", "/work is the container's own"),
        ];
        for (text, part) in cases {
            let message = mount(text).check().unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
        for other in ["/b:/in", "/b:/in/deep:rw", "/b:/"] {
            let message = check(&[mount("/a:/in"), mount(other)]).unwrap_err().to_string();
            assert!(message.contains("side by side") || message.contains("own"), "{message}");
        }
        assert_eq!(check(&[mount("/a:/in"), mount("/b:/inside")]), Ok(()));
        let many: Vec<HostMount> = (0..=limits::MOUNTS).map(|n| mount(&format!("/a:/b{n}"))).collect();
        assert!(check(&many).unwrap_err().to_string().contains("at most"));
    }

    #[test]
    fn a_root_holds_what_lies_below_it_and_no_name_that_begins_alike() {
        let root = |path: &str, writable, below| MountRoot { path: path.into(), writable, below };
        let data = root("/data", false, true);
        assert!(data.holds(&mount("/data")) && data.holds(&mount("/data/sets/one:/in")));
        assert!(
            !data.holds(&mount("/database")) && !data.holds(&mount("/")) && !data.holds(&mount("/data:rw"))
        );
        assert!(root("/data", true, true).holds(&mount("/data/x:/in:rw")));
        let itself = root("/data", true, false);
        assert!(itself.holds(&mount("/data:/in")) && !itself.holds(&mount("/data/x:/in")));
    }

    #[test]
    fn a_refusal_says_what_to_change() {
        let roots = [MountRoot { path: "/data".into(), writable: false, below: true }];
        let message = |runtime, roots, text| {
            let refused = refused(runtime, roots, &[mount(text)]);
            refused.first().map(ToString::to_string).unwrap_or_default()
        };
        assert_eq!(message(Runtime::Crun, Some(&roots[..]), "/data/x:/in"), "");
        assert!(
            message(Runtime::Crun, Some(&roots), "/data/x:/in:rw").contains("[executor.mounts] writable")
        );
        assert!(
            message(Runtime::Crun, Some(&roots), "/etc:/in").contains("see /etc: let its operator add it")
        );
        assert!(message(Runtime::Docker, Some(&[]), "/data:/in").contains("the very folder"));
        assert!(message(Runtime::Process, Some(&roots), "/data:/in").contains("leave the target out"));
        assert_eq!(message(Runtime::Process, Some(&roots), "/data/x"), "");
        assert!(message(Runtime::Process, None, "/data").contains("executor.sandbox"));
        assert!(message(Runtime::Mock, None, "/data").contains("use another runtime"));
    }
}
