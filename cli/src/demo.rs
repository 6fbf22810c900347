//! `stint demo`: three peers on loopback, real work, a leader killed in the middle, and the proof that nothing
//! was lost or done twice.

mod marks;
mod peers;
mod show;
mod story;

use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use crate::Done;
use crate::failure::Failure;

/// What `stint demo` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Stop the cluster at the end instead of leaving it running until Ctrl-C
    #[arg(long)]
    exit: bool,
    /// Where the cluster lives; kept afterwards [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Tasks of the first wave
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(6..=2000))]
    tasks: u32,
}

/// Tells the story, then stays until it is stopped.
pub fn run(args: Args) -> Done {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Start)?;
    runtime.block_on(async {
        let mut ended = signal(SignalKind::terminate()).map_err(Failure::Start)?;
        tokio::select! {
            done = tell(args) => done,
            interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| 0).map_err(Failure::Start),
            _ = ended.recv() => Ok(0),
        }
        // The peers end with this future: each is killed and its folder removed when dropped.
    })
}

async fn tell(args: Args) -> Done {
    let temporary = match &args.data_dir {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("stint-demo-").tempdir().map_err(Failure::Start)?),
    };
    let root = match (&args.data_dir, &temporary) {
        // The peers name it in their files, where paths are absolute.
        (Some(dir), _) => std::path::absolute(dir).map_err(Failure::Start)?,
        (None, Some(dir)) => dir.path().to_path_buf(),
        (None, None) => return Err(Failure::Failed("no folder for the demo".into())),
    };
    let mut cluster = peers::Cluster::start(&root).await?;
    let code = story::play(&mut cluster, args.tasks).await?;
    show::what_next(&cluster)?;
    if !args.exit {
        show::line("The cluster runs until you press Ctrl-C.")?;
        std::future::pending::<()>().await;
    }
    cluster.stop().await;
    drop(temporary);
    Ok(code)
}
