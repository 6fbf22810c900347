//! Limits of a task, its network and its working directory: flags, and keys of a task file.

use clap::Args;
use stint_protocol::HostMount;
use stint_sdk::{units, v1};

/// The flags; each wins over the task file's key of its name.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Processes and threads, 16 at least [default: what the node gives]
    #[arg(long, value_name = "N")]
    pub pids: Option<u32>,
    /// Network: none, or host where the node allows it [default: what the node gives, mostly none]
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// Size of /tmp; what is in it counts as memory
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    pub tmp_size: Option<u64>,
    /// Size of /dev/shm; what is in it counts as memory
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    pub shm_size: Option<u64>,
    /// Swap beyond the memory, where the node allows it [default: none]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    pub swap: Option<u64>,
    /// Where the program starts: an absolute path as it sees it, or one below its work folder, which is made
    #[arg(long, value_name = "PATH")]
    pub workdir: Option<String>,
    /// A folder or file of the node, for reading or, with :rw, for writing, where the node allows it
    #[arg(long = "mount", value_name = "SOURCE[:TARGET][:rw]", value_parser = parse_mount)]
    pub mounts: Vec<v1::HostMount>,
}

/// `SOURCE[:TARGET][:rw]`; what paths may be is the cluster's to say.
pub fn parse_mount(text: &str) -> Result<v1::HostMount, String> {
    text.parse::<HostMount>().map(v1::HostMount::from).map_err(|e| e.to_string())
}

impl Limits {
    /// These, and where they say nothing, `below`.
    pub fn over(self, below: Limits) -> Limits {
        Limits {
            pids: self.pids.or(below.pids),
            network: self.network.or(below.network),
            tmp_size: self.tmp_size.or(below.tmp_size),
            shm_size: self.shm_size.or(below.shm_size),
            swap: self.swap.or(below.swap),
            workdir: self.workdir.or(below.workdir),
            mounts: if self.mounts.is_empty() { below.mounts } else { self.mounts },
        }
    }

    /// None when nothing was said.
    pub fn into_request(self) -> Option<v1::TaskLimits> {
        let said = self != Limits::default();
        said.then(|| v1::TaskLimits {
            pids: self.pids,
            swap_bytes: self.swap,
            tmp_bytes: self.tmp_size,
            shm_bytes: self.shm_size,
            network: self.network.unwrap_or_default(),
            working_dir: self.workdir.unwrap_or_default(),
            mounts: self.mounts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_one_by_one() {
        let flags = Limits { pids: Some(20), ..Limits::default() };
        let file = Limits { pids: Some(30), workdir: Some("src".into()), ..Limits::default() };
        let request = flags.over(file).into_request().unwrap();
        assert_eq!((request.pids, request.working_dir.as_str()), (Some(20), "src"));
        assert_eq!(Limits::default().into_request(), None, "what is unsaid is left to the node");
    }

    #[test]
    fn mounts_are_read_as_they_are_shown() {
        for text in ["/data", "/data:/in", "/data:rw", "/data:/in:rw"] {
            assert_eq!(HostMount::from(parse_mount(text).unwrap()).to_string(), text);
        }
        assert_eq!(HostMount::from(parse_mount("/data:/in:ro").unwrap()).to_string(), "/data:/in");
        for wrong in ["", ":", "/data:", ":/in", "/a:/b:/c", "/a:/b:rw:rw"] {
            assert!(parse_mount(wrong).unwrap_err().contains("SOURCE[:TARGET][:rw]"), "{wrong}");
        }
        let mounts = |text: &str| vec![parse_mount(text).unwrap()];
        let (flags, file) = (mounts("/a"), mounts("/b"));
        let with = |mounts| Limits { mounts, ..Limits::default() };
        assert_eq!(with(flags.clone()).over(with(file.clone())).mounts, flags);
        assert_eq!(Limits::default().over(with(file.clone())).into_request().unwrap().mounts, file);
    }
}
