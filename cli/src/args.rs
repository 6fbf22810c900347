//! The command line. Every sub-command's own arguments stand in its file under `commands/`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::OnceLock;

use clap::{ArgMatches, Args, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    cancel, class, cluster, config, events, explain, image, logs, node, nodes, outputs, ps, result, run, sim,
    status, submit, tenant, token, wait,
};
use crate::demo;
use crate::failure::{CLOSED_PIPE, RUN_FAILED, USAGE};
use crate::output::Format;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    refused, or a task that was waited for did not succeed
  2    the command line, a file or a value cannot be understood
  3    no peer of the cluster could be reached
  4    the wait was over before the tasks were finished
  141  whoever reads the output closed it, as `head` does
  `stint run` exits with the task's own code, or 125 when Stint itself failed or cannot understand what it is told.

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
    /// does not answer [default: the socket of this machine's node, its own or its group's]
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
    /// File with an access token, for https:// addresses; only its owner may be able to read it. Or one of the variables
    /// STINT_TOKEN_FILE and STINT_TOKEN
    // The variable is none of clap's: `stint node` has a flag of this name for its join token, which would get the value.
    #[arg(long, value_name = "FILE", global = true, hide_short_help = true)]
    pub token_file: Option<PathBuf>,
    /// Name to expect in the peer's certificate, when it is not the host of the address
    #[arg(long, value_name = "NAME", env = "STINT_SERVER_NAME", global = true, hide_short_help = true)]
    pub server_name: Option<String>,
    /// Tenant that owns the tasks [default: your own]
    #[arg(long, value_name = "NAME", env = "STINT_TENANT", global = true)]
    pub tenant: Option<String>,
    /// Format of what is shown
    #[arg(long, short = 'o', value_enum, default_value_t, env = "STINT_OUTPUT", global = true)]
    pub output: Format,
}

impl Global {
    /// The tenant of commands about tasks that exist; empty: the caller's own, as the peer knows it.
    pub fn tenant(&self) -> String {
        self.tenant.clone().unwrap_or_default()
    }
}

/// The arguments of the command line, once `parse` was called.
static ARGUMENTS: OnceLock<Vec<OsString>> = OnceLock::new();

/// What the command line says. When it says nothing that can be done, the user has been told what is wrong with it, or the
/// help that was asked for: the exit code. From here on only commands that the arguments name are described. Describing all
/// of them takes longer than many commands do.
pub fn parse(arguments: Vec<OsString>) -> Result<Cli, u8> {
    let arguments = ARGUMENTS.get_or_init(|| arguments);
    Cli::try_parse_from(arguments).map_err(|wrong| match wrong.print() {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => CLOSED_PIPE,
        _ if !wrong.use_stderr() => 0,
        _ if names_run(arguments) => RUN_FAILED,
        _ => USAGE,
    })
}

/// Whether a command line that cannot be understood is one of `stint run`, which keeps the low codes for the task's own.
fn names_run(arguments: &[OsString]) -> bool {
    let global = Global::augment_args(clap::Command::new("stint"));
    let takes_value = |word: &str| {
        let is_short = |short| word.strip_prefix('-') == Some(String::from(short).as_str());
        let is_long = |long| word.strip_prefix("--") == Some(long);
        global
            .get_arguments()
            .any(|arg| arg.get_long().is_some_and(is_long) || arg.get_short().is_some_and(is_short))
    };
    let mut arguments = arguments.iter().skip(1).map(|word| word.to_string_lossy());
    while let Some(word) = arguments.next() {
        if !word.starts_with('-') {
            return word == "run";
        }
        if takes_value(&word) {
            arguments.next();
        }
    }
    false
}

/// Arguments of a command: described unless the command line does not name it.
#[derive(Debug)]
pub struct IfNamed<T>(pub T);

/// Whether the command line may mean this command.
fn may_be_meant(command: &clap::Command) -> bool {
    ARGUMENTS.get().is_none_or(|arguments| arguments.iter().any(|argument| argument == command.get_name()))
}

impl<T: Args> Args for IfNamed<T> {
    fn augment_args(command: clap::Command) -> clap::Command {
        if may_be_meant(&command) { T::augment_args(command) } else { command }
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        T::augment_args_for_update(command)
    }
}

