//! One file a command. Each has its arguments and a `run`.

pub mod cancel;
pub mod class;
pub mod cluster;
pub mod config;
pub mod events;
pub mod explain;
pub mod follow;
pub mod image;
pub mod logs;
pub mod node;
pub mod node_start;
pub mod nodes;
pub mod outputs;
pub mod ps;
pub mod result;
pub mod run;
pub mod sim;
pub mod status;
pub mod submit;
pub mod tenant;
pub mod token;
pub mod wait;
pub mod waiting;
pub mod whoami;

use std::future::Future;

use stint_sdk::Client;

use crate::Done;
use crate::args::{Cli, Command, Global, IfNamed};
use crate::connect;
use crate::failure::Failure;
use crate::output::Output;

/// What a command that speaks to a cluster works with.
pub struct Context {
    pub client: Client,
    pub tenant: String,
    pub output: Output,
}

/// Runs one command to its end.
pub fn dispatch(cli: Cli) -> Done {
    let Cli { global, command } = cli;
    match command {
        Command::Run(IfNamed(args)) => with_client(&global, |context| run::run(context, args)),
        Command::Submit(IfNamed(args)) => with_client(&global, |context| submit::run(context, args)),
        Command::Ps(IfNamed(args)) => with_client(&global, |context| ps::run(context, args)),
        Command::Status(IfNamed(args)) => with_client(&global, |context| status::run(context, args)),
        Command::Explain(IfNamed(args)) => with_client(&global, |context| explain::run(context, args)),
        Command::Logs(IfNamed(args)) => with_client(&global, |context| logs::run(context, args)),
        Command::Outputs(IfNamed(args)) => with_client(&global, |context| outputs::run(context, args)),
        Command::Result(IfNamed(args)) => with_client(&global, |context| result::run(context, args)),
        Command::Cancel(IfNamed(args)) => with_client(&global, |context| cancel::run(context, args)),
        Command::Wait(IfNamed(args)) => with_client(&global, |context| wait::run(context, args)),
        Command::Whoami => with_client(&global, whoami::run),
        Command::Nodes(IfNamed(args)) => with_client(&global, |context| nodes::run(context, args)),
        Command::Node(IfNamed(args)) => node::run(&global, args),
        Command::Class(IfNamed(args)) => with_client(&global, |context| class::run(context, args)),
        Command::Tenant(IfNamed(args)) => with_client(&global, |context| tenant::run(context, args)),
        Command::Token(IfNamed(args)) => with_client(&global, |context| token::run(context, args)),
        Command::Cluster(IfNamed(args)) => cluster::run(&global, args),
        Command::Image(IfNamed(args)) => with_client(&global, |context| image::run(context, args)),
        Command::Events(IfNamed(args)) => with_client(&global, |context| events::run(context, args)),
        Command::Config(IfNamed(args)) => config::run(&Output::new(global.output), args),
        Command::Demo(IfNamed(args)) => crate::demo::run(args),
        Command::Sim(IfNamed(args)) => sim::run(&args.args),
    }
}

/// Runs a client command: one thread is enough for one conversation.
pub fn with_client<F: Future<Output = Done>>(global: &Global, command: impl FnOnce(Context) -> F) -> Done {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Start)?;
    runtime.block_on(async {
        let (tenant, output) = (global.tenant(), Output::new(global.output));
        command(Context { client: connect::client(global)?, tenant, output }).await
    })
}
