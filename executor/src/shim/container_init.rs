//! The first program of containers as a file that they mount: that of this watchdog's own version.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use crate::shim_api::layout::Layout;

/// As `executor/build.rs` compiled it.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/container-init"));
/// Programs execute it as another user.
const MODE: u32 = 0o755;

/// Writes the file unless it is there. Containers that run keep the one of before.
pub fn install(layout: &Layout) -> io::Result<()> {
    let file = layout.container_init();
    let is_there = |metadata: fs::Metadata| metadata.permissions().mode() & 0o777 == MODE;
    if fs::read(&file).is_ok_and(|found| found == PROGRAM) && fs::metadata(&file).is_ok_and(is_there) {
        return Ok(());
    }
    let new = file.with_extension("new");
    let mut written = OpenOptions::new().create(true).write(true).truncate(true).mode(MODE).open(&new)?;
    written.write_all(PROGRAM)?;
    written.set_permissions(Permissions::from_mode(MODE))?;
    fs::rename(new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_static_program_and_put_right_when_it_is_not_there_as_it_should_be() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        fs::create_dir(layout.root()).unwrap();
        for wrong in [None, Some(&b"cut"[..])] {
            if let Some(bytes) = wrong {
                fs::write(layout.container_init(), bytes).unwrap();
            }
            install(&layout).unwrap();
            assert_eq!(fs::read(layout.container_init()).unwrap(), PROGRAM);
            assert_eq!(fs::metadata(layout.container_init()).unwrap().permissions().mode() & 0o777, MODE);
        }
        assert_eq!(crate::runtimes::crun::read_elf(PROGRAM), Some(true), "it needs no loader");
        assert!(PROGRAM.len() < 16 * 1024, "{} bytes", PROGRAM.len());
    }

    #[test]
    fn what_a_daemon_ignores_reaches_no_program() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        fs::create_dir(layout.root()).unwrap();
        install(&layout).unwrap();
        let init = layout.container_init();
        let report = folder.path().join("report");
        fs::write(&report, "").unwrap();
        // As with crun, and as process 1 with Docker.
        for first in ["9".as_ref(), report.as_os_str()] {
            let ignoring = "trap '' USR1 PIPE CHLD; exec \"$@\"";
            let output = std::process::Command::new("unshare")
                .args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", ignoring, "sh"])
                .args([init.as_os_str(), first])
                .args(["grep", "SigIgn", "/proc/self/status"])
                .output()
                .unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(said, "SigIgn:\t0000000000000000\n", "{:?}", output.stderr);
            assert_eq!(output.status.code(), Some(0), "with {first:?}");
        }
    }
}
