//! The operations of a peer for callers that may not do everything: too low a role is refused, and what another tenant
//! has is not found.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use stint_node::blobs::Expected;
use stint_node::build::{NodeParts, build_node};
use stint_node::certificates::{ADMIN_LIFE, CertificateParts, LIFE};
use stint_node::clock::{HostClock, Rng};
use stint_node::config::replicated::Scope;
use stint_node::node::Node;
use stint_node::pki::{Authority, PEER_NAME, node_name};
use stint_node::removed::finish_removals;
use stint_node::service::access::Operation;
use stint_node::service::{
    LogsAsked, NewImage, NewTasks, NewToken, OutputAsked, Principal, Proof, Role, Service, ServiceError,
    SettingsUpdate, TaskFilter, Tenants, Wait,
};
use stint_protocol::{
    Class, IdempotencyKey, ImageKind, ImageName, NodeId, TaskName, TaskSpec, Tenant, version,
};
use stint_raft::{PeerInfo, RaftOptions};
use stint_scheduler::{Admit, Command, NodeMode, Settings};
use tempfile::TempDir;

#[path = "service/late.rs"]
mod late;

const NODE: NodeId = NodeId(1);

/// A cluster of one peer that executes nothing: its tasks wait.
struct World {
    service: Service,
    node: Arc<Node>,
    _folder: TempDir,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = quinn::Endpoint::new(quinn::EndpointConfig::default(), None, socket, runtime).unwrap();
        let authority = Authority::make().unwrap();
        let identity = authority.issue(&[PEER_NAME, &node_name(NODE)]).unwrap();
        let parts = NodeParts {
            id: NODE,
            cluster: "test".into(),
            recovered: None,
            speaks: version::CURRENT,
            certificates: CertificateParts {
                root: authority.root(),
                identity,
                authority: None,
                life: LIFE,
                admin_life: ADMIN_LIFE,
            },
            log: folder.path().join("raft"),
            endings: None,
            options: RaftOptions::new("test"),
            endpoint,
            clock: Arc::new(HostClock),
            rng: Arc::new(Rng::from_system()),
        };
        let (node, queue) = build_node(parts).await.unwrap();
        tokio::spawn(node.leader.clone().run(queue));
        node.raft.bootstrap(PeerInfo { addr: "127.0.0.1:1".into(), disk_id: "00".into() }).await.unwrap();
        while !node.leader.leads() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (name, address) = ("a".into(), "127.0.0.1:1".into());
        let admit = Admit { disk: [1; 16], name, address, token: None, speaks: version::CURRENT };
        let commands = vec![Command::Configure(Settings::default()), Command::Admit(admit)];
        node.leader.propose(commands).await.unwrap();
        Self { service: Service::new(node.clone()), node, _folder: folder }
    }

    /// A task of team-7 by the name of `job`.
    async fn with_a_task() -> Self {
        let world = Self::start().await;
        world.service.submit(&administrator(), job()).await.unwrap();
        world
    }

    async fn stop(self) {
        self.node.raft.stop().await;
        self.node.peers.close();
    }
}

fn administrator() -> Principal {
    Principal::administrator(Proof::LocalSocket)
}

fn caller(tenant: &str, role: Role) -> Principal {
    let (tenant, tenants) = (Tenant::new(tenant).unwrap(), Tenants::Own);
    Principal { tenant, tenants, role, proof: Proof::LocalSocket, from: None, runs_as: None }
}

fn team() -> Tenant {
    Tenant::new("team-7").unwrap()
}

fn job() -> NewTasks {
    NewTasks {
        tenant: team(),
        name: Some(TaskName::new("job").unwrap()),
        spec: TaskSpec::new(Class::CpuShort, vec!["/bin/true".into()]),
        own_grace: false,
        runtime: String::new(),
        count: 1,
        key: None,
        must_fit: false,
    }
}

fn all_tasks() -> TaskFilter {
    TaskFilter { tenant: team(), state: None, class: None, before: None, limit: 0 }
}

fn wait() -> Wait {
    Wait { tenant: team(), tasks: vec!["job".into()], timeout: Some(Duration::from_millis(1)), any: false }
}

