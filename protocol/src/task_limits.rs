//! What a task asks for beyond CPU and memory, and what of it a node lets tasks have.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};

use crate::class::{Runtime, UnknownWord};
use crate::docker_image::ImageRefusal;
use crate::limits;
use crate::mounts::{self, HostMount, MountRefused, MountRoot};
use crate::node_rules::describe;
use crate::task::{InvalidSpec, refuse};

/// What of a network a program sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum Network {
    /// A loopback of its own, and nothing else.
    #[n(0)]
    #[default]
    None,
    /// Its node's.
    #[n(1)]
    Host,
}

impl Network {
    pub const ALL: [Network; 2] = [Network::None, Network::Host];

    /// The word users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Network::None => "none",
            Network::Host => "host",
        }
    }
}

impl FromStr for Network {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let known = Network::ALL.into_iter().find(|network| network.as_str() == word);
        known.ok_or_else(|| UnknownWord::new("network", word, "none, host"))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Limits of one attempt. What is unset is as its node gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct TaskLimits {
    /// Processes and threads.
    #[n(0)]
    pub pids: Option<u32>,
    /// Swap beyond its memory, in bytes. Unset: none.
    #[n(1)]
    pub swap_bytes: Option<u64>,
    /// Size of its `/tmp`; what is in it counts as its memory.
    #[n(2)]
    pub tmp_bytes: Option<u64>,
    /// Size of its `/dev/shm`; what is in it counts as its memory.
    #[n(3)]
    pub shm_bytes: Option<u64>,
    #[n(4)]
    pub network: Option<Network>,
    /// Where the program starts: an absolute path as the program sees it, or one below its work folder, which is made.
    #[n(5)]
    pub working_dir: Option<String>,
    /// What of its node it sees beside that. Unset, not empty: none.
    #[n(6)]
    pub mounts: Option<Vec<HostMount>>,
}

impl TaskLimits {
    /// Bytes it takes in memory, about.
    pub fn weight(&self) -> usize {
        let of_mount =
            |mount: &HostMount| 64 + mount.source.len() + mount.target.as_ref().map_or(0, String::len);
        let mounts: usize = self.mounts().iter().map(of_mount).sum();
        120 + self.working_dir.as_ref().map_or(0, String::len) + mounts
    }

    /// What of its node it sees.
    pub fn mounts(&self) -> &[HostMount] {
        self.mounts.as_deref().unwrap_or_default()
    }

    /// Refuses what no node could give.
    pub(crate) fn check(&self) -> Result<(), InvalidSpec> {
        if let Some(pids) = self.pids
            && !(limits::FEWEST_PIDS..=limits::MOST_PIDS).contains(&u64::from(pids))
        {
            let (least, most) = (limits::FEWEST_PIDS, limits::MOST_PIDS);
            return refuse("pids", format!("{pids} is outside {least} to {most}"));
        }
        for (field, bytes) in [("tmp_size", self.tmp_bytes), ("shm_size", self.shm_bytes)] {
            let least = limits::LEAST_TMPFS_BYTES;
            if bytes.is_some_and(|bytes| bytes < least) {
                return refuse(field, format!("is under {least} bytes: ask for more, or leave it out"));
            }
        }
        mounts::check(self.mounts())?;
        self.working_dir.as_deref().map_or(Ok(()), check_working_dir)
    }
}

fn check_working_dir(path: &str) -> Result<(), InvalidSpec> {
    let wrong = |problem: &str| {
        let advice =
            "write an absolute path as the program sees it, or one below the work folder, such as \"src\"";
        refuse("workdir", format!("{path:?} {problem}: {advice}"))
    };
    let below = path.strip_prefix('/').unwrap_or(path);
    if path.is_empty() {
        return wrong("is empty");
    }
    if path.len() > limits::PATH_BYTES {
        return refuse("workdir", format!("has {} bytes; {} at most", path.len(), limits::PATH_BYTES));
    }
    if path.contains('\0') {
        return wrong("holds a NUL character");
    }
    let most = limits::PATH_PART_BYTES;
    if path.split('/').any(|part| part.len() > most) {
        return refuse(
            "workdir",
            format!("has a part of more than {most} bytes, which no file system takes"),
        );
    }
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    if path != "/" && !below.trim_end_matches('/').split('/').all(plain) {
        return wrong("has an empty part, `.` or `..`");
    }
    Ok(())
}

/// What of `TaskLimits` the tasks of one runtime of a node may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Allowance {
    #[n(0)]
    pub runtime: Runtime,
    #[n(1)]
    pub networks: Vec<Network>,
    /// Most that a task may ask for; 0 where it is not limited at all.
    #[n(2)]
    pub pids: u64,
    #[n(3)]
    pub tmp_bytes: u64,
    #[n(4)]
    pub shm_bytes: u64,
    #[n(5)]
    pub swap_bytes: u64,
    /// What tasks may mount. Unset: they cannot mount anything.
    #[n(6)]
    pub mounts: Option<Vec<MountRoot>>,
}

