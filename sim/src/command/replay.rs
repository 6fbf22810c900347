//! One seed with everything that happened, as text or as JSON lines.

use crate::args::ReplayArgs;
use crate::command::run_context::RunContext;
use crate::command::{Done, child};

/// Prints the whole trace of a seed.
pub fn run(args: ReplayArgs) -> Done {
    let context = RunContext::load(&args.world)?;
    child::show(&context, args.seed, args.only.as_ref(), args.json)
}