fn logs() -> LogsAsked {
    LogsAsked { tenant: team(), task: "job".into(), attempt: 0, stream: None, follow: false }
}

fn output() -> OutputAsked {
    OutputAsked { tenant: team(), task: "job".into(), path: "model.bin".into(), offset: 0, attempt: 0 }
}

fn image() -> NewImage {
    NewImage {
        tenant: team(),
        name: ImageName::new("web").unwrap(),
        description: String::new(),
        kind: Some(ImageKind::Docker),
        reference: "ghcr.io/team/web:1".into(),
        expected: Expected::default(),
    }
}

async fn register(service: &Service, caller: &Principal) -> Result<(), ServiceError> {
    let no_bytes = stream::empty::<Result<bytes::Bytes, ServiceError>>();
    service.register_image(caller, image(), no_bytes).await.map(drop)
}

/// Of the cluster's own settings.
fn update(key: &str, value: &str) -> SettingsUpdate {
    SettingsUpdate { of: Scope::Cluster, values: [(key.into(), value.into())].into(), if_revision: None }
}

fn is_not_found<T>(result: Result<T, ServiceError>) -> bool {
    matches!(result, Err(ServiceError::TaskNotFound { .. } | ServiceError::ImageNotFound { .. }))
}

fn is_refused<T>(result: Result<T, ServiceError>) -> bool {
    matches!(result, Err(ServiceError::RoleTooLow { .. }))
}

#[tokio::test]
async fn what_another_tenant_has_is_not_found() {
    let world = World::with_a_task().await;
    let (service, other) = (&world.service, &caller("team-8", Role::Admin));
    register(service, &administrator()).await.unwrap();
    let id = service.task(&administrator(), &team(), "job").await.unwrap().id;
    for named in [id.as_str(), "job"] {
        assert!(is_not_found(service.task(other, &team(), named).await), "{named}");
    }
    assert!(is_not_found(service.wait(other, wait()).await));
    assert!(is_not_found(service.cancel(other, &team(), &["job".into()]).await));
    assert!(is_not_found(service.explain(other, &team(), "job").await));
    assert!(is_not_found(service.logs(other, logs()).await));
    assert!(is_not_found(service.result(other, &team(), "job").await));
    assert!(is_not_found(service.read_output(other, &output()).await));
    assert!(is_not_found(service.image(other, &team(), "web").await));
    assert!(is_not_found(service.delete_image(other, &team(), "web").await));
    assert!(service.list_tasks(other, &all_tasks()).await.unwrap().tasks.is_empty());
    assert!(service.list_images(other, &team(), None, 0).await.unwrap().images.is_empty());
    // The text is that of a task that is not there: it tells nothing.
    let unknown = service.task(other, &team(), "job").await.unwrap_err().to_string();
    let missing = service.task(&administrator(), &team(), "jab").await.unwrap_err().to_string();
    assert_eq!(unknown, missing.replace("jab", "job"));
    // Nothing is added to it, either.
    let foreign = |result: Result<(), ServiceError>| matches!(result, Err(ServiceError::ForeignTenant(_)));
    assert!(foreign(service.submit(other, job()).await.map(drop)));
    assert!(foreign(register(service, other).await));
    // Its own callers find it all.
    let own = &caller("team-7", Role::Submit);
    assert_eq!(service.list_tasks(own, &all_tasks()).await.unwrap().tasks.len(), 1);
    assert_eq!(service.cancel(own, &team(), &["job".into()]).await.unwrap()[0].state, "finished");
    assert_eq!(service.delete_image(own, &team(), "web").await.unwrap().name, "web");
    world.stop().await;
}

