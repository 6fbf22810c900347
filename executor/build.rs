//! Compiles the first program of containers: static, without the C library, for whatever image it is put into.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "src/sys/container_init.rs";
/// Of the compiler. The program starts once for every container, so it is small: no tables to relocate, no unwinding.
const OPTIONS: [&str; 18] = [
    "--edition=2024",
    "--crate-name=container_init",
    "--crate-type=bin",
    "-Cpanic=abort",
    "-Copt-level=s",
    "-Ccodegen-units=1",
    "-Coverflow-checks=off",
    "-Cdebug-assertions=off",
    "-Crelocation-model=static",
    "-Ctarget-feature=+crt-static",
    "-Cstrip=symbols",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-static",
    "-Clink-arg=-no-pie",
    "-Clink-arg=-Wl,--build-id=none",
    "-Clink-arg=-Wl,-z,noexecstack",
    "-Clink-arg=-Wl,-z,norelro",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-env-changed=RUSTC_LINKER");
    let given = |name: &str| env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let mut compile = Command::new(given("RUSTC"));
    compile.args(OPTIONS).arg("--target").arg(given("TARGET"));
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = OsString::from("-Clinker=");
        option.push(linker);
        compile.arg(option);
    }
    let program = PathBuf::from(given("OUT_DIR")).join("container-init");
    let done = compile.arg("-o").arg(&program).arg(SOURCE).status();
    assert!(done.is_ok_and(|status| status.success()), "{SOURCE} could not be compiled for this machine");
}
