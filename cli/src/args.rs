//! The command line. Every sub-command's own arguments stand in its file under `commands/`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    cancel, class, cluster, config, events, explain, image, logs, node, nodes, outputs, ps, result, run, sim,
    status, submit, wait,
};
use crate::demo;
use crate::output::Format;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    refused, or a task that was waited for did not succeed
  2    the command line, a file or a value cannot be understood
  3    no peer of the cluster could be reached
  4    the wait was over before the tasks were finished
  `stint run` exits with the task's own code, or 125 when Stint itself failed.

Examples:
  stint demo                                   a whole cluster on this machine, to look around
  stint node --bootstrap                       the first peer of a new cluster
  stint run -- echo hello                      run a task and see its output
  stint submit --class gpu -f train.toml       leave a task with the cluster
  stint explain TASK                           why it does not start";

/// A cluster scheduler of equal peers: tasks on CPUs, GPUs and Slurm, without a head node.
#[derive(Parser, Debug)]
#[command(name = "stint", version, after_help = EXIT_CODES, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command that speaks to a cluster.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection and output")]
pub struct Global {
    /// Address of a peer: unix:/path/stint.sock or https://host:7002; may be repeated, the next is tried when one
    /// does not answer [default: the socket of this machine's node]
    #[arg(
        long = "address",
        value_name = "ADDRESS",
        env = "STINT_ADDRESS",
        value_delimiter = ',',
        global = true
    )]
    pub addresses: Vec<String>,
    /// Folder with ca.pem, admin.pem and admin-key.pem, for https:// addresses
    #[arg(long, value_name = "DIR", env = "STINT_CREDENTIALS", global = true)]
    pub credentials: Option<PathBuf>,
    /// Client certificate, instead of the folder's
    #[arg(long, value_name = "FILE", env = "STINT_CERT", global = true, hide_short_help = true)]
    pub cert: Option<PathBuf>,
    /// Key of the client certificate
    #[arg(long, value_name = "FILE", env = "STINT_KEY", global = true, hide_short_help = true)]
    pub key: Option<PathBuf>,
    /// Certificate of the cluster's CA
    #[arg(long, value_name = "FILE", env = "STINT_CA", global = true, hide_short_help = true)]
    pub ca: Option<PathBuf>,
    /// Name to expect in the peer's certificate, when it is not the host of the address
    #[arg(long, value_name = "NAME", env = "STINT_SERVER_NAME", global = true, hide_short_help = true)]
    pub server_name: Option<String>,
    /// Tenant that owns the tasks [default: default]
    #[arg(long, value_name = "NAME", env = "STINT_TENANT", global = true)]
    pub tenant: Option<String>,
    /// Format of what is shown
    #[arg(long, short = 'o', value_enum, default_value_t, env = "STINT_OUTPUT", global = true)]
    pub output: Format,
}

impl Global {
    /// The tenant of commands about tasks that exist.
    pub fn tenant(&self) -> String {
        self.tenant.clone().unwrap_or_else(|| DEFAULT_TENANT.into())
    }
}

/// The tenant of whoever names none.
pub const DEFAULT_TENANT: &str = "default";

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a task, show its output, exit with its exit code
    Run(run::RunArgs),
    /// Leave a task with the cluster and print its id
    Submit(submit::SubmitArgs),
    /// List tasks
    Ps(ps::PsArgs),
    /// Show one task with its attempts
    Status(status::StatusArgs),
    /// Say why a task waits, and what would let it start
    Explain(explain::ExplainArgs),
    /// Show the output of a task
    Logs(logs::LogsArgs),
    /// Print how a task stands or ended, as one JSON document
    Result(result::ResultArgs),
    /// List or fetch the files that a task left
    Outputs(outputs::OutputsArgs),
    /// Cancel tasks
    Cancel(cancel::CancelArgs),
    /// Wait until tasks are finished
    Wait(wait::WaitArgs),
    /// List the nodes of the cluster
    Nodes(nodes::NodesArgs),
    /// Start a peer; or show, drain, cordon, resume, remove a node
    Node(node::NodeArgs),
    /// Show the cluster's status, show and change its settings, make join tokens, move the leadership
    Cluster(cluster::ClusterArgs),
    /// Show and change the rules of classes
    Class(class::ClassArgs),
    /// Register, list, show and delete images
    Image(image::ImageArgs),
    /// Export finished tasks as a workload that can be simulated
    Events(events::EventsArgs),
    /// Check a configuration file
    Config(config::ConfigArgs),
    /// Start a whole cluster on this machine, to look around
    Demo(demo::Args),
    /// Simulate whole clusters from seeds: faults, replays, what went wrong (the program stint-sim)
    Sim(sim::SimArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::commands::cluster::ClusterCommand;
    use crate::commands::node::NodeCommand;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_node_is_started_with_or_without_the_word() {
        for line in ["stint node --bootstrap", "stint node start --bootstrap"] {
            let Command::Node(args) = parse(line).unwrap().command else { panic!("{line}") };
            let start = match args.command {
                Some(NodeCommand::Start(start)) => *start,
                None => args.start,
                other => panic!("{other:?}"),
            };
            assert!(start.bootstrap, "{line}");
        }
    }

    #[test]
    fn global_options_go_before_and_after_the_command() {
        for line in
            ["stint --address /a --tenant t node drain n", "stint node drain n --address /a --tenant t"]
        {
            let cli = parse(line).unwrap();
            assert_eq!((cli.global.addresses, cli.global.tenant.as_deref()), (vec!["/a".into()], Some("t")));
        }
        let cli = parse("stint ps --address /a,https://b --address /c").unwrap();
        assert_eq!(cli.global.addresses, ["/a", "https://b", "/c"]);
    }

    #[test]
    fn a_program_keeps_its_own_flags() {
        let Command::Run(args) = parse("stint run --cpus 2 -- ls --all -o json").unwrap().command else {
            panic!()
        };
        let draft = args.task.draft(None).unwrap();
        assert_eq!(
            (draft.cpus, draft.command),
            (Some(2000), ["ls", "--all", "-o", "json"].map(Into::into).to_vec())
        );
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for line in [
            "stint node --bootstrap --join a:7001 --token t",
            "stint node --join a:7001",
            "stint logs --stdout --stderr t",
            "stint ps --all --state running",
            "stint cancel",
            "stint submit --memory 8XB -- x",
            "stint logs --attempt 0 t",
            "stint class set gpu",
            "stint class set gpu max_gpus",
            "stint class set tpu max_gpus=4",
            "stint cluster set",
            "stint image register tool",
            "stint image register tool ./tool --docker a/b:1",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_join_token_is_valid_for_an_hour_unless_said() {
        let Command::Cluster(args) = parse("stint cluster join-token").unwrap().command else { panic!() };
        let ClusterCommand::JoinToken(token) = args.command else { panic!() };
        assert_eq!(token.valid.as_secs(), 3600);
    }
}
