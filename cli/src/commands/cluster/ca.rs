//! `stint cluster ca`: the certificate authority of the cluster.

use std::time::Duration;

use clap::{Args, Subcommand};
use stint_node::pki::utc;
use stint_sdk::api::Authority;
use stint_sdk::{units, v1};

use crate::Done;
use crate::commands::Context;
use crate::output::{Format, talk};
use crate::table::{Cell, Table, Tone};
use crate::view::now_ms;

#[derive(Args, Debug)]
pub struct CaArgs {
    #[command(subcommand)]
    pub command: CaCommand,
}

#[derive(Subcommand, Debug)]
pub enum CaCommand {
    /// Show the authority, how far its change is, and which peers have no certificate of the new one
    Status,
    /// Make another authority while all goes on, or end the change
    Rotate(RotateArgs),
}

#[derive(Args, Debug)]
pub struct RotateArgs {
    /// How long certificates of the old authority stay valid; 366 days at most
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = units::parse_duration, conflicts_with = "finish")]
    pub overlap: Duration,
    /// End the change now: certificates of the old authority are refused from then on
    #[arg(long)]
    pub finish: bool,
    /// Also when peers have no certificate of the new authority yet
    #[arg(long, requires = "finish")]
    pub force: bool,
}

pub async fn run(context: Context, args: CaArgs) -> Done {
    let (begins, found) = match args.command {
        CaCommand::Status => (false, context.client.authority().await?),
        CaCommand::Rotate(RotateArgs { overlap, finish, force }) => {
            // None would be what the peer thinks best.
            let overlap_ms = (overlap.as_millis() as u64).max(1);
            let request = v1::RotateAuthorityRequest { overlap_ms, finish, force };
            (!finish, context.client.rotate_authority(request).await?)
        }
    };
    let authority = Authority::from(found);
    context.output.show(&authority, [authority.phase.clone()], || table(&authority, now_ms()))?;
    if begins && context.output.format == Format::Table {
        talk(
            "peers change over by themselves (`stint cluster ca status`); clients: copy the credentials of a peer again",
        );
    }
    Ok(0)
}

fn table(authority: &Authority, now_ms: u64) -> Table {
    let Authority { cluster_id, fingerprint, old_until_ms, phase, since_ms, waits_for } = authority;
    let mut facts = Table::pairs();
    facts.pair("cluster id", cluster_id.as_str()).pair("authority", fingerprint.as_str());
    if let Some(since) = since_ms {
        facts.pair("since", utc(since / 1_000));
    }
    let tone = if phase == "steady" { Tone::Good } else { Tone::Busy };
    facts.pair("phase", Cell::new(phase, tone));
    let Some(until) = old_until_ms else { return facts };
    let left = match until.saturating_sub(now_ms) {
        0 => "over; it ends when all peers that are there have a new certificate".to_owned(),
        ms => format!("in {}", units::show_duration(ms)),
    };
    facts.pair("old one until", format!("{} ({left})", utc(until / 1_000)));
    match waits_for.is_empty() {
        true => facts.pair("waits for", "nobody: all peers have a certificate of the new one"),
        false => facts.pair("waits for", Cell::new(waits_for.join(", "), Tone::Busy)),
    };
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_the_authority_for_people() {
        let steady = Authority {
            cluster_id: "3f2a9c01d2e4b5a6".into(),
            fingerprint: "77e0".into(),
            old_until_ms: None,
            phase: "steady".into(),
            since_ms: None,
            waits_for: Vec::new(),
        };
        let expected = "cluster id  3f2a9c01d2e4b5a6\nauthority   77e0\nphase       steady\n";
        assert_eq!(table(&steady, 0).render(false), expected);
        let (since_ms, old_until_ms) = (Some(1_800_000_000_000), Some(1_800_000_060_000));
        let waits_for = vec!["gpu-2".into(), "gpu-3".into()];
        let changing = Authority { old_until_ms, phase: "changing".into(), since_ms, waits_for, ..steady };
        let shown = table(&changing, 1_800_000_000_000).render(false);
        assert!(shown.contains("old one until  2027-01-15 8:01:00 UTC (in 1m)\n"), "{shown}");
        assert!(shown.contains("waits for      gpu-2, gpu-3\n"), "{shown}");
    }
}
