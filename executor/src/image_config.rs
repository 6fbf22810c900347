//! What an image says of how its program is run, read the same for every runtime of containers.

use std::path::{Component, Path};

use crate::limits;
use crate::shim_api::inside::WORK;

/// Signals by name, without `SIG`.
const SIGNALS: [(&str, i32); 16] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ABRT", libc::SIGABRT),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CONT", libc::SIGCONT),
    ("URG", libc::SIGURG),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGPOLL),
    ("PWR", libc::SIGPWR),
];
/// The first and the last of the signals without a meaning of their own, as the C library counts them.
const REAL_TIME: (i32, i32) = (34, 64);
/// What every container has there anyway, or must not lose.
const TAKEN: [&str; 5] = [WORK, "/tmp", "/proc", "/sys", "/dev"];

/// The number of a signal as images name it: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`. None: there is none of that name.
pub fn signal_number(text: &str) -> Option<i32> {
    let (first, last) = REAL_TIME;
    let text = text.trim();
    if let Ok(number) = text.parse::<i32>() {
        return (1..=last).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |from: i32, rest: &str, sign: i32| {
        let offset = if rest.is_empty() { Some(0) } else { rest.get(1..)?.parse::<i32>().ok() };
        Some(from + sign * offset?).filter(|number| (first..=last).contains(number))
    };
    match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) if rest.is_empty() || rest.starts_with('+') => real_time(first, rest, 1),
        (_, Some(rest)) if rest.is_empty() || rest.starts_with('-') => real_time(last, rest, -1),
        _ => SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number),
    }
}

/// Folders of an image that get a place of their own to be written in: whole paths, each once, outermost first. Not what is
/// writable already, and nothing that would hide the whole image.
pub fn volumes<'a>(named: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let plain = |path: &&String| {
        let mut parts = Path::new(path.as_str()).components();
        let rooted = parts.next() == Some(Component::RootDir);
        rooted && parts.clone().count() > 0 && parts.all(|part| matches!(part, Component::Normal(_)))
    };
    let free = |path: &String| !TAKEN.iter().any(|taken| Path::new(path).starts_with(taken));
    // Its parts put together anew: without what stands twice in it or at its end.
    let whole = |path: &String| Path::new(path.as_str()).components().collect::<std::path::PathBuf>();
    let named = named.into_iter().filter(plain).map(|path| whole(path).display().to_string());
    let mut found: Vec<String> = named.filter(free).collect();
    found.sort();
    found.dedup();
    found.truncate(limits::VOLUMES);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_images_name_them() {
        for (text, number) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            (" 15 ", Some(15)),
            ("SIGQUIT", Some(3)),
            ("SIGWINCH", Some(28)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMIN", Some(34)),
            ("SIGRTMAX-1", Some(63)),
            ("SIGRTMIN+99", None),
            ("SIGRTMIN3", None),
            ("0", None),
            ("65", None),
            ("-9", None),
            ("SIGNOPE", None),
            ("", None),
        ] {
            assert_eq!(signal_number(text), number, "{text:?}");
        }
    }

    #[test]
    fn volumes_are_whole_paths_that_hide_nothing_that_is_needed() {
        let named = [
            "/data/",
            "/data",
            "/var//lib/x",
            "/",
            "data",
            "/a/../b",
            "/work",
            "/work/x",
            "/tmp/y",
            "/dev/z",
        ];
        let named = named.map(str::to_owned);
        assert_eq!(volumes(&named), ["/data", "/var/lib/x"]);
        let many: Vec<String> = (0..100).map(|number| format!("/v{number}")).collect();
        assert_eq!(volumes(&many).len(), limits::VOLUMES);
    }
}
