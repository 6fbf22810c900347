//! As whom programs run: the user who submitted the task, where it says so and the operator lets it; else the user that the
//! operator named, else the one of the task's tenant.

mod look_ups;

use std::io;
use std::process::Output;
use std::sync::{LazyLock, OnceLock};

use stint_protocol::limits::{NOBODY, TENANT_UID_BOUNDS, TENANT_UIDS};
use tokio::process::Command;

use crate::host::{Launch, LocalUser};
use crate::refusal::Refusal;
use crate::shim_api::request::ResolvedMount;
use crate::{limits, sys};

use look_ups::LookUps;

/// User and group in numbers.
pub type UserAndGroup = (u32, u32);

/// User and group of an attempt's program, where the node may change them. `configured`: the operator's, for all tenants.
pub fn user_for(configured: Option<UserAndGroup>, launch: &Launch) -> UserAndGroup {
    if let Some(user) = &launch.run_as {
        return user.ids;
    }
    // Whatever a leader says, no tenant is a user of the system.
    let own = launch.tenant_uid.filter(|uid| *uid >= TENANT_UID_BOUNDS.0 && is_mapped(*uid));
    let own = own.map(|uid| (uid, uid));
    configured.or(own).unwrap_or((NOBODY, NOBODY))
}

/// Further groups of an attempt's program.
pub fn groups_for(launch: &Launch) -> Vec<u32> {
    launch.run_as.as_ref().map_or_else(Vec::new, |user| user.groups.clone())
}

/// The name of the user of an attempt's program.
pub fn name_for(launch: &Launch) -> String {
    launch.run_as.as_ref().map_or_else(|| launch.tenant.to_string(), |user| user.name.clone())
}

/// The home of its user, when it is among what an attempt sees.
pub fn home_among(mounts: &[ResolvedMount], launch: &Launch) -> Option<String> {
    let home = &launch.run_as.as_ref()?.home;
    let is_there = mounts.iter().any(|mount| mount.folder && home.starts_with(&mount.target));
    is_there.then(|| home.display().to_string())
}

/// Looks at files as a user who runs tasks, or as this node.
pub fn as_whom<T: Send>(
    user: Option<&LocalUser>,
    look: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    match user {
        Some(user) => sys::as_user(user.ids, &user.groups, look),
        None => look(),
    }
}

/// Its user must reach the file or folder of this host that an attempt runs.
pub fn check_image(launch: &Launch) -> Result<(), Refusal> {
    let (Some(user), Some(image)) = (&launch.run_as, &launch.spec.image) else { return Ok(()) };
    if !image.starts_with('/') {
        return Ok(());
    }
    let reached = as_whom(Some(user), || std::fs::metadata(std::fs::canonicalize(image)?));
    let message = || format!("the image {image} is not there on this node, or not for user {}", user.name);
    reached.map(drop).map_err(|_| Refusal::files_missing(message()))
}

/// A user as this machine knows it now: name, groups and home are this machine's to say, and nobody is root.
pub async fn look_up(uid: u32) -> Result<LocalUser, Refusal> {
    static LOOK_UPS: LazyLock<LookUps<Result<LocalUser, Refusal>>> = LazyLock::new(LookUps::new);
    let found = LOOK_UPS.ask(uid, || look(uid)).await;
    found.unwrap_or_else(|| Err(not_said(uid, "it does not answer")))
}

fn not_said(uid: u32, why: impl std::fmt::Display) -> Refusal {
    Refusal::start_failed(format!("this machine's directory of users does not say who user {uid} is: {why}"))
}

async fn look(uid: u32) -> Result<LocalUser, Refusal> {
    let failed = |e: io::Error| not_said(uid, e);
    let known = entry_of(uid).await.map_err(failed)?;
    // Another node may know the user.
    let unknown = || Refusal::denied(format!("user {uid}, who submitted it, is not known on this node"));
    let mut user = known.ok_or_else(unknown)?;
    let (own, group) = user.ids;
    if own == 0 || group == 0 || own == NOBODY || !is_mapped(own) {
        return Err(Refusal::denied(format!("this node runs nothing as user {uid} with group {group}")));
    }
    let mut groups = groups_of(&user.name).await.map_err(failed)?;
    // Root's opens what root alone should.
    groups.retain(|other| *other != 0 && *other != group);
    if groups.len() > limits::GROUPS {
        return Err(Refusal::denied(format!("user {uid} has more than {} groups", limits::GROUPS)));
    }
    user.groups = groups;
    Ok(user)
}