/// What one operation tells a caller about a task or an image of `team` by this name; of operations that are about no tenant
/// what they tell of the whole cluster, none where they take an administrator. Without a wildcard: a new operation does not
/// compile until it is asked here.
async fn answer(
    service: &Service,
    caller: &Principal,
    operation: Operation,
    name: &str,
) -> Option<Result<String, ServiceError>> {
    let (of, text) = (team(), String::from(name));
    let listed = |count: usize| format!("{count} are listed");
    Some(match operation {
        Operation::SubmitTasks => service.submit(caller, job()).await.map(|_| "accepted".into()),
        Operation::GetTask => service.task(caller, &of, name).await.map(|task| task.id),
        Operation::ListTasks => {
            service.list_tasks(caller, &all_tasks()).await.map(|page| listed(page.tasks.len()))
        }
        Operation::WaitForTasks => {
            let wait = Wait { tasks: vec![text], ..wait() };
            service.wait(caller, wait).await.map(|waited| format!("{waited:?}"))
        }
        Operation::CancelTasks => {
            service.cancel(caller, &of, &[text]).await.map(|tasks| format!("{tasks:?}"))
        }
        Operation::ExplainTask => service.explain(caller, &of, name).await.map(|said| said.summary),
        Operation::ReadLogs => {
            let asked = LogsAsked { task: text, ..logs() };
            service.logs(caller, asked).await.map(|_| "logs".into())
        }
        Operation::GetResult => service.result(caller, &of, name).await.map(|result| format!("{result:?}")),
        Operation::ReadOutput => {
            let asked = OutputAsked { task: text, ..output() };
            service.read_output(caller, &asked).await.map(|_| "an output".into())
        }
        Operation::RegisterImage => register(service, caller).await.map(|()| "registered".into()),
        Operation::ListImages => {
            service.list_images(caller, &of, None, 0).await.map(|page| listed(page.images.len()))
        }
        Operation::GetImage => service.image(caller, &of, name).await.map(|image| image.name),
        Operation::DeleteImage => service.delete_image(caller, &of, name).await.map(|image| image.name),
        Operation::ListNodes => service.list_nodes(caller).await.map(|nodes| format!("{nodes:?}")),
        Operation::GetClusterStatus => {
            service.cluster_status(caller).await.map(|status| format!("{status:?}"))
        }
        Operation::GetSettings => service.settings(caller, Some(&of)).await.map(|found| format!("{found:?}")),
        Operation::ListTenants => service.list_tenants(caller).await.map(|tenants| format!("{tenants:?}")),
        Operation::WhoAmI => service.who_am_i(caller).map(|who| format!("{who:?}")),
        Operation::SetNodeMode
        | Operation::RemoveNode
        | Operation::CreateJoinToken
        | Operation::TransferLeader
        | Operation::UpdateSettings
        | Operation::SaveSnapshot
        | Operation::ListJoinTokens
        | Operation::RevokeJoinToken
        | Operation::CreateToken
        | Operation::ListTokens
        | Operation::RemoveTenant
        | Operation::RevokeToken
        | Operation::RotateAuthority => return None,
        Operation::GetAuthority => service.authority(caller).await.map(|found| format!("{found:?}")),
    })
}

