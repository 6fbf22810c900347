//! Stories of the state machine as text: `tests/scripts/*.txt` hold commands (`> …`) and the trace they gave.
//! `STINT_BLESS=1 cargo nextest run -p stint-scheduler` writes the traces anew; read the difference.
#![allow(clippy::unwrap_used)]

mod support;

use support::Story;

#[test]
fn every_script_gives_its_trace() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut scripts: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    scripts.sort();
    assert!(scripts.len() >= 8, "the scripts are missing");
    for path in scripts {
        let written = std::fs::read_to_string(&path).unwrap();
        let played = Story::play(&written);
        if std::env::var_os("STINT_BLESS").is_some() {
            std::fs::write(&path, &played).unwrap();
        } else {
            assert_eq!(played, written, "{} gives another trace", path.display());
        }
    }
}
