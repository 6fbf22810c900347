//! `stint explain`: why a task waits.

use clap::Args;
use stint_sdk::api::Explanation;
use stint_sdk::v1;

use super::Context;
use crate::Done;
use crate::table::Table;
use crate::text::Text;

#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// Id or name
    pub task: String,
}

pub async fn run(context: Context, args: ExplainArgs) -> Done {
    let request = v1::ExplainRequest { tenant: context.tenant.clone(), task: args.task.clone() };
    let reply = Explanation::from(context.client.explain(request).await?);
    context.output.show(&reply, [args.task], || text(&reply))?;
    Ok(0)
}

fn text(reply: &Explanation) -> Text {
    let mut text = Text::from(reply.summary.as_str());
    match reply.ahead_in_queue {
        0 => {}
        1 => text = text.and("1 task is ahead of it in the queue."),
        n => text = text.and(format!("{n} tasks are ahead of it in the queue.")),
    }
    if !reply.nodes.is_empty() {
        let mut table = Table::new(&["NODE", "MISSING"]);
        for reason in &reply.nodes {
            table.row(vec![reason.node.as_str().into(), reason.missing.join("; ").into()]);
        }
        text = text.and("").and(table);
    }
    if !reply.advice.is_empty() {
        text = text.and("").and("What would help:");
        text = text.and(reply.advice.iter().map(|line| format!("  - {line}")).collect::<Text>());
    }
    text
}

#[cfg(test)]
mod tests {
    use stint_sdk::api::NodeReason;

    use super::*;

    #[test]
    fn says_what_each_node_lacks_and_what_helps() {
        let reason = |name: &str, missing: &[&str]| NodeReason {
            node_id: 1,
            node: name.into(),
            missing: missing.iter().map(|m| m.to_string()).collect(),
        };
        let reply = Explanation {
            summary: "Waits for a GPU.".into(),
            ahead_in_queue: 2,
            nodes: vec![reason("a", &["no free GPU", "draining"]), reason("node-b", &["no GPU"])],
            advice: vec!["resume node a".into()],
        };
        let expected = "\
Waits for a GPU.
2 tasks are ahead of it in the queue.

NODE    MISSING
a       no free GPU; draining
node-b  no GPU

What would help:
  - resume node a
";
        assert_eq!(text(&reply).render(false), expected);
    }
}