#[tokio::test]
async fn no_operation_tells_another_tenant_that_something_is_there() {
    let world = World::with_a_task().await;
    let (service, admin) = (&world.service, &administrator());
    register(service, admin).await.unwrap();
    let of = Scope::Tenant(team());
    service.update_settings(admin, SettingsUpdate { of, ..update("weight", "3") }).await.unwrap();
    let task = service.task(admin, &team(), "job").await.unwrap().id;
    let image = service.image(admin, &team(), "web").await.unwrap().id;
    // Bound to its tenant, whatever its role is; and one whose role does not reach others.
    let reader = Principal { tenants: Tenants::All, ..caller("team-8", Role::Submit) };
    for foreign in [&caller("team-8", Role::Operator), &reader] {
        for operation in Operation::ALL {
            for name in ["job", "web", task.as_str(), image.as_str()] {
                let Some(there) = answer(service, foreign, *operation, name).await else { continue };
                let Some(nowhere) = answer(service, foreign, *operation, "nowhere").await else { continue };
                match (there, nowhere) {
                    (Err(there), Err(nowhere)) => {
                        assert_eq!(
                            there.to_string().replace(name, "nowhere"),
                            nowhere.to_string(),
                            "{operation}"
                        );
                        let kind = std::mem::discriminant(&there);
                        assert_eq!(kind, std::mem::discriminant(&nowhere), "{operation}");
                    }
                    (Ok(there), Ok(nowhere)) => {
                        // Those of the whole cluster tell times, too.
                        let of_a_tenant = operation.needs_for_others().is_some();
                        assert!(!of_a_tenant || there == nowhere, "{operation}: {there} {nowhere}");
                        for secret in ["team-7", task.as_str(), image.as_str(), "1 are listed"] {
                            assert!(!there.contains(secret), "{operation} tells {secret}: {there}");
                        }
                    }
                    (there, nowhere) => panic!("{operation} tells {name}: {there:?}, and not {nowhere:?}"),
                }
            }
        }
    }
    // Whose role reaches others does find it.
    let operator = Principal { tenants: Tenants::All, ..caller("team-8", Role::Operator) };
    for operation in [Operation::GetTask, Operation::ExplainTask, Operation::GetResult] {
        assert!(answer(service, &operator, operation, "job").await.unwrap().is_ok(), "{operation}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_key_of_another_tenant_is_free() {
    let world = World::start().await;
    let (service, key) = (&world.service, Some(IdempotencyKey::new("night").unwrap()));
    let own = service.submit(&administrator(), NewTasks { key: key.clone(), ..job() }).await.unwrap();
    let theirs = NewTasks { tenant: Tenant::new("team-8").unwrap(), key, ..job() };
    let theirs = service.submit(&caller("team-8", Role::Submit), theirs).await.unwrap();
    assert!(!theirs.repeated && theirs.first != own.first);
    world.stop().await;
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked_by_administrators() {
    let world = World::start().await;
    let (service, admin) = (&world.service, &administrator());
    let new = |tenant: Option<&str>, role| NewToken {
        tenant: tenant.map(|name| Tenant::new(name).unwrap()),
        role,
        valid: None,
        comment: "nightly".into(),
    };
    for role in [Role::Read, Role::Submit, Role::Operator] {
        let refused = service.create_token(&caller("team-7", role), new(Some("team-7"), Role::Read)).await;
        assert!(is_refused(refused));
    }
    for (tenant, role, said) in [
        (None, Role::Submit, "a token of role submit acts for one tenant"),
        (Some("team-7"), Role::Admin, "acts for all tenants: leave --tenant out"),
    ] {
        let refused = service.create_token(admin, new(tenant, role)).await.unwrap_err().to_string();
        assert!(refused.contains(said), "{refused}");
    }
    let long = NewToken { valid: Some(Duration::from_secs(367 * 24 * 3_600)), ..new(None, Role::Admin) };
    assert!(matches!(service.create_token(admin, long).await, Err(ServiceError::AccessValidTooLong)));
    let made = service.create_token(admin, new(Some("team-7"), Role::Submit)).await.unwrap();
    assert!(made.token.starts_with("stintat1-"));
    let listed = service.list_tokens(admin).await.unwrap();
    let shown = (listed.len(), listed[0].id.as_str(), listed[0].tenant.as_deref(), listed[0].role.as_str());
    assert_eq!(shown, (1, made.id.as_str(), Some("team-7"), "submit"));
    assert_eq!(
        (listed[0].created_by.as_str(), listed[0].comment.as_str()),
        ("admin (local_socket)", "nightly")
    );
    assert!(service.revoke_token(admin, &made.id[..3]).await.is_err(), "too short to be meant");
    assert_eq!(service.revoke_token(admin, &made.id[..6]).await.unwrap(), made.id);
    assert!(service.list_tokens(admin).await.unwrap().is_empty());
    world.stop().await;
}

#[tokio::test]
async fn who_may_only_read_changes_nothing() {
    let world = World::with_a_task().await;
    let (service, reader) = (&world.service, &caller("team-7", Role::Read));
    assert!(is_refused(service.submit(reader, job()).await));
    assert!(is_refused(service.cancel(reader, &team(), &["job".into()]).await));
    assert!(is_refused(register(service, reader).await));
    assert!(is_refused(service.delete_image(reader, &team(), "web").await));
    assert!(is_refused(service.set_node_mode(reader, "a", NodeMode::Cordoned, None).await));
    assert!(is_refused(service.remove_node(reader, "a", false).await));
    assert!(is_refused(service.create_join_token(reader, None, None).await));
    assert!(is_refused(service.transfer_leader(reader, None).await));
    assert!(is_refused(service.update_settings(reader, update("placement", "bin_pack")).await));
    let refusal = service.remove_node(reader, "a", false).await.unwrap_err().to_string();
    let expected =
        "removing a node takes the role admin, and yours is read: ask an administrator of the cluster";
    assert_eq!(refusal, expected);
    // It sees what its tenant has, and the cluster.
    assert_eq!(service.task(reader, &team(), "job").await.unwrap().state, "queued");
    assert!(!service.wait(reader, wait()).await.unwrap().finished);
    assert_eq!(service.list_nodes(reader).await.unwrap()[0].name, "a");
    assert_eq!(service.cluster_status(reader).await.unwrap().queued, 1);
    assert_eq!(service.settings(reader, None).await.unwrap().revision, 0);
    world.stop().await;
}

#[tokio::test]
async fn an_operator_moves_work_and_an_administrator_decides_who_belongs() {
    let world = World::start().await;
    let (service, operator) = (&world.service, &caller("team-7", Role::Operator));
    let node = service.set_node_mode(operator, "a", NodeMode::Cordoned, None).await.unwrap();
    assert_eq!(node.name, "a");
    assert!(is_refused(service.create_join_token(operator, None, None).await));
    assert!(is_refused(service.remove_node(operator, "a", false).await));
    let made = service.create_join_token(&administrator(), None, None).await.unwrap();
    assert!(made.token.to_string().starts_with("stint1-"));
    world.stop().await;
}

#[tokio::test]
async fn an_administrator_changes_settings_and_nobody_else_does() {
    let world = World::start().await;
    let (service, admin) = (&world.service, &administrator());
    for role in [Role::Read, Role::Submit, Role::Operator] {
        let refused = service.update_settings(&caller("team-7", role), update("placement", "spread")).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.starts_with("changing settings takes the role admin, and yours is"), "{refused}");
    }
    let of = Scope::Class(Class::Gpu);
    let of_gpu = SettingsUpdate { of: of.clone(), ..update("max_gpus", "4") };
    let after = service.update_settings(admin, of_gpu).await.unwrap();
    assert_eq!((after.revision, after.classes[2].max_gpus), (1, 4));
    let change = &after.changes[0];
    let by = (change.revision, change.role.as_str(), change.proof.as_str(), change.peer.as_str());
    assert_eq!(by, (1, "admin", "local_socket", "a"));
    let setting = &change.settings[0];
    let change = (setting.key.as_str(), setting.from.as_str(), setting.to.as_str());
    assert_eq!(change, ("classes.gpu.max_gpus", "1", "4"));
    // A change is held to the revision that it names, and a repetition of the one that made it is none.
    let on =
        |if_revision, to: &str| SettingsUpdate { if_revision: Some(if_revision), ..update("placement", to) };
    let stale = service.update_settings(admin, on(0, "spread")).await.unwrap_err().to_string();
    assert!(stale.contains("revision 1 by now, not 0"), "{stale}");
    for _ in 0..2 {
        let after = service.update_settings(admin, on(1, "spread")).await.unwrap();
        assert_eq!((after.revision, after.cluster.placement.as_str()), (2, "spread"));
    }
    // What does not fit together changes nothing.
    let over = SettingsUpdate { of, ..update("default_timeout", "11m") };
    let refused = service.update_settings(admin, over).await.unwrap_err();
    assert!(matches!(&refused, ServiceError::Refused(_)), "{refused}");
    assert!(refused.to_string().contains("classes.gpu.default_timeout: is over max_timeout"), "{refused}");
    assert_eq!(service.settings(admin, None).await.unwrap().revision, 2);
    world.stop().await;
}

#[tokio::test]
async fn a_priority_over_the_tenants_highest_is_refused_with_what_to_do() {
    let world = World::start().await;
    let (service, admin) = (&world.service, &administrator());
    let urgent = || NewTasks { name: None, spec: TaskSpec { priority: 80, ..job().spec }, ..job() };
    let error = service.submit(admin, urgent()).await.unwrap_err().to_string();
    let said = "priority 80 is over 50, the highest for tenant team-7: ask for less, or have an administrator raise it \
                (`stint tenant set team-7 --max-priority 80`)";
    assert!(error.contains(said), "{error}");
    let of = Scope::Tenant(team());
    let after =
        service.update_settings(admin, SettingsUpdate { of, ..update("max_priority", "80") }).await.unwrap();
    let rules = after.tenants.iter().map(|rules| (rules.tenant.as_str(), rules.max_priority, rules.weight));
    assert_eq!(rules.collect::<Vec<_>>(), [("default", 100, 1), ("team-7", 80, 1)]);
    service.submit(admin, urgent()).await.unwrap();
    // Another tenant sees neither the rules nor their change.
    let other = service.settings(&caller("blue", Role::Read), None).await.unwrap();
    assert_eq!((other.revision, other.tenants.len(), other.changes[0].settings.len()), (1, 1, 0));
    assert_eq!(other.tenants[0].tenant, "blue");
    let own = service.settings(&caller("team-7", Role::Read), None).await.unwrap();
    assert_eq!((own.tenants.len(), own.changes[0].settings.len()), (1, 1));
    world.stop().await;
}

#[tokio::test]
async fn an_image_that_its_tenant_may_not_use_is_refused_with_what_it_may() {
    let world = World::start().await;
    let (service, admin) = (&world.service, &administrator());
    let of = Scope::Tenant(team());
    let list = "busybox,stint://tool";
    let after =
        service.update_settings(admin, SettingsUpdate { of, ..update("images", list) }).await.unwrap();
    let allowed = after.tenants.iter().find(|rules| rules.tenant == "team-7").unwrap();
    assert_eq!(allowed.allowed_images, ["busybox", "stint://tool"]);
    let changed = &after.changes[0];
    let (role, setting) = (changed.role.as_str(), &changed.settings[0]);
    assert_eq!((role, setting.key.as_str(), setting.to.as_str()), ("admin", "tenants.team-7.images", list));
    let with = |image: &str, must_fit| {
        let spec = TaskSpec { image: Some(image.into()), ..job().spec };
        NewTasks { name: None, spec, must_fit, ..job() }
    };
    // Whoever asks, and whether or not nodes could run it.
    for caller in [admin, &caller("team-7", Role::Submit)] {
        let error = service.submit(caller, with("evil.example/x", false)).await.unwrap_err();
        let said =
            "tenant team-7 may not use image evil.example/x, only busybox,stint://tool: name one of these";
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(tonic::Status::from(error).code(), tonic::Code::PermissionDenied);
    }
    service.submit(admin, with("busybox:1.36", false)).await.unwrap();
    let listed = service.list_tenants(admin).await.unwrap();
    let listed = listed.iter().find(|listed| listed.tenant == "team-7").unwrap();
    assert_eq!(listed.allowed_images, ["busybox", "stint://tool"]);
    world.stop().await;
}

#[tokio::test]
async fn a_removal_that_another_leader_began_is_finished() {
    let world = World::start().await;
    let hash = [7; 32];
    let (name, address) = ("b".into(), "127.0.0.1:1".into());
    let admit = Admit { disk: [2; 16], name, address, token: Some(hash), speaks: version::CURRENT };
    let token = Command::AddJoinToken { hash, valid_ms: 60_000, uses: Some(1) };
    for result in world.node.leader.propose(vec![token, Command::Admit(admit)]).await.unwrap() {
        result.unwrap();
    }
    let info = |disk: &str| PeerInfo { addr: "127.0.0.1:1".into(), disk_id: disk.into() };
    world.node.raft.add_learner(2, info("02")).await.unwrap();
    // As a peer that joins: a member of whom this leader's state has not heard yet.
    world.node.raft.add_learner(7, info("07")).await.unwrap();
    // What a leader does first; then it ended.
    for result in world.node.leader.propose(vec![Command::RemoveNode(NodeId(2))]).await.unwrap() {
        result.unwrap();
    }
    let finishing = tokio::spawn(finish_removals(world.node.clone()));
    let finished = async {
        while world.node.raft.status().learners.contains_key(&2) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), finished).await.expect("it is a member no more");
    let status = world.node.raft.status();
    assert_eq!(status.voters.keys().copied().collect::<Vec<_>>(), [1]);
    assert_eq!(status.learners.keys().copied().collect::<Vec<_>>(), [7]);
    finishing.abort();
    world.stop().await;
}
