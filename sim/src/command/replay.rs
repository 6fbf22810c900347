//! One seed with everything that happened, as text or as JSON lines.

use crate::args::ReplayArgs;
use crate::command::ground::Ground;
use crate::command::{Done, child};

/// Prints the whole trace of a seed.
pub fn run(args: ReplayArgs) -> Done {
    let ground = Ground::of(&args.world)?;
    child::show(&ground, args.seed, args.only.as_ref(), args.json)
}
