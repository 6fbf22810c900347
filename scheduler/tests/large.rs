//! A large state as a snapshot: neither writing nor reading it takes memory for the bytes of the whole.
#![allow(clippy::unwrap_used)]

use std::io::{BufWriter, Write};

use stint_protocol::*;
use stint_scheduler::*;

/// Tasks of a submit, and submits: 200,000 tasks, of which half are finished.
const COUNT: u32 = 10_000;
const SUBMITS: u128 = 20;
/// The longest text in it: a variable of each spec.
const TEXT_BYTES: usize = 10_000;
/// More memory than the state itself that may be used: some pieces, and what an allocator keeps.
const MORE_KIB: u64 = 6 * 1024;

fn large() -> State {
    let mut state = State::default();
    let mut run = |command| apply(&mut state, StampedCommand { now: TimeMs(1_000), command }).unwrap();
    run(Command::Configure(Settings::default()));
    for number in 1..=SUBMITS {
        let class = Class::CpuShort;
        let mut spec = TaskSpec::new(class, vec!["/bin/true".into(), number.to_string()]);
        spec.env.insert("TEXT".into(), "x".repeat(TEXT_BYTES));
        let spec = SharedSpec::new(spec.resolve(&ClassRules::default_for(class)).unwrap());
        let (tenant, first) = (Tenant::new("a-tenant-of-many-tasks").unwrap(), TaskId(number << 16));
        let name = Some(TaskName::new(&format!("a-task-with-quite-a-long-name-{number}")).unwrap());
        let (count, key, key_made_ms) = (COUNT, None, None);
        run(Command::Submit(Submit { tenant, first, count, name, spec, key, digest: 0, key_made_ms }));
        for task in 0..u128::from(COUNT / 2) {
            run(Command::Cancel(TaskId((number << 16) + task)));
        }
    }
    state
}

/// Counts the bytes and the most of one call, and keeps none.
#[derive(Default)]
struct Counted {
    all: u64,
    most: usize,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.all += bytes.len() as u64;
        self.most = self.most.max(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A line of what the kernel says of this process, in KiB.
fn kib(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let found = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
    found.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// What `act` gives, and how far memory went beyond what is used before and after it, whichever is more, in KiB.
fn peak<T>(act: impl FnOnce() -> T) -> (T, u64) {
    // The peak begins anew.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = kib("VmRSS");
    let made = act();
    let (peak, after) = (kib("VmHWM"), kib("VmRSS"));
    (made, peak.saturating_sub(before.max(after)))
}

/// A state that is written at one end of a pipe and read at the other: no more of it than fits into the pipe is on the way.
fn through_a_pipe(state: &State) -> State {
    let (from, to) = std::io::pipe().unwrap();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut to = BufWriter::new(to);
            write_snapshot(state, &mut to).unwrap();
            to.flush().unwrap();
        });
        read_snapshot(from).unwrap()
    })
}

#[test]
fn a_large_state_is_written_and_read_without_memory_for_its_bytes() {
    let state = large();
    assert_eq!((state.waiting(), state.finished_total()), (100_000, 100_000));
    let (Counted { all, most }, more) = peak(|| {
        let mut counted = Counted::default();
        write_snapshot(&state, &mut counted).unwrap();
        counted
    });
    assert!(all > 3 * MORE_KIB * 1024, "{all} bytes show nothing");
    assert!(most <= TEXT_BYTES, "{most} bytes were gathered: the longest text has {TEXT_BYTES}");
    assert!(more < MORE_KIB, "writing {all} bytes took {more} KiB");

    let (read, more) = peak(|| through_a_pipe(&state));
    assert!(more < MORE_KIB, "reading {all} bytes took {more} KiB");
    assert!(same(&state, &read));
}
