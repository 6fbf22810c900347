//! Tokens on the command line: that with which a new peer joins, and that with which a client calls. From a file that only its
//! owner can read, or from a variable.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::failure::Failure;

/// Holds the join token when neither flag is there.
pub const VARIABLE: &str = "STINT_JOIN_TOKEN";
/// Names the file of the access token when no flag does.
pub const ACCESS_FILE_VARIABLE: &str = "STINT_TOKEN_FILE";
/// Holds the access token when no file is named.
pub const ACCESS_VARIABLE: &str = "STINT_TOKEN";
/// A token has about a hundred bytes.
const MOST_BYTES: u64 = 4 * 1024;

/// The token of a file, which this command makes; blank lines around it do not count.
pub fn of_file(path: &Path, made_by: &str) -> Result<String, Failure> {
    let shown = path.display();
    let refused = |problem: String| Failure::Usage(format!("--token-file: {shown} {problem}"));
    let unreadable = |e: std::io::Error| refused(format!("cannot be read: {e}"));
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(refused(format!("can be read by others (mode {mode:04o}): chmod 600 {shown}")));
    }
    let mut text = String::new();
    file.take(MOST_BYTES).read_to_string(&mut text).map_err(unreadable)?;
    match text.trim() {
        "" => Err(refused(format!("is empty: `{made_by}` makes a token"))),
        token => Ok(token.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_a_file_of_its_owner_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let of = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            of_file(&path, "stint x").map_err(|e| e.to_string())
        };
        assert_eq!(of("stint1-00ff\n", 0o600).as_deref(), Ok("stint1-00ff"));
        assert_eq!(of("stint1-00ff", 0o400).as_deref(), Ok("stint1-00ff"));
        for mode in [0o644, 0o640, 0o604, 0o620] {
            let problem = of("stint1-00ff", mode).unwrap_err();
            assert!(
                problem.contains(&format!("can be read by others (mode {mode:04o}): chmod 600 /")),
                "{problem}"
            );
        }
        assert!(of(" \n", 0o600).unwrap_err().contains("is empty"));
        std::fs::remove_file(&path).unwrap();
        assert!(of_file(&path, "stint x").unwrap_err().to_string().contains("cannot be read"));
    }
}
