//! What is built by default has nothing planted in it.
#![cfg(not(feature = "mutations"))]

use std::path::Path;

#[test]
fn the_plain_program_cannot_be_made_to_behave_wrongly() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_stint-sim")).unwrap_or_default();
    let mark = b"this program can be made to behave wrongly";
    assert!(!program.is_empty());
    assert!(!program.windows(mark.len()).any(|window| window == mark));
}

/// No crate turns the feature on by default, and the command never does.
#[test]
fn no_manifest_enables_mutations() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for name in ["cli", "node", "raft", "sim", "scheduler", "executor", "slurm-bridge", "sdk", "protocol"] {
        let path = root.join(name).join("Cargo.toml");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let uses: Vec<&str> = text.lines().filter(|line| line.contains("mutations")).collect();
        let declares = |line: &&str| line.starts_with("mutations = ") || line.starts_with('#');
        let of_sim = |line: &&str| name == "sim" && !line.contains("default");
        assert!(uses.iter().all(|line| declares(line) || of_sim(line)), "{}: {uses:?}", path.display());
        assert!(!text.lines().any(|line| line.starts_with("default = ") && line.contains("mutations")));
    }
}