impl<T: FromArgMatches> FromArgMatches for IfNamed<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        T::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a task, show its output, exit with its exit code
    Run(IfNamed<run::RunArgs>),
    /// Leave a task with the cluster and print its id
    Submit(IfNamed<submit::SubmitArgs>),
    /// List tasks
    Ps(IfNamed<ps::PsArgs>),
    /// Show one task with its attempts
    Status(IfNamed<status::StatusArgs>),
    /// Say why a task waits, and what would let it start
    Explain(IfNamed<explain::ExplainArgs>),
    /// Show the output of a task
    Logs(IfNamed<logs::LogsArgs>),
    /// Print how a task stands or ended, as one JSON document
    Result(IfNamed<result::ResultArgs>),
    /// List or fetch the files that a task left
    Outputs(IfNamed<outputs::OutputsArgs>),
    /// Cancel tasks
    Cancel(IfNamed<cancel::CancelArgs>),
    /// Wait until tasks are finished
    Wait(IfNamed<wait::WaitArgs>),
    /// Show who you are to the cluster: tenant, role, how it was proven
    Whoami,
    /// List the nodes of the cluster
    Nodes(IfNamed<nodes::NodesArgs>),
    /// Start a peer; or show, drain, cordon, resume, remove a node
    Node(IfNamed<node::NodeArgs>),
    /// Show the cluster's status, show and change its settings, make join tokens, move the leadership
    Cluster(IfNamed<cluster::ClusterArgs>),
    /// Show and change the rules of classes
    Class(IfNamed<class::ClassArgs>),
    /// Show and change the rules of tenants: their highest priority, their weight
    Tenant(IfNamed<tenant::TenantArgs>),
    /// Make, list and revoke the tokens with which clients call
    Token(IfNamed<token::TokenArgs>),
    /// Register, list, show and delete images
    Image(IfNamed<image::ImageArgs>),
    /// Export finished tasks as a workload that can be simulated
    Events(IfNamed<events::EventsArgs>),
    /// Check a configuration file
    Config(IfNamed<config::ConfigArgs>),
    /// Start a whole cluster on this machine, to look around
    Demo(IfNamed<demo::Args>),
    /// Simulate whole clusters from seeds: faults, replays, what went wrong (the program stint-sim)
    Sim(IfNamed<sim::SimArgs>),
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
    fn a_token_file_is_of_the_client_but_where_a_node_joins() {
        let cli = parse("stint ps --token-file f").unwrap();
        assert_eq!(cli.global.token_file.as_deref(), Some(std::path::Path::new("f")));
        let Command::Node(IfNamed(args)) = parse("stint node --join a:7001 --token-file j").unwrap().command
        else {
            panic!("a node")
        };
        assert_eq!(args.start.token_file.as_deref(), Some(std::path::Path::new("j")));
    }

    #[test]
    fn a_node_is_started_with_or_without_the_word() {
        for line in ["stint node --bootstrap", "stint node start --bootstrap"] {
            let Command::Node(IfNamed(args)) = parse(line).unwrap().command else { panic!("{line}") };
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
    fn a_line_of_run_is_told_also_when_it_cannot_be_understood() {
        let names = |line: &str| {
            let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            names_run(&arguments)
        };
        for line in [
            "stint run",
            "stint run --no-such-flag -- x",
            "stint --address unix:/a -o json --tenant=t run --cpus x",
            "stint -ojson run",
            "stint --no-such-flag run -- x",
        ] {
            assert!(names(line), "{line}");
        }
        for line in [
            "stint",
            "stint submit --name run -- run",
            "stint --tenant run ps",
            "stint frobnicate run",
            "stint --tenant",
        ] {
            assert!(!names(line), "{line}");
        }
    }

    #[test]
    fn a_program_keeps_its_own_flags() {
        let Command::Run(IfNamed(args)) = parse("stint run --cpus 2 -- ls --all -o json").unwrap().command
        else {
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
            "stint node --join a:7001 --token t --token-file f",
            "stint logs --stdout --stderr t",
            "stint ps --all --state running",
            "stint cancel",
            "stint submit --memory 8XB -- x",
            "stint logs --attempt 0 t",
            "stint class set gpu",
            "stint class set gpu max_gpus",
            "stint class set tpu max_gpus=4",
            "stint cluster set",
            "stint tenant set team-7",
            "stint tenant set team-7 --max-priority 101",
            "stint tenant set team-7 --weight 0",
            "stint tenant set --weight 2",
            "stint image register tool",
            "stint image register tool ./tool --docker a/b:1",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_join_token_is_valid_for_an_hour_unless_said() {
        let Command::Cluster(IfNamed(args)) = parse("stint cluster join-token").unwrap().command else {
            panic!()
        };
        let ClusterCommand::JoinToken(token) = args.command else { panic!() };
        assert_eq!((token.ttl.as_secs(), token.uses, token.command.is_none()), (3600, None, true));
        for line in ["stint cluster join-token --uses 0", "stint cluster join-token --uses 2 ls"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
