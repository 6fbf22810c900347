//! `stint node` and `stint node start`: runs one peer until it is told to stop.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use stint_node::config::{Config, ConfigError, Overrides};
use stint_node::{Ready, StartMode};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::Done;
use crate::connect::environment;
use crate::failure::Failure;
use crate::join_token;
use crate::key_flags::KeyFlags;
use crate::logs::{self, Level};
use crate::output::{print_text, talk};
use crate::text::Text;

pub const EXAMPLES: &str = "\
Every key of the configuration has a variable (STINT_EXECUTOR_MEMORY) and can be set with --set; a flag wins over a
variable, a variable over the file. Logs go to stderr; log.filter (STINT_LOG) filters them: info,stint::task=debug tells
what becomes of each task.

Examples:
  stint node --bootstrap                                         the first peer of a new cluster
  stint node --join 10.0.0.1:7001 --token-file token             one more peer; `stint cluster join-token` makes tokens
  stint node --config /etc/stint/stint.toml                      a peer that was started before
  stint node --config stint.toml --print-config                  every effective value and its origin
  stint node drain NAME";

/// How long a peer that has stopped waits for threads that are still in a call to the system.
const BLOCKED_THREADS: Duration = Duration::from_secs(1);

#[derive(Args, Debug)]
#[command(next_help_heading = "Start")]
pub struct StartArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "STINT_CONFIG")]
    pub config: Option<PathBuf>,
    /// Make a new cluster with this peer as its first
    #[arg(long, conflicts_with = "join")]
    pub bootstrap: bool,
    /// Name of the new cluster
    #[arg(long, value_name = "NAME", requires = "bootstrap")]
    pub cluster_name: Option<String>,
    /// Join the cluster of this peer (host:7001); may be repeated
    #[arg(long, value_name = "ADDRESS")]
    pub join: Vec<String>,
    /// File with the join token, which `stint cluster join-token` makes on a member; only its owner may be able to read it
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The join token itself, for all users of the machine to see: prefer --token-file, or the variable
    /// [env: STINT_JOIN_TOKEN]
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    pub token: Option<String>,
    /// Print the effective configuration and exit
    #[arg(long)]
    pub print_config: bool,
    #[command(flatten)]
    pub keys: KeyFlags,
    /// Any key of the configuration: --set executor.memory=8GiB; may be repeated
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Configuration")]
    pub set: Vec<String>,
}

impl StartArgs {
    /// The effective configuration.
    pub fn config(&self) -> Result<Config, Failure> {
        let mut overrides = Overrides::default();
        for pair in &self.set {
            let wrong = || Failure::Usage(format!("--set {pair}: write KEY=VALUE, as executor.memory=8GiB"));
            let (key, value) = pair.split_once('=').ok_or_else(wrong)?;
            overrides.set(key, "--set", value);
        }
        self.keys.0.iter().for_each(|flag| overrides.set(&flag.key, &flag.name, &flag.value));
        if let Some(name) = &self.cluster_name {
            overrides.set("cluster.name", "--cluster-name", name);
        }
        Ok(Config::load(self.config.as_deref(), &environment(), &overrides)?)
    }

    fn mode(&self) -> Result<StartMode, Failure> {
        if self.bootstrap {
            return Ok(StartMode::Bootstrap);
        }
        if self.join.is_empty() {
            return Ok(StartMode::Resume);
        }
        Ok(StartMode::Join { addresses: self.join.clone(), token: self.join_token()? })
    }

    fn join_token(&self) -> Result<String, Failure> {
        if let Some(path) = &self.token_file {
            return join_token::of_file(path, "stint cluster join-token");
        }
        let variable = std::env::var(join_token::VARIABLE);
        let said = self.token.clone().or(variable.ok()).filter(|token| !token.is_empty());
        said.ok_or_else(|| {
            let advice = "`stint cluster join-token` on a member makes a token";
            Failure::Usage(format!(
                "--join needs --token-file FILE or the variable {}: {advice}",
                join_token::VARIABLE
            ))
        })
    }
}

pub fn run(args: StartArgs) -> Done {
    let config = args.config()?;
    if args.print_config {
        print_text(config.to_toml().lines().collect::<Text>(), false)?;
        return Ok(0);
    }
    let unusable = config.check_files();
    if !unusable.is_empty() {
        return Err(ConfigError::Invalid(unusable).into());
    }
    let mode = args.mode()?;
    logs::start(&config.log)?;
    for problem in config.check() {
        logs::write(Level::Warn, &format!("warning: {problem}"));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.node.threads)
        .enable_all()
        .build()
        .map_err(Failure::Start)?;
    let end = runtime.block_on(serve(config, mode));
    // Not for ever: a thread that reads or writes a disk which does not answer would keep the process.
    runtime.shutdown_timeout(BLOCKED_THREADS);
    end
}

async fn serve(config: Config, mode: StartMode) -> Done {
    let (stop, stopped) = watch::channel(false);
    let (ready, is_ready) = oneshot::channel();
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Start)?;
    tokio::spawn(async move {
        if let Ok(ready) = is_ready.await {
            tell(&ready);
        }
    });
    let mut serving = std::pin::pin!(stint_node::serve(config, mode, Some(ready), stopped));
    tokio::select! {
        end = &mut serving => return Ok(end.map(|()| 0)?),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    talk("stopping; a second signal stops at once");
    let _ = stop.send(true);
    tokio::select! {
        end = serving => Ok(end.map(|()| 0)?),
        _ = terminate.recv() => Err(Failure::Failed("stopped by a second signal".into())),
        _ = interrupt.recv() => Err(Failure::Failed("stopped by a second signal".into())),
    }
}

fn tell(ready: &Ready) {
    talk(&format!("node {} is ready on unix:{}", ready.node_id, ready.socket.display()));
    if let Some(api) = ready.api {
        let credentials = ready.credentials.display();
        talk(&format!("gRPC over TLS on https://{api}; credentials in {credentials}"));
    }
    if let Some(http) = ready.http {
        talk(&format!("health and metrics on http://{http}"));
    }
}
