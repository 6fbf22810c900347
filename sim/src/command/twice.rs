//! One seed in two processes: what they print must be the same, byte for byte.

use crate::args::TwiceArgs;
use crate::command::child::{self, Ended, Print};
use crate::command::failure::{Failure, print};
use crate::command::run_context::RunContext;
use crate::command::{Done, exit};

/// Simulates the seed twice and compares.
pub fn run(args: TwiceArgs) -> Done {
    let context = RunContext::load(&args.world)?;
    let both = both(&context, args.seed)?;
    let [one, two] = &both;
    match difference(one, two) {
        None => {
            print(&format!("{}\ntwice the same {} bytes\n", one.verdict.message(), one.printed.len()))?;
            Ok(one.verdict.code)
        }
        Some(difference) => {
            print(&format!("{}\nNOT DETERMINISTIC {difference}\n", one.verdict.message()))?;
            eprintln!("Something in the simulated code took time, chance or an order from outside the seed.");
            Ok(exit::NOT_DETERMINISTIC)
        }
    }
}

/// Two processes side by side.
pub fn both(context: &RunContext, seed: u64) -> Result<[Ended; 2], Failure> {
    let one = || child::simulate(context, seed, None, Print::Events);
    std::thread::scope(|scope| {
        let other = scope.spawn(one);
        let mine = one()?;
        let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok([mine, other])
    })
}

/// Where two runs of a seed differ, in words.
pub fn difference(one: &Ended, two: &Ended) -> Option<String> {
    if one.printed == two.printed {
        return None;
    }
    let (one, two) = (String::from_utf8_lossy(&one.printed), String::from_utf8_lossy(&two.printed));
    let differs = one.lines().zip(two.lines()).enumerate().find(|(_, (a, b))| a != b);
    Some(match differs {
        Some((line, (a, b))) => format!("at line {}:\n  {a}\n  {b}", line + 1),
        None => "one trace is longer than the other".into(),
    })
}
