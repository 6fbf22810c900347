//! Commands: each has its number for ever, is stored in every layout it ever had, and is read from all of them.

use stint_scheduler::*;

use crate::samples::{earlier, samples};
use crate::stored::{Stored, assert_reads};

/// Every command there ever was, by number. A number stays with its command; one that is no longer used moves to
/// `RETIRED` and its file stays.
const COMMANDS: &[(u32, &str)] = &[
    (0, "configure"),
    (1, "submit"),
    (2, "cancel"),
    (3, "register-node"),
    (4, "record-ends"),
    (5, "commit-plan"),
    (6, "expire-leases"),
    (7, "set-node-mode"),
    (8, "remove-node"),
    (9, "admit"),
    (10, "add-join-token"),
    (11, "tick"),
    (12, "set-node-address"),
    (13, "announce"),
    (14, "raise-version"),
    (15, "register-image"),
    (16, "delete-image"),
    (17, "keep-blob"),
    (18, "forget-blob"),
    (19, "hold-blobs"),
    (20, "lose-blobs"),
    (21, "drop-blobs"),
    (22, "suspend"),
    (23, "wake"),
    (24, "update-settings"),
    (25, "remove-join-token"),
    (26, "add-access-token"),
    (27, "remove-access-token"),
    (28, "rotate-authority"),
    (29, "trust-authority"),
    (30, "certify-node"),
    (31, "drop-old-authority"),
    (32, "instance"),
];
const RETIRED: &[(u32, &str)] = &[];
/// Commands that got fields since they were stored first, with the layout that is written today; files of the earlier
/// layouts stay, and are read.
const LAYOUTS: &[(u32, u32)] = &[(1, 5), (3, 4), (4, 4), (9, 2), (10, 5)];

/// Without a wildcard, so that a new command does not compile until it stands here; then it is missing in `COMMANDS`
/// and in `samples`.
fn name_of(command: &Command) -> &'static str {
    match command {
        Command::Configure(_) => "configure",
        Command::Submit(_) => "submit",
        Command::Cancel(_) => "cancel",
        Command::RegisterNode(_) => "register-node",
        Command::RecordEnds { .. } => "record-ends",
        Command::CommitPlan(_) => "commit-plan",
        Command::ExpireLeases(_) => "expire-leases",
        Command::SetNodeMode { .. } => "set-node-mode",
        Command::RemoveNode(_) => "remove-node",
        Command::Admit(_) => "admit",
        Command::AddJoinToken { .. } => "add-join-token",
        Command::Tick => "tick",
        Command::SetNodeAddress { .. } => "set-node-address",
        Command::SetNodeVersion { .. } => "announce",
        Command::RaiseVersion { .. } => "raise-version",
        Command::RegisterImage(_) => "register-image",
        Command::DeleteImage { .. } => "delete-image",
        Command::KeepBlob(_) => "keep-blob",
        Command::ForgetBlob { .. } => "forget-blob",
        Command::HoldBlobs { .. } => "hold-blobs",
        Command::LoseBlobs { .. } => "lose-blobs",
        Command::DropBlobs { .. } => "drop-blobs",
        Command::Suspend { .. } => "suspend",
        Command::Wake(_) => "wake",
        Command::UpdateSettings(_) => "update-settings",
        Command::RemoveJoinToken { .. } => "remove-join-token",
        Command::AddAccessToken(_) => "add-access-token",
        Command::RemoveAccessToken { .. } => "remove-access-token",
        Command::RotateAuthority(_) => "rotate-authority",
        Command::TrustAuthority(_) => "trust-authority",
        Command::CertifyNode { .. } => "certify-node",
        Command::DropOldAuthority { .. } => "drop-old-authority",
        Command::Instance(_) => "instance",
    }
}

/// The number under which a command is written.
pub fn number_of(command: &Command) -> u32 {
    let bytes = minicbor::to_vec(command).unwrap();
    let mut decoder = minicbor::Decoder::new(&bytes);
    assert_eq!(decoder.array().unwrap(), Some(2), "a command is its number and its fields");
    decoder.u32().unwrap()
}

fn file_of(number: u32, name: &str) -> String {
    match LAYOUTS.iter().find(|(of, _)| *of == number) {
        Some((_, layout)) => format!("command-{number}-{name}-{layout}.cbor"),
        None => format!("command-{number}-{name}.cbor"),
    }
}

#[test]
fn commands_keep_their_numbers() {
    let found: Vec<(u32, &str)> = samples().iter().map(|c| (number_of(c), name_of(c))).collect();
    assert_eq!(found, COMMANDS, "a command's number is never changed, nor given to another command");
    let mut numbers: Vec<u32> = COMMANDS.iter().chain(RETIRED).map(|(number, _)| *number).collect();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), COMMANDS.len() + RETIRED.len(), "two commands have one number");
}

#[test]
fn commands_are_read_and_written_as_they_were_stored() {
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    for command in samples() {
        folder.check(&file_of(number_of(&command), name_of(&command)), &command);
    }
}

#[test]
fn what_earlier_versions_stored_is_read() {
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    for (file, command) in earlier() {
        assert_reads(file, &folder.bytes(file, || panic!("{file} is missing")), &command);
    }
}

#[test]
fn every_command_is_stored_and_every_file_is_known() {
    let folder = Stored::of_crate(env!("CARGO_MANIFEST_DIR"));
    let mut expected: Vec<String> =
        COMMANDS.iter().chain(RETIRED).map(|(number, name)| file_of(*number, name)).collect();
    expected.extend(earlier().iter().map(|(file, _)| file.to_string()));
    expected.extend([
        "snapshot-1.cbor".into(),
        "snapshot-2.cbor".into(),
        "snapshot-3.cbor".into(),
        "snapshot-4.cbor".into(),
        "snapshot-5.cbor".into(),
        "comment-snapshot.cbor".into(),
        "snapshot-6.cbor".into(),
        "tokens-snapshot.cbor".into(),
        "access-snapshot.cbor".into(),
        "authority-snapshot.cbor".into(),
        "uids-snapshot.cbor".into(),
        "uids-update-settings.cbor".into(),
        "rules-register-node.cbor".into(),
        "tenants-register-node.cbor".into(),
        "run-as-register-node.cbor".into(),
        "run-as-submit.cbor".into(),
        "tenants-snapshot.cbor".into(),
        "tenants-update-settings.cbor".into(),
        "mounts-submit.cbor".into(),
        "mounts-register-node.cbor".into(),
        "outputs-submit.cbor".into(),
        "outputs-record-ends.cbor".into(),
        "endings-submit-logs.cbor".into(),
        "endings-submit-record.cbor".into(),
        "endings-record-ends.cbor".into(),
        "endings-snapshot.cbor".into(),
        "attempts-snapshot.cbor".into(),
        "tenant-images-update-settings.cbor".into(),
        "tenant-images-snapshot.cbor".into(),
    ]);
    expected.extend(crate::instances::files());
    expected.sort();
    assert_eq!(folder.names(), expected);
}
