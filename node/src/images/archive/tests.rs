//! Archives of honest and of hostile makers.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};
use stint_protocol::Digest;
use tar::{Builder, Header};
use tempfile::TempDir;

use super::*;
use crate::limits;

const MOST: u64 = 1 << 20;

/// One thing in an archive: its path as it is, mode, what it is and its content or target.
enum Thing {
    Folder(&'static str, u32),
    File(&'static str, u32, &'static [u8]),
    Symlink(&'static str, &'static str),
    Link(&'static str, &'static str),
    Device(&'static str),
}
use Thing::*;

/// Writes paths as they are: the builder's own checks are those of an honest maker.
fn header(path: &str, mode: u32, size: u64, kind: EntryType, target: &str) -> Header {
    let mut header = Header::new_gnu();
    let raw = header.as_old_mut();
    raw.name[..path.len()].copy_from_slice(path.as_bytes());
    raw.linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_mode(mode);
    header.set_size(size);
    header.set_entry_type(kind);
    header.set_cksum();
    header
}

fn archive(things: &[Thing]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for thing in things {
        let (header, content) = match thing {
            Folder(path, mode) => (header(path, *mode, 0, EntryType::Directory, ""), &[][..]),
            File(path, mode, content) => {
                (header(path, *mode, content.len() as u64, EntryType::Regular, ""), *content)
            }
            Symlink(path, to) => (header(path, 0o777, 0, EntryType::Symlink, to), &[][..]),
            Link(path, to) => (header(path, 0o777, 0, EntryType::Link, to), &[][..]),
            Device(path) => (header(path, 0o666, 0, EntryType::Char, ""), &[][..]),
        };
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// As layers are packed: with a checksum at the end.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

struct Unpacked {
    folder: TempDir,
    result: Result<ImageConfig, UnpackError>,
}

impl Unpacked {
    fn unpack(bytes: &[u8]) -> Self {
        Self::within(bytes, MOST)
    }

    fn within(bytes: &[u8], most: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("secret"), "not yours").unwrap();
        fs::write(folder.path().join("image"), bytes).unwrap();
        fs::create_dir(folder.path().join("out")).unwrap();
        let result = unpack(&folder.path().join("image"), &folder.path().join("out"), most);
        assert_eq!(fs::read(folder.path().join("secret")).unwrap(), b"not yours");
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["image", "out", "secret"], "something was written outside");
        Self { folder, result }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("out/root").join(path)
    }

    fn read(&self, path: &str) -> String {
        let path = self.path(path);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    fn refused(&self) -> String {
        match &self.result {
            Err(UnpackError::Wrong(message)) => message.clone(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_root_file_system_is_unpacked_with_its_modes_and_links() {
    let things = [
        Folder("./", 0o755),
        Folder("usr/bin", 0o755),
        File("usr/bin/tool", 0o4755, b"run"),
        Symlink("bin", "usr/bin"),
        Symlink("abs", "/usr"),
        File("bin/sh", 0o2711, b"shell"),
        File("abs/notes", 0o000, b"notes"),
        Link("usr/bin/again", "bin/tool"),
        Folder("tmp", 0o1777),
        Device("dev/null"),
        File("/etc/rooted", 0o644, b"inside"),
    ];
    for bytes in [archive(&things), gzip(&archive(&things)), zstd(&archive(&things))] {
        let unpacked = Unpacked::unpack(&bytes);
        assert_eq!(unpacked.result.as_ref().unwrap(), &ImageConfig::default());
        assert_eq!(unpacked.read("usr/bin/sh"), "shell");
        assert_eq!(unpacked.read("usr/notes"), "notes");
        assert_eq!(unpacked.read("etc/rooted"), "inside");
        let mode =
            |path: &str| fs::symlink_metadata(unpacked.path(path)).unwrap().permissions().mode() & 0o7777;
        // Nobody gets another user's rights, and this node can remove all of it again.
        let found = ["usr/bin/tool", "usr/bin/sh", "usr/notes", "tmp"].map(mode);
        assert_eq!(found, [0o755, 0o711, 0o400, 0o1777]);
        let inode = |path: &str| fs::metadata(unpacked.path(path)).unwrap().ino();
        assert_eq!(inode("usr/bin/tool"), inode("usr/bin/again"));
        assert!(!unpacked.path("dev/null").exists());
    }
}

#[test]
fn nothing_gets_out() {
    let leads_out: [&[Thing]; 3] =
        [&[File("../secret", 0o644, b"mine")], &[Folder("a/../../b", 0o755)], &[Symlink("../link", "x")]];
    for things in leads_out {
        let unpacked = Unpacked::unpack(&archive(things));
        assert!(unpacked.refused().contains("leads out of it"), "{}", unpacked.refused());
    }
    // Links are followed inside, whatever they say.
    let unpacked = Unpacked::unpack(&archive(&[
        Symlink("up", "../../.."),
        File("up/secret", 0o644, b"mine"),
        Symlink("root", "/"),
        File("root/etc/passwd", 0o644, b"mine"),
        Symlink("a", "b/../../../up/x"),
        File("a/deep", 0o644, b"mine"),
        Symlink("here", "../../secret"),
        File("here", 0o644, b"replaced"),
    ]));
    unpacked.result.as_ref().unwrap();
    assert_eq!(unpacked.read("secret"), "mine");
    assert_eq!(unpacked.read("etc/passwd"), "mine");
    assert_eq!(unpacked.read("x/deep"), "mine");
    assert_eq!(unpacked.read("here"), "replaced");
    for (to, message) in
        [("../../secret", "leads out"), ("/../secret", "leads out"), ("secret", "no file in it")]
    {
        let unpacked =
            Unpacked::unpack(&archive(&[Link("mine", Box::leak(to.to_string().into_boxed_str()))]));
        assert!(unpacked.refused().contains(message), "{to}: {}", unpacked.refused());
    }
}

#[test]
fn what_has_no_end_is_refused() {
    let unpacked =
        Unpacked::unpack(&archive(&[Symlink("a", "b"), Symlink("b", "a"), File("a/x", 0o644, b"")]));
    assert!(unpacked.refused().contains("too many links"), "{}", unpacked.refused());
    let large: &'static [u8] = Box::leak(vec![0; MOST as usize / 2 + 1].into_boxed_slice());
    for pack in [gzip, zstd] {
        let bomb = pack(&archive(&[File("a", 0o644, large), File("b", 0o644, large)]));
        assert!(bomb.len() < 20_000);
        assert!(Unpacked::unpack(&bomb).refused().contains("blobs.max_unpacked"));
    }
    let whole = archive(&[File("a", 0o644, large)]);
    for broken in [&whole[..whole.len() / 2], &gzip(&whole)[..100], b"no archive at all", &[0; 2048]] {
        let message = Unpacked::unpack(broken).refused();
        assert!(message.contains("archive"), "{message}");
    }
}

/// Bytes that do not get smaller.
fn noise(count: usize) -> &'static [u8] {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    kept((0..count).map(next).collect())
}

#[test]
fn zstd_that_is_cut_damaged_or_wants_too_much_memory_is_refused() {
    let whole = archive(&[File("a", 0o644, noise(20_000))]);
    let packed = zstd(&whole);
    assert_eq!(fs::read(Unpacked::unpack(&packed).path("a")).unwrap(), noise(20_000));
    let mut damaged = packed.clone();
    damaged[10_000] ^= 1;
    // A frame with a window of 256 MiB, and nothing in it.
    let greedy = [&packed[..4], &[0, (28 - 10) << 3, 1, 0, 0]].concat();
    let broken = [&packed[..packed.len() / 2], &damaged, &greedy, b"\x28\xb5\x2f\xfd zstd"];
    let message = ["incomplete", "checksum", "too much memory", "cannot be read"];
    for (bytes, expected) in broken.into_iter().zip(message) {
        let message = Unpacked::unpack(bytes).refused();
        assert!(
            message.starts_with("the archive cannot be read:") && message.contains(expected),
            "{message}"
        );
        let message = saved(&[bytes]).refused();
        assert!(
            message.starts_with("the archive cannot be read:") && message.contains(expected),
            "{message}"
        );
    }
    // A gzip checksum is compared too.
    let mut damaged = gzip(&whole);
    let sum = damaged.len() - 8;
    damaged[sum] ^= 1;
    assert!(Unpacked::unpack(&damaged).refused().contains("checksum"));
    // In parts, as it is written for being fetched in parts, with a note that is skipped.
    let (first, second) = whole.split_at(whole.len() / 2);
    let parts = [zstd(first), zstd(second), b"\x50\x2a\x4d\x18\x04\0\0\0note".to_vec()].concat();
    let unpacked = saved(&[&parts]);
    unpacked.result.as_ref().unwrap();
    assert_eq!(fs::read(unpacked.path("a")).unwrap(), noise(20_000));
}

/// What `docker save` would write of these layers.
fn saved(layers: &[&[u8]]) -> Unpacked {
    let names: Vec<_> = (0..layers.len()).map(|index| format!("{index}/layer.tar")).collect();
    let manifest = format!(r#"[{{"Config":"c.json","Layers":{names:?}}}]"#);
    let mut things = vec![
        File("c.json", 0o644, CONFIG.as_bytes()),
        File("manifest.json", 0o644, kept(manifest.into_bytes())),
    ];
    let content = names.iter().zip(layers);
    things.extend(content.map(|(name, layer)| File(named(name), 0o644, kept(layer.to_vec()))));
    Unpacked::unpack(&archive(&things))
}

fn named(name: &str) -> &'static str {
    Box::leak(name.to_string().into_boxed_str())
}

fn kept(bytes: Vec<u8>) -> &'static [u8] {
    Box::leak(bytes.into_boxed_slice())
}

fn layers() -> [Vec<u8>; 3] {
    let base = archive(&[
        File("keep", 0o644, b"base"),
        File("gone", 0o644, b"base"),
        File("opaque/old", 0o644, b"base"),
        File("folder/in/it", 0o644, b"base"),
        File("changed", 0o644, b"base"),
    ]);
    let middle = archive(&[
        File("opaque/new", 0o644, b"middle"),
        File("opaque/.wh..wh..opq", 0o644, b""),
        File(".wh.gone", 0o644, b""),
        File(".wh.folder", 0o644, b""),
        File("changed", 0o644, b"middle"),
        File(".wh...", 0o644, b""),
        File("sub/.wh..wh.plnk", 0o644, b""),
    ]);
    let top = archive(&[File("folder", 0o644, b"a file now"), File("gone", 0o644, b"back")]);
    [base, gzip(&middle), zstd(&top)]
}

const CONFIG: &str = r#"{"architecture":"amd64","config":{"Entrypoint":["/bin/tool"],"Cmd":null,
    "Env":["A=1"],"WorkingDir":"/work","StopSignal":"SIGINT","Volumes":{"/data":{},"/logs":null}},"rootfs":{}}"#;

fn prove_layers(unpacked: &Unpacked) {
    let config = unpacked.result.as_ref().unwrap();
    assert_eq!(config.entrypoint, ["/bin/tool"]);
    assert_eq!(
        (config.environment.as_slice(), config.working_dir.as_deref()),
        (&["A=1".into()][..], Some("/work"))
    );
    assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(config.volumes, ["/data", "/logs"]);
    let found = ["keep", "gone", "opaque/new", "folder", "changed"].map(|path| unpacked.read(path));
    assert_eq!(found, ["base", "back", "middle", "a file now", "middle"]);
    assert!(!unpacked.path("opaque/old").exists());
    let mut left: Vec<_> = fs::read_dir(unpacked.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["changed", "folder", "gone", "keep", "opaque"], "notes of layers are no files");
}

#[test]
fn what_docker_save_writes_is_unpacked_layer_by_layer() {
    let manifest =
        r#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["1/layer.tar","2/layer.tar","3/layer.tar"]}]"#;
    let [one, two, three] = layers().map(kept);
    let things = [
        File("1/layer.tar", 0o644, one),
        File("2/layer.tar", 0o644, two),
        File("3/layer.tar", 0o644, three),
        File("c.json", 0o644, CONFIG.as_bytes()),
        File("manifest.json", 0o644, manifest.as_bytes()),
    ];
    prove_layers(&Unpacked::unpack(&archive(&things)));
    prove_layers(&Unpacked::unpack(&gzip(&archive(&things))));
    prove_layers(&Unpacked::unpack(&zstd(&archive(&things))));
    // A root file system with a file of that name is none.
    let plain = Unpacked::unpack(&archive(&[File("manifest.json", 0o644, manifest.as_bytes())]));
    assert_eq!(plain.read("manifest.json"), manifest);
}

#[test]
fn an_oci_layout_is_unpacked_for_this_platform() {
    let digest = |bytes: &[u8]| Digest::from_bytes(Sha256::digest(bytes).into());
    let path = |bytes: &[u8]| named(&format!("blobs/sha256/{}", digest(bytes).hex()));
    let layers = layers().map(kept);
    let list: Vec<String> =
        layers.iter().map(|layer| format!(r#"{{"digest":"{}"}}"#, digest(layer))).collect();
    let manifest =
        format!(r#"{{"config":{{"digest":"{}"}},"layers":[{}]}}"#, digest(CONFIG.as_bytes()), list.join(","));
    let manifest = kept(manifest.into_bytes());
    let own = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let index = format!(
        r#"{{"manifests":[{{"digest":"sha256:{}","platform":{{"os":"linux","architecture":"s390x"}}}},
            {{"digest":"{}","platform":{{"os":"linux","architecture":"{own}"}}}}]}}"#,
        "00".repeat(32),
        digest(manifest)
    );
    let mut things = vec![
        File("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#),
        File("index.json", 0o644, kept(index.into_bytes())),
        File(path(manifest), 0o644, manifest),
        File(path(CONFIG.as_bytes()), 0o644, CONFIG.as_bytes()),
    ];
    things.extend(layers.iter().map(|layer| File(path(layer), 0o644, layer)));
    prove_layers(&Unpacked::unpack(&archive(&things)));
    things.pop();
    let message = Unpacked::unpack(&archive(&things)).refused();
    assert!(message.contains("is missing in it"), "{message}");
}

/// What says something of the entry that follows it.
fn record(kind: EntryType, content: &[u8]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    builder.append(&header("record", 0o644, content.len() as u64, kind, ""), content).unwrap();
    let mut whole = builder.into_inner().unwrap();
    whole.truncate(whole.len() - 1_024);
    whole
}

/// One attribute, written as the format has it: with its own length before it.
fn attribute(key: &str, value: &str) -> Vec<u8> {
    let beside = key.len() + value.len() + 3;
    let mut digits = beside.to_string().len();
    digits = (beside + digits).to_string().len();
    format!("{} {key}={value}\n", beside + digits).into_bytes()
}

#[test]
fn names_and_attributes_that_fill_memory_are_refused() {
    let huge = "n".repeat(2 * limits::IMAGE_RECORDS_BYTES as usize);
    let records = [
        record(EntryType::GNULongName, huge.as_bytes()),
        record(EntryType::GNULongLink, huge.as_bytes()),
        record(EntryType::XHeader, &attribute("path", &huge)),
        record(EntryType::XHeader, &attribute("comment", &huge)),
    ];
    let after = archive(&[File("a", 0o644, b"a"), File("manifest.json", 0o644, b"[]")]);
    for record in records {
        let bytes = [record, after.clone()].concat();
        let refused = |unpacked: Unpacked| {
            let message = unpacked.refused();
            assert!(message.contains("a name or attributes in it of more than"), "{message}");
        };
        for bytes in [bytes.clone(), gzip(&bytes), zstd(&bytes)] {
            refused(Unpacked::unpack(&bytes));
        }
        for layer in [gzip(&bytes), zstd(&bytes)] {
            refused(saved(&[&layer]));
        }
    }
    // Longer than the kernel's: not the node's fault, so that no other node is tried.
    let long = "n/".repeat(2_048);
    for kind in [EntryType::GNULongName, EntryType::GNULongLink] {
        let bytes = [record(kind, long.as_bytes()), archive(&[Symlink("a", "b")])].concat();
        assert_eq!(Unpacked::unpack(&bytes).refused(), "a name in it has 4096 bytes; 4095 at most");
    }
}

#[test]
fn usual_long_names_and_large_files_are_unpacked() {
    let long = format!("{}/{}/{}", "a".repeat(100), "b".repeat(100), "c".repeat(100));
    let gnu = record(EntryType::GNULongName, format!("{long}/gnu").as_bytes());
    let link = record(EntryType::GNULongLink, format!("{long}/to").as_bytes());
    let attributes =
        [attribute("path", &format!("{long}/pax")), attribute("SCHILY.xattr.user.note", &"x".repeat(60_000))]
            .concat();
    let pax = record(EntryType::XHeader, &attributes);
    let part = |thing| {
        let mut part = archive(&[thing]);
        part.truncate(part.len() - 1_024);
        part
    };
    let whole = [
        gnu,
        part(File("short", 0o644, b"gnu")),
        link,
        part(Symlink("link", "short")),
        pax,
        part(File("short", 0o644, b"pax")),
        record(EntryType::XGlobalHeader, &attribute("comment", "of all")),
        part(Device("dev")),
        part(File("last", 0o644, b"last")),
        vec![0; 1_024],
    ]
    .concat();
    for bytes in [whole.clone(), gzip(&whole), zstd(&whole)] {
        let unpacked = Unpacked::unpack(&bytes);
        unpacked.result.as_ref().unwrap();
        assert_eq!(unpacked.read(&format!("{long}/gnu")), "gnu");
        assert_eq!(unpacked.read(&format!("{long}/pax")), "pax");
        assert_eq!(fs::read_link(unpacked.path("link")).unwrap().to_str(), Some(&*format!("{long}/to")));
        assert_eq!(unpacked.read("last"), "last");
    }
    // More than a record may have.
    let size = 2 * limits::IMAGE_RECORDS_BYTES as usize + 1;
    let content = noise(size);
    let large = archive(&[File("large", 0o644, content), File("last", 0o644, b"last")]);
    for bytes in [large.clone(), zstd(&large)] {
        let unpacked = Unpacked::within(&bytes, 2 * size as u64);
        unpacked.result.as_ref().unwrap();
        assert!(fs::read(unpacked.path("large")).unwrap() == content);
        assert_eq!(unpacked.read("last"), "last");
    }
}

/// With a hole before its four bytes.
fn sparse(path: &str, size: u64) -> Vec<u8> {
    let mut header = header(path, 0o644, 4, EntryType::GNUSparse, "");
    let hole = size - 4;
    let octal = |field: &mut [u8], value: u64| {
        if value < 1 << 33 {
            field.copy_from_slice(format!("{value:011o}\0").as_bytes());
        } else {
            field.fill(0);
            field[0] = 0x80;
            field[4..].copy_from_slice(&value.to_be_bytes());
        }
    };
    let gnu = header.as_gnu_mut().unwrap();
    octal(&mut gnu.sparse[0].offset, hole);
    octal(&mut gnu.sparse[0].numbytes, 4);
    octal(&mut gnu.realsize, size);
    header.set_cksum();
    let mut whole = header.as_bytes().to_vec();
    whole.extend_from_slice(b"data");
    whole.resize(1_024, 0);
    whole
}

#[test]
fn holes_are_files_and_are_not_read_where_they_are_skipped() {
    let after = archive(&[File("last", 0o644, b"last")]);
    let unpacked = Unpacked::unpack(&zstd(&[sparse("holes", 10_000), after.clone()].concat()));
    unpacked.result.as_ref().unwrap();
    assert_eq!(unpacked.read("last"), "last");
    let read = unpacked.read("holes");
    assert!(read.len() == 10_000 && read.ends_with("\0data"));
    // A mark of a layer, larger than could be read in a lifetime.
    let mark = sparse(".wh.gone", 1 << 62);
    let base = archive(&[File("gone", 0o644, b"gone")]);
    let unpacked = saved(&[&base, &zstd(&[mark, after].concat())]);
    unpacked.result.as_ref().unwrap();
    assert!(!unpacked.path("gone").exists());
    assert_eq!(unpacked.read("last"), "last");
}
