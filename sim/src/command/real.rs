//! stub
use crate::command::failure::Failure;
use std::path::{Path, PathBuf};
use stint_sim::Scenario;
pub fn take_over(_: &mut Scenario, _: &[PathBuf]) -> Result<(), Failure> {
    Ok(())
}
pub fn play(_: &mut Scenario, _: &Path, _: f64) -> Result<(), Failure> {
    Ok(())
}
