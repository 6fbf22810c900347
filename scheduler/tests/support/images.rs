//! The lines of a script about images and stored bytes.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;

use stint_protocol::*;
use stint_scheduler::*;

use super::{Story, node};

/// Bytes that a number stands for.
pub fn blob(word: &str) -> Blob {
    let number: u8 = word.parse().unwrap();
    Blob { digest: Digest::from_bytes([number; 32]), size: u64::from(number) * 1_000 }
}

/// A file of these bytes that an attempt left.
pub fn output(word: &str) -> KeptFile {
    KeptFile { path: format!("out/{word}"), blob: blob(word), stored: true, executable: None, pinned: None }
}

fn content(digest: &Digest) -> String {
    format!("content {}", digest.bytes()[0])
}

fn tenant(word: Option<&&str>) -> Tenant {
    word.map_or_else(Tenant::default_tenant, |word| Tenant::new(word).unwrap())
}

fn nodes(word: &str) -> Vec<NodeId> {
    word.split(',').filter(|word| *word != "-").map(node).collect()
}

/// The command of a line, if it is one of these.
pub fn command(args: &[&str], images: &mut u128) -> Option<Command> {
    let rest = &args[1..];
    let digest = |word: &str| blob(word).digest;
    Some(match args[0] {
        // `image NAME KIND CONTENT NODES [TENANT]`
        "image" => {
            *images += 1;
            let source = match rest[1] {
                "executable" => ImageSource::Executable(blob(rest[2])),
                "rootfs" => ImageSource::Rootfs(blob(rest[2])),
                _ => ImageSource::Docker(rest[2].into()),
            };
            Command::RegisterImage(RegisterImage {
                id: ImageId(*images),
                tenant: tenant(rest.get(4)),
                name: ImageName::new(rest[0]).unwrap(),
                source,
                description: String::new(),
                holders: nodes(rest[3]),
            })
        }
        // `delete IMAGE [TENANT]`
        "delete" => {
            Command::DeleteImage { tenant: tenant(rest.get(1)), image: ImageId(rest[0].parse().unwrap()) }
        }
        // `keep CONTENT MS NODES [TENANT]`
        "keep" => Command::KeepBlob(KeepBlob {
            tenant: tenant(rest.get(3)),
            blob: blob(rest[0]),
            keep_ms: rest[1].parse().unwrap(),
            holders: nodes(rest[2]),
        }),
        "forget" => Command::ForgetBlob { tenant: tenant(rest.get(1)), blob: digest(rest[0]) },
        "hold" => Command::HoldBlobs { node: node(rest[0]), blobs: vec![digest(rest[1])] },
        "lose" => Command::LoseBlobs { node: node(rest[0]), blobs: vec![digest(rest[1])] },
        "drop" => Command::DropBlobs { blobs: vec![digest(rest[0])] },
        _ => return None,
    })
}

/// Images that are listed, page by page, and what is stored.
pub fn registry(story: &Story, args: &[&str]) -> String {
    let (state, tenant) = (&story.state, tenant(args.first()));
    let mut out = String::new();
    let mut after = None;
    while let Some(image) = state.images_after(&tenant, after.as_ref()).next() {
        let (kind, uses) = (image.source.kind(), state.image_uses(image.id));
        writeln!(out, "  {} {} {kind}, {uses} use it", image.id.0, image.name).unwrap();
        after = Some(image.name.clone());
    }
    for (digest, record) in state.blobs() {
        let since = record.unused_since.map(|at| format!(", unused since {}", at.0)).unwrap_or_default();
        writeln!(out, "  {} on {:?}{since}", content(digest), record.holders).unwrap();
    }
    if out.is_empty() { "  nothing".into() } else { out.trim_end().into() }
}
