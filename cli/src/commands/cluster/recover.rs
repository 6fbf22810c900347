//! `stint cluster recover`: a new cluster of what one stopped peer has.

use std::path::PathBuf;

use clap::Args;
use stint_node::recovery::Survivor;
use stint_sdk::api::ClusterRecovered;
use stint_sdk::units;

use crate::Done;
use crate::output::{Format, Output, talk, talk_lines};
use crate::table::Table;

const EXAMPLES: &str = "\
Run it on the survivor that has the highest `last entry`; each shows it without --yes. Peers that are left out are
refused from then on, also when they come back.

Examples:
  stint cluster recover --data-dir /var/lib/stint         what would be adopted; changes nothing
  stint cluster recover --data-dir /var/lib/stint --yes   do it";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct RecoverArgs {
    /// Data folder of the survivor, whose peer is stopped
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Do it; without this it is only shown
    #[arg(long)]
    pub yes: bool,
}

pub fn run(output: &Output, args: RecoverArgs) -> Done {
    let survivor = Survivor::read(&args.data_dir)?;
    let document = if args.yes { survivor.recover()? } else { survivor.preview() };
    output.show(&document, document.cluster_id.clone(), || text(&document))?;
    if !args.yes {
        talk(
            "nothing was changed: --yes does it. Be sure first that the peers that are left out are stopped for good",
        );
    } else if output.format == Format::Table {
        talk_lines(&advice(&document));
    }
    Ok(0)
}

fn text(recovered: &ClusterRecovered) -> Table {
    let mut facts = Table::pairs();
    let cluster = match &recovered.cluster_id {
        Some(id) => format!("{}, recovered as {id}", recovered.cluster),
        None => format!("{}, not recovered yet", recovered.cluster),
    };
    facts
        .pair("cluster", cluster)
        .pair("survivor", format!("node {}", recovered.node_id))
        .pair("left out", recovered.left_out.join(", "))
        .pair("last entry", format!("{}, all of it is adopted", recovered.last_index))
        .pair("uncertain", uncertain(recovered))
        .pair(
            "tasks",
            format!(
                "{} queued, {} running, {} suspended, {} finished",
                recovered.queued, recovered.running, recovered.suspended, recovered.finished
            ),
        )
        .pair(
            "first start",
            format!("waits {}, for leases of before", units::show_duration(recovered.waits_ms)),
        );
    facts
}

fn uncertain(recovered: &ClusterRecovered) -> String {
    match recovered.uncertain {
        0 => "none: all entries are known to be committed".into(),
        1 => "1 entry, of which nobody can say whether it was committed".into(),
        more => format!("{more} entries, of which nobody can say whether they were committed"),
    }
}

fn advice(recovered: &ClusterRecovered) -> [String; 4] {
    let (dir, log) = (&recovered.data_dir, &recovered.old_log);
    let users = match recovered.new_authority {
        true => {
            format!("the administrator's new certificate is in {dir}/credentials; no other is good any more")
        }
        false => "certificates of this folder stay good, those of other peers do not".into(),
    };
    [
        format!("this one: start it as always, on {dir}"),
        "peers:   empty their data folders; then stint cluster join-token here, and stint node --join there"
            .into(),
        format!("users:   {users}"),
        format!("the log of before is in {log}: remove it when all is well"),
    ]
}