/// First in the machine's own file, then in whatever else it asks.
async fn entry_of(uid: u32) -> io::Result<Option<LocalUser>> {
    let own = tokio::fs::read("/etc/passwd").await.unwrap_or_default();
    if let Some(user) = in_passwd(&String::from_utf8_lossy(&own), uid) {
        return Ok(Some(user));
    }
    match ask("getent", &["passwd", &uid.to_string()]).await {
        // 2: it has no such user. Others: it could not be asked.
        Ok(answer) if matches!(answer.status.code(), Some(0 | 2)) => {
            Ok(in_passwd(&String::from_utf8_lossy(&answer.stdout), uid))
        }
        Ok(answer) => Err(failure(&answer)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// All groups, as a login gets them.
async fn groups_of(name: &str) -> io::Result<Vec<u32>> {
    let answer = ask("id", &["-G", "--", name]).await?;
    if !answer.status.success() {
        return Err(failure(&answer));
    }
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    text.split_whitespace().map(|word| word.parse().map_err(|_| io::ErrorKind::InvalidData.into())).collect()
}

fn failure(answer: &Output) -> io::Error {
    let said = String::from_utf8_lossy(&answer.stderr);
    io::Error::other(format!("{} {}", answer.status, said.trim()))
}

/// By a program of the machine's: the C library would wait for its directory within this process, without an end.
async fn ask(program: &str, args: &[&str]) -> io::Result<Output> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut command = Command::new(program);
    command.args(args).env_clear().env("PATH", path).kill_on_drop(true).output().await
}

/// From lines `NAME:PASSWORD:UID:GID:COMMENT:HOME:SHELL`.
fn in_passwd(text: &str, uid: u32) -> Option<LocalUser> {
    let user = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, user, group, _, home, ..] = fields[..] else { return None };
        let ids = (user.parse().ok()?, group.parse().ok()?);
        Some(LocalUser { name: name.into(), ids, groups: Vec::new(), home: home.into() })
    };
    text.lines().filter_map(user).find(|known| known.ids.0 == uid && !known.name.is_empty())
}

/// Whether this node can have programs of the users that tenants are given at first.
pub fn are_mapped() -> bool {
    let (first, last) = TENANT_UIDS;
    is_mapped(first) && is_mapped(last)
}

/// Whether this node can have programs of this user and its group. In a container with users of its own there may be few: there
/// all tenants are nobody, as they were before each had a user.
fn is_mapped(uid: u32) -> bool {
    static MAPS: OnceLock<[Vec<Mapped>; 2]> = OnceLock::new();
    let maps = MAPS.get_or_init(|| ["/proc/self/uid_map", "/proc/self/gid_map"].map(mapped_in));
    maps.iter().all(|map| has(map, uid))
}

/// So many numbers from the first one on.
type Mapped = (u64, u64);

fn mapped_in(file: &str) -> Vec<Mapped> {
    // A kernel without the file has no other users than its own.
    std::fs::read_to_string(file).map_or_else(|_| vec![(0, u64::from(u32::MAX))], |text| mapped(&text))
}

/// Lines `FIRST-INSIDE FIRST-OUTSIDE COUNT`.
fn mapped(text: &str) -> Vec<Mapped> {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(|word| word.parse().ok());
        Some((numbers.next()??, numbers.nth(1)??))
    };
    text.lines().filter_map(line).collect()
}

fn has(map: &[Mapped], uid: u32) -> bool {
    map.iter().any(|(first, count)| (*first..first.saturating_add(*count)).contains(&u64::from(uid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_number_and_what_is_no_entry_is_passed_over() {
        let text = "root:x:0:0:root:/root:/bin/sh\nbroken:x:1000\n:x:1000:7::/:\nalice:x:1000:100:A:/home/alice:/bin/sh\n\
                    +::::::\nlate:x:1000:0::/:/bin/sh\n";
        let found = in_passwd(text, 1000).unwrap();
        assert_eq!(
            (found.name.as_str(), found.ids, found.home),
            ("alice", (1000, 100), "/home/alice".into())
        );
        assert_eq!(in_passwd(text, 1001), None);
    }

    #[tokio::test]
    async fn nothing_runs_as_root_or_as_nobody_or_as_who_is_not_known() {
        for (uid, said) in [(0, "runs nothing as user 0"), (4_000_000_001, "is not known on this node")] {
            let Refusal { kind, message } = look_up(uid).await.unwrap_err();
            assert!(kind == stint_protocol::EndKind::Denied && message.contains(said), "{message}");
        }
        assert_eq!(look_up(NOBODY).await.unwrap_err().kind, stint_protocol::EndKind::Denied);
    }

    #[test]
    fn a_container_may_have_no_users_for_tenants() {
        let whole = mapped("         0          0 4294967295\n");
        assert!(has(&whole, 0) && has(&whole, 200_000));
        let few = mapped("         0     100000      65536\n     70000     300000          2\n");
        assert!(has(&few, 65_535) && has(&few, 70_001));
        assert!(!has(&few, 65_536) && !has(&few, 70_002) && !has(&few, 200_000));
    }
}