/// One thing that a task asks for and a node does not let it have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAllowed {
    Network {
        runtime: Runtime,
        asked: Network,
    },
    /// More than `most` of what the setting `key` bounds.
    Amount {
        runtime: Runtime,
        key: &'static str,
        asked: u64,
        most: u64,
    },
    Mount(MountRefused),
    /// An image of Docker that the operator does not let run.
    Image(ImageRefusal),
    /// A root file system or program outside the folders of images.
    ImageRoot(String),
    /// Inputs in a folder that is not open to tasks.
    InputRoot(String),
    /// Secrets, of which the node has none.
    Secrets,
    /// To run as the user with this number, who submitted it.
    RunAs(u32),
}

impl Allowance {
    /// Everything but mounts: of a runtime that executes nothing.
    pub fn everything(runtime: Runtime) -> Self {
        let most = u64::MAX;
        let networks = Network::ALL.to_vec();
        Self {
            runtime,
            networks,
            pids: most,
            tmp_bytes: most,
            shm_bytes: most,
            swap_bytes: most,
            mounts: None,
        }
    }

    /// What of these limits it does not give; empty = all is given.
    pub fn refuses(&self, asked: &TaskLimits) -> Vec<NotAllowed> {
        let runtime = self.runtime;
        let network = asked.network.filter(|network| !self.networks.contains(network));
        let network = network.map(|asked| NotAllowed::Network { runtime, asked });
        let amounts = [
            ("pids", asked.pids.map(u64::from), self.pids),
            ("tmp_size", asked.tmp_bytes, self.tmp_bytes),
            ("shm_size", asked.shm_bytes, self.shm_bytes),
            ("swap", asked.swap_bytes, self.swap_bytes),
        ];
        let over = amounts.into_iter().filter_map(|(key, asked, most)| {
            let asked = asked.filter(|asked| *asked > most)?;
            Some(NotAllowed::Amount { runtime, key, asked, most })
        });
        let mounts = mounts::refused(runtime, self.mounts.as_deref(), asked.mounts());
        network.into_iter().chain(over).chain(mounts.into_iter().map(NotAllowed::Mount)).collect()
    }
}

/// Bytes in the largest unit that they are whole of; a number of processes as it is.
fn amount(key: &str, number: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
    let whole = units.iter().find(|(_, scale)| number.is_multiple_of(*scale)).filter(|_| key != "pids");
    whole.map_or_else(|| number.to_string(), |(unit, scale)| format!("{}{unit}", number / scale))
}

