//! A panic anywhere is a violation: tokio would swallow one in a task.

use std::panic::PanicHookInfo;

use crate::oracle::{Oracle, Severity};

/// Reports panics from now on.
pub fn watch(oracle: Oracle) {
    std::panic::set_hook(Box::new(move |info| {
        // Should the simulator itself fail, nobody would print the trace.
        eprintln!("panic: {}", text(info));
        oracle.violate(Severity::Crash, "no panic", text(info));
    }));
}

fn text(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let message = payload.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic");
    match info.location() {
        Some(at) => format!("{message} ({}:{})", at.file(), at.line()),
        None => message.to_owned(),
    }
}
