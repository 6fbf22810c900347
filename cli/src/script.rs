//! A script of this machine that a task runs: it is sent along, as `sbatch` does.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::draft::Draft;
use crate::failure::Failure;
use crate::files;
use crate::output::talk;

/// How a script begins.
const MARK: &[u8] = b"#!";
/// The work folder where a program has a root of its own.
const WORK: &str = "/work";

/// Sends along the script that a task's command names by a relative path, as it is now. An absolute path is one of the
/// nodes, and a name without a slash is looked up there.
pub fn send_along(draft: &mut Draft) -> Result<(), Failure> {
    let Some(named) = draft.command.first().filter(|name| name.contains('/') && !name.starts_with('/'))
    else {
        return Ok(());
    };
    // Slurm's nodes share their files with whoever submits.
    let in_slurm = draft.class.as_deref() == Some("gpu_slurm");
    let Some(folder) = start_folder(draft.workdir.as_deref().unwrap_or_default()).filter(|_| !in_slurm)
    else {
        return Ok(());
    };
    let is_sent = |path: &str| draft.inputs.iter().any(|input| plain(&input.path) == plain(path));
    let Some(base) = Path::new(named).file_name().and_then(|name| name.to_str()) else { return Ok(()) };
    if is_sent(&format!("{folder}/{named}")) || !Path::new(named).is_file() {
        return Ok(());
    }
    if let Some(problem) = why_not(named).map_err(|e| Failure::Usage(format!("cannot read {named}: {e}")))? {
        if draft.image.is_none() {
            talk(&format!("{named} of this machine is not sent along: it {problem}; --input sends any file"));
        }
        return Ok(());
    }
    let script = files::local(&plain(&format!("{folder}/{base}")), named).map_err(Failure::Usage)?;
    let command = format!("./{base}");
    draft.inputs.push(script);
    draft.command[0] = command;
    Ok(())
}

/// Where the program starts, below its work folder; none: elsewhere.
fn start_folder(workdir: &str) -> Option<&str> {
    match workdir.strip_prefix(WORK) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => Some(rest),
        _ => Some(workdir).filter(|folder| !folder.starts_with('/')),
    }
}

/// A path below the work folder, as the task names it.
fn plain(path: &str) -> String {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/")
}

/// Why a file is no script that can be run.
fn why_not(path: &str) -> std::io::Result<Option<&'static str>> {
    let mut file = File::open(path)?;
    let mut begin = [0; MARK.len()];
    let is_script = match file.read_exact(&mut begin) {
        Ok(()) => begin == MARK,
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => false,
        Err(e) => return Err(e),
    };
    if !is_script {
        return Ok(Some("does not begin with #!"));
    }
    let executable = file.metadata()?.permissions().mode() & 0o111 != 0;
    Ok((!executable).then_some("is not executable (chmod +x)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_starts_below_the_work_folder_finds_its_script() {
        for (workdir, folder) in [
            ("", Some("")),
            ("src/deep", Some("src/deep")),
            ("/work", Some("")),
            ("/work/src", Some("/src")),
            ("/workshop", None),
            ("/srv", None),
        ] {
            assert_eq!(start_folder(workdir), folder, "{workdir}");
        }
        assert_eq!(plain("/src/./deep//job.sh"), "src/deep/job.sh");
    }
}
