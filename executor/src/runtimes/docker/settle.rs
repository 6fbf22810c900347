//! Whether a container whose start had no answer ever ran. It is removed first, so that a start which is still under way
//! finds nothing; then the daemon's own record of it says what it did until then.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::Docker;
use bollard::models::{ContainerState, EventMessage};
use bollard::query_parameters::{EventsOptions, RemoveContainerOptions};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::engine::{self, EngineError};
use crate::limits;

/// What a container did.
#[derive(Clone, Debug, PartialEq)]
pub enum Settled {
    /// It is gone, and nothing of it ever ran.
    NeverRan,
    /// It is gone; it ran and ended so.
    Ran(ContainerState),
    /// It could not be removed: it runs.
    Runs,
    Unknown(String),
}

/// Removes the container with this id unless it runs, and says what it did.
pub async fn settle(docker: &Docker, socket: &str, id: &str) -> Settled {
    let options = RemoveContainerOptions { force: false, v: true, link: false };
    let removed =
        engine::insist(socket, || async { Ok(docker.remove_container(id, Some(options.clone())).await?) });
    match removed.await {
        Ok(()) => {}
        // A removal whose answer was lost.
        Err(fault) if fault.status() == 404 => {}
        Err(fault) if fault.status() == 409 => return Settled::Runs,
        Err(fault) => return Settled::Unknown(fault.message().to_owned()),
    }
    match engine::insist(socket, || events(docker, id)).await {
        Ok(events) => what_it_did(&events),
        Err(fault) => Settled::Unknown(fault.message().to_owned()),
    }
}

/// Everything that the daemon remembers of a container. It keeps some hundred events of all containers.
async fn events(docker: &Docker, id: &str) -> Result<Vec<EventMessage>, EngineError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let options = EventsOptions {
        since: Some("0".into()),
        until: Some(format!("{}.{:09}", now.as_secs(), now.subsec_nanos())),
        filters: Some(HashMap::from([("container".to_owned(), vec![id.to_owned()])])),
    };
    let all = async {
        let (mut found, mut events) = (Vec::new(), std::pin::pin!(docker.events(Some(options))));
        while let Some(event) = events.next().await {
            found.push(event?);
        }
        Ok(found)
    };
    let patience = Duration::from_secs(limits::DOCKER_CALL_S);
    let late = |_| Err(EngineError::Unreachable("its events did not come".into()));
    timeout(patience, all).await.unwrap_or_else(late)
}

/// Its history counts only from its creation to its removal: what was forgotten may have been the start.
fn what_it_did(events: &[EventMessage]) -> Settled {
    let find = |action: &str| events.iter().find(|event| event.action.as_deref() == Some(action));
    if find("create").is_none() || find("destroy").is_none() {
        return Settled::Unknown("the Docker daemon does not remember whether its program began".into());
    }
    if let Some(end) = find("die") {
        let attribute = |name: &str| end.actor.as_ref()?.attributes.as_ref()?.get(name);
        let Some(code) = attribute("exitCode").and_then(|code| code.parse().ok()) else {
            return Settled::Unknown("the Docker daemon does not remember how its program ended".into());
        };
        let oom_killed = Some(find("oom").is_some());
        return Settled::Ran(ContainerState {
            exit_code: Some(code),
            oom_killed,
            ..ContainerState::default()
        });
    }
    match find("start") {
        Some(_) => Settled::Unknown("the Docker daemon does not remember how its program ended".into()),
        None => Settled::NeverRan,
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::EventActor;

    use super::*;

    fn event(action: &str, code: Option<&str>) -> EventMessage {
        let attributes = code.map(|code| HashMap::from([("exitCode".to_owned(), code.to_owned())]));
        EventMessage {
            action: Some(action.into()),
            actor: Some(EventActor { id: None, attributes }),
            ..EventMessage::default()
        }
    }

    #[test]
    fn only_a_whole_history_says_that_nothing_ran() {
        let history = |actions: &[&str]| {
            let events: Vec<_> = actions.iter().map(|action| event(action, None)).collect();
            what_it_did(&events)
        };
        assert_eq!(history(&["create", "attach", "destroy"]), Settled::NeverRan);
        for forgotten in [
            &["destroy"][..],
            &["create"],
            &[],
            &["create", "start", "destroy"],
            &["create", "die", "destroy"],
        ] {
            assert!(matches!(history(forgotten), Settled::Unknown(_)), "{forgotten:?}");
        }
        let ran =
            [event("create", None), event("start", None), event("die", Some("3")), event("destroy", None)];
        let Settled::Ran(state) = what_it_did(&ran) else { panic!("it ran") };
        assert_eq!((state.exit_code, state.oom_killed), (Some(3), Some(false)));
    }
}
