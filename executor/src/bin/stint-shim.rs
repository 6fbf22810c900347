//! The watchdog alone, for this crate's tests and measurements; users get it as `stint shim`.

fn main() -> std::process::ExitCode {
    stint_executor::shim::main(std::env::args_os().skip(1))
}