impl fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotAllowed::Mount(refused) => refused.fmt(f),
            NotAllowed::Image(refusal) => f.write_str(&describe(refusal)),
            NotAllowed::ImageRoot(path) => {
                write!(f, "allows no image {path}: add a folder above it to executor.crun.roots there")
            }
            NotAllowed::InputRoot(folder) => {
                write!(f, "opens no inputs in {folder}: add a folder above it to artifacts.roots there")
            }
            NotAllowed::Secrets => write!(f, "has no secrets: set secrets.dir there"),
            NotAllowed::RunAs(uid) => write!(
                f,
                "runs nothing as user {uid}, who submitted it: set executor.run_as = \"user\" there, on a node that is root, and \
                 executor.run_as_min_uid to {uid} or less"
            ),
            NotAllowed::Network { runtime: Runtime::Docker, asked } => {
                write!(f, "gives containers of Docker no network {asked}: use another runtime")
            }
            NotAllowed::Network { runtime, asked: Network::None } => {
                write!(
                    f,
                    "cannot keep tasks of runtime {runtime} from its network: set executor.sandbox = true there"
                )
            }
            NotAllowed::Network { runtime, asked } => write!(
                f,
                "allows no network {asked} for {runtime}: set [executor.{runtime}] networks = [\"none\", \"{asked}\"] there"
            ),
            NotAllowed::Amount { runtime, key: "swap", most: 0, .. } => {
                write!(f, "allows no swap for {runtime}: set [executor.{runtime}] swap there")
            }
            NotAllowed::Amount { runtime, key, most: 0, .. } => {
                write!(f, "does not limit the {key} of runtime {runtime}: set executor.sandbox = true there")
            }
            NotAllowed::Amount { runtime, key, asked, most } => {
                let (asked, most) = (amount(key, *asked), amount(key, *most));
                let advice = format!("ask for less, or raise [executor.{runtime}] {key} there");
                write!(f, "allows {key} {most} at most for {runtime}, {asked} asked: {advice}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_node_could_give_is_refused_with_advice() {
        let dir = |path: &str| TaskLimits { working_dir: Some(path.into()), ..TaskLimits::default() };
        for good in ["/", "/srv/app", "src", "src/deep", "src/"] {
            assert_eq!(dir(good).check(), Ok(()), "{good}");
        }
        let cases = [
            (TaskLimits { pids: Some(15), ..TaskLimits::default() }, "pids: 15 is outside 16 to"),
            (TaskLimits { tmp_bytes: Some(0), ..TaskLimits::default() }, "tmp_size: is under"),
            (TaskLimits { shm_bytes: Some(4096), ..TaskLimits::default() }, "shm_size: is under"),
            (dir(""), "is empty"),
            (dir("../up"), "`..`"),
            (dir("/a/../b"), "`..`"),
            (dir("a//b"), "empty part"),
            (dir("a\0b"), "NUL"),
            (dir(&"x".repeat(2000)), "at most"),
        ];
        for (limits, part) in cases {
            let message = limits.check().unwrap_err().to_string();
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
    }

    #[test]
    fn a_node_says_what_it_does_not_allow_and_which_setting_does() {
        let allows = Allowance {
            runtime: Runtime::Crun,
            networks: vec![Network::None],
            pids: 512,
            tmp_bytes: 1 << 29,
            shm_bytes: 1 << 26,
            swap_bytes: 0,
            mounts: None,
        };
        let fits = TaskLimits {
            pids: Some(512),
            swap_bytes: Some(0),
            tmp_bytes: Some(1 << 29),
            network: Some(Network::None),
            ..TaskLimits::default()
        };
        assert_eq!(allows.refuses(&fits), []);
        let over = TaskLimits {
            pids: Some(513),
            swap_bytes: Some(1),
            shm_bytes: Some(1 << 27),
            network: Some(Network::Host),
            ..fits
        };
        let messages: Vec<String> = allows.refuses(&over).iter().map(ToString::to_string).collect();
        assert_eq!(
            messages,
            [
                "allows no network host for crun: set [executor.crun] networks = [\"none\", \"host\"] there",
                "allows pids 512 at most for crun, 513 asked: ask for less, or raise [executor.crun] pids there",
                "allows shm_size 64MiB at most for crun, 128MiB asked: ask for less, or raise [executor.crun] shm_size there",
                "allows no swap for crun: set [executor.crun] swap there",
            ]
        );
        assert_eq!(Allowance::everything(Runtime::Mock).refuses(&over), []);
    }
}
