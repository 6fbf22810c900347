//! What is found of outputs, and what is refused.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use super::*;

fn output(path: &str, optional: bool) -> OutputPath {
    OutputPath { path: path.into(), optional }
}

fn search(work: &Path, outputs: &[OutputPath], limits: OutputLimits) -> Findings {
    Search { work, outputs, limits, is_stopped: &|| false }.find()
}

fn find(work: &Path, outputs: &[OutputPath]) -> Findings {
    search(work, outputs, OutputLimits::default())
}

fn names(findings: &Findings) -> Vec<&str> {
    findings.found.iter().map(Found::path).collect()
}

fn reasons(findings: &Findings) -> Vec<(&str, &str)> {
    findings.refused.named.iter().map(|file| (file.path.as_str(), file.reason.as_str())).collect()
}

#[test]
fn folders_give_their_files_and_what_is_optional_may_be_missing() {
    let work = tempfile::tempdir().unwrap();
    fs::create_dir_all(work.path().join("model/deep/empty")).unwrap();
    for name in ["model/b", "model/deep/a", "log"] {
        fs::write(work.path().join(name), name).unwrap();
    }
    let wanted = [output("model", false), output("log", false), output("absent/x", true)];
    let found = find(work.path(), &wanted);
    assert_eq!(names(&found), ["log", "model/b", "model/deep/a"]);
    assert_eq!((found.refused, found.is_incomplete), (Refused::default(), false));
    let found = find(work.path(), &[output("log/x", false), output("log", false)]);
    assert_eq!((names(&found), reasons(&found)), (vec!["log"], vec![("log/x", "is not there")]));
    assert!(found.is_incomplete);
}

#[test]
fn what_cannot_be_kept_is_named_and_takes_nothing_with_it() {
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name);
    fs::create_dir_all(at("out")).unwrap();
    for name in ["out/a", "out/z"] {
        fs::write(at(name), name).unwrap();
    }
    symlink("/etc/passwd", at("out/absolute")).unwrap();
    symlink("../../../etc/passwd", at("out/climbs")).unwrap();
    symlink("nowhere", at("out/broken")).unwrap();
    symlink("again", at("out/again")).unwrap();
    symlink("../out", at("out/itself")).unwrap();
    symlink("/etc", at("etc")).unwrap();
    fs::write(at("out").join(OsStr::from_bytes(b"n\xffme")), "").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("out/socket")).unwrap();
    let found = find(work.path(), &[output("out", false), output("etc/passwd", true), output("etc", false)]);
    assert_eq!(names(&found), ["out/a", "out/z"]);
    let leads_out = "is a link that leads out of the work folder";
    let expected = [
        ("out/absolute", leads_out),
        ("out/again", "is a link that leads to more links than anybody follows"),
        ("out/broken", "is a link to what is not there"),
        ("out/climbs", leads_out),
        ("out/itself", "is a link to a folder that it lies in"),
        ("out/n\u{fffd}me", "its name is not UTF-8"),
        ("out/socket", "is a socket"),
        ("etc/passwd", leads_out),
        ("etc", leads_out),
    ];
    for wanted in expected {
        assert!(reasons(&found).contains(&wanted), "{wanted:?} is not among {:#?}", reasons(&found));
    }
    assert!(found.is_incomplete, "an output that is not optional leads out");
    assert!(!find(work.path(), &[output("out", false)]).is_incomplete, "the folder is there");
}

#[test]
fn links_that_stay_inside_give_what_they_lead_to() {
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name);
    fs::create_dir_all(at("steps/2")).unwrap();
    fs::write(at("steps/2/model"), "two").unwrap();
    fs::set_permissions(at("steps/2/model"), PermissionsExt::from_mode(0o700)).unwrap();
    symlink("steps/2", at("latest")).unwrap();
    symlink(at("steps/2/model"), at("here")).unwrap();
    symlink("/work/latest/model", at("inside")).unwrap();
    let wanted = ["latest", "here", "inside"].map(|path| output(path, false));
    let found = find(work.path(), &wanted);
    assert_eq!((names(&found), reasons(&found)), (vec!["here", "inside", "latest/model"], vec![]));
    for file in &found.found {
        let Found::File(file) = file else { panic!("an archive: {file:?}") };
        assert_eq!(
            (file.file.as_path(), file.size, file.executable),
            (at("steps/2/model").as_path(), 3, true)
        );
        let read = read(work.path(), &at("packed"), &file.path, 1, 10).unwrap();
        assert_eq!(read, (b"wo".to_vec(), true));
    }
}

#[test]
fn what_is_over_a_limit_is_named_and_the_rest_is_kept() {
    let work = tempfile::tempdir().unwrap();
    fs::create_dir(work.path().join("out")).unwrap();
    for (name, size) in [("a", 40), ("b", 1 << 40), ("c", 70), ("d", 50)] {
        fs::File::create(work.path().join("out").join(name)).unwrap().set_len(size).unwrap();
    }
    let limits = OutputLimits { file_bytes: 80, all_bytes: 100, ..OutputLimits::default() };
    let found = search(work.path(), &[output("out", false)], limits);
    assert_eq!(names(&found), ["out/a", "out/d"]);
    let said = reasons(&found);
    assert!(
        said[0].0 == "out/b" && said[0].1.contains("80 at most (executor.max_output_file_bytes)"),
        "{said:?}"
    );
    assert!(
        said[1].0 == "out/c" && said[1].1.contains("100 bytes at most (executor.max_output_bytes)"),
        "{said:?}"
    );
    assert!(!found.is_incomplete);
    assert!(search(work.path(), &[output("out/b", false)], limits).is_incomplete);
}

#[test]
fn many_files_of_a_folder_are_one_archive_and_too_many_are_named() {
    let work = tempfile::tempdir().unwrap();
    fs::create_dir(work.path().join("many")).unwrap();
    let more = 3;
    for n in 0..limits::PACKED_FILES + more {
        fs::write(work.path().join(format!("many/{n:05}")), "").unwrap();
    }
    fs::write(work.path().join("many.tar"), "mine").unwrap();
    let found = find(work.path(), &[output("many.tar", false), output("many", false)]);
    assert_eq!(names(&found), ["many.tar", "many.tar.tar"]);
    let Found::Packed { files, .. } = &found.found[1] else { panic!("no archive") };
    assert_eq!(files.len(), limits::PACKED_FILES - 1);
    let last = format!("many/{:05}", limits::PACKED_FILES + more - 1);
    assert!(reasons(&found).last().unwrap().0 == last, "{:?}", reasons(&found));
    assert!(reasons(&found)[0].1.contains("over the 10000 files"), "{:?}", reasons(&found));
}
