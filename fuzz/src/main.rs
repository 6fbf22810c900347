//! The fuzzer of every decoder that meets bytes of others. `STINT_FUZZ` names the decoder; all else is libFuzzer's.
#![no_main]

mod args;
mod bounded;
#[path = "../../cli/src/decoders.rs"]
mod decoders;
#[path = "../../cli/src/draft.rs"]
mod draft;
mod failure;
#[path = "../../cli/src/files.rs"]
mod files;
mod script;
#[path = "../../cli/src/task_file.rs"]
mod task_file;

use std::sync::OnceLock;

type Decoder = (&'static str, fn(&[u8]));

fn all() -> impl Iterator<Item = &'static Decoder> {
    let of_crates: [&'static [Decoder]; 5] = [
        stint_raft::decoders::DECODERS,
        stint_executor::decoders::DECODERS,
        stint_slurm_bridge::decoders::DECODERS,
        stint_node::decoders::DECODERS,
        decoders::DECODERS,
    ];
    of_crates.into_iter().flatten()
}

fn chosen() -> &'static Decoder {
    static CHOSEN: OnceLock<&'static Decoder> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("STINT_FUZZ").unwrap_or_default();
        all().find(|(known, _)| *known == name).unwrap_or_else(|| {
            all().for_each(|(name, _)| println!("{name}"));
            std::process::exit(if name == "list" { 0 } else { 2 })
        })
    })
}

libfuzzer_sys::fuzz_target!(
    init: {
        let _ = chosen();
    },
    |bytes: &[u8]| {
        let (_, decode) = chosen();
        bounded::run(bytes.len(), || decode(bytes));
    }
);
