//! A terminal: who waits at one is told what a task waits for.

use crate::fake::running;
use crate::{AT_MOST, World};

/// A terminal, and what has been written on it so far.
struct Terminal {
    end: std::fs::File,
    shown: tokio::sync::mpsc::UnboundedReceiver<String>,
}

impl Terminal {
    fn open() -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let end = std::fs::OpenOptions::new().read(true).write(true).open(name).unwrap();
        let (sender, shown) = tokio::sync::mpsc::unbounded_channel();
        // It ends when the terminal is closed, or the test no longer listens.
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(read @ 1..) = rustix::io::read(&master, &mut buffer) {
                if sender.send(String::from_utf8_lossy(&buffer[..read]).into_owned()).is_err() {
                    return;
                }
            }
        });
        Self { end, shown }
    }

    async fn until(&mut self, text: &str) {
        let mut all = String::new();
        while !all.contains(text) {
            let more = tokio::time::timeout(AT_MOST, self.shown.recv()).await;
            all += &more.unwrap_or_else(|_| panic!("{text:?} was not shown: {all:?}")).unwrap();
        }
    }
}

#[tokio::test]
async fn a_terminal_is_told_what_a_task_waits_for() {
    let summary = "1 of 1 nodes can take it, all busy now; 3 waiting tasks come first";
    for args in [&["run", "--", "true"][..], &["wait", "task-0"]] {
        let world = World::with_task([running("task-0", 0)]);
        world.fake.explain.lock().unwrap().summary = summary.into();
        let mut terminal = Terminal::open();
        let mut command = world.command(args);
        let mut child = command.stderr(terminal.end.try_clone().unwrap()).spawn().unwrap();
        terminal.until(&format!("stint: task-0: {summary}")).await;
        child.kill().await.unwrap();
    }
}
