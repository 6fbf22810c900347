//! As whom programs run: the user that the operator named, else the one of the task's tenant.

use std::sync::OnceLock;

use stint_protocol::limits::{NOBODY, TENANT_UID_BOUNDS, TENANT_UIDS};

use crate::host::Launch;

/// User and group in numbers.
pub type UserAndGroup = (u32, u32);

/// User and group of an attempt's program, where the node may change them. `configured`: the operator's, for all tenants.
pub fn user_for(configured: Option<UserAndGroup>, launch: &Launch) -> UserAndGroup {
    // Whatever a leader says, no tenant is a user of the system.
    let own = launch.tenant_uid.filter(|uid| *uid >= TENANT_UID_BOUNDS.0 && is_mapped(*uid));
    let own = own.map(|uid| (uid, uid));
    configured.or(own).unwrap_or((NOBODY, NOBODY))
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
    fn a_container_may_have_no_users_for_tenants() {
        let whole = mapped("         0          0 4294967295\n");
        assert!(has(&whole, 0) && has(&whole, 200_000));
        let few = mapped("         0     100000      65536\n     70000     300000          2\n");
        assert!(has(&few, 65_535) && has(&few, 70_001));
        assert!(!has(&few, 65_536) && !has(&few, 70_002) && !has(&few, 200_000));
    }
}
