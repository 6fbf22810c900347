//! Which of what a task names the operator of a node lets tasks have: images, folders, secrets. A node offers its rules, so that a
//! task goes where it is allowed; the node itself asks again before it starts anything.

use std::path::Path;

use minicbor::{Decode, Encode};

use crate::class::Runtime;
use crate::docker_image::{ImageRefusal, Reference};
use crate::files::{InputSource, TaskFiles};
use crate::ids::Tenant;
use crate::image::SCHEME;
use crate::limits;
use crate::task::TaskSpec;
use crate::task_limits::NotAllowed;

/// The rules of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct NodeRules {
    /// Patterns of images that Docker may run; none = none may.
    #[n(0)]
    pub docker_images: Vec<String>,
    /// Only images that are named by digest.
    #[n(1)]
    pub docker_by_digest: bool,
    /// Folders under which a task's root file system, or its program, may lie.
    #[n(2)]
    pub image_roots: Vec<String>,
    /// Folders whose files tasks may name as inputs.
    #[n(3)]
    pub input_roots: Vec<String>,
    /// Whether it has secrets of any tenant.
    #[n(4)]
    pub secrets: bool,
    /// Names of the tenants whose tasks it takes; `*` among them: everybody's. None: everybody's, and no one thought of who that is.
    #[n(5)]
    #[cbor(default)]
    pub tenants: Option<Vec<String>>,
    /// Its process runtime gives programs of all tenants one user.
    #[n(6)]
    #[cbor(default)]
    pub one_user: Option<bool>,
    /// Tasks run as the users who submitted them, from this number of a user on. None: as the users of their tenants.
    #[n(7)]
    #[cbor(default)]
    pub run_as: Option<u32>,
}

/// Among the tenants of a node: all of them.
pub const ALL_TENANTS: &str = "*";

impl NodeRules {
    /// Rules that let tasks have everything.
    pub fn open() -> Self {
        let all = |root: &str| vec![root.into()];
        Self {
            docker_images: all("**"),
            docker_by_digest: false,
            image_roots: all("/"),
            input_roots: all("/"),
            secrets: true,
            tenants: None,
            one_user: None,
            run_as: None,
        }
    }

    /// Whether it takes tasks of a tenant.
    pub fn takes(&self, tenant: &Tenant) -> bool {
        let named =
            |named: &Vec<String>| named.iter().any(|name| name == ALL_TENANTS || name == tenant.as_str());
        self.tenants.as_ref().is_none_or(named)
    }

    /// Whether it is for this tenant alone.
    pub fn is_dedicated_to(&self, tenant: &Tenant) -> bool {
        let names = self.tenants.as_deref().unwrap_or_default();
        !names.is_empty() && names.iter().all(|name| name == tenant.as_str())
    }

    /// Whether its operator has to say first whose programs may share a user.
    pub fn is_for_one_tenant(&self, runtime: Runtime) -> bool {
        runtime == Runtime::Process && self.one_user == Some(true) && self.tenants.is_none()
    }

    /// The rules as a node offers them: where they are too long for that, only the node itself knows them, and tasks are placed as if
    /// it had none.
    pub fn offered(self) -> Self {
        let lists = [&self.docker_images, &self.image_roots, &self.input_roots];
        let bytes: usize = lists.into_iter().flatten().map(|text| text.len() + 8).sum();
        if bytes <= limits::NODE_RULES_BYTES {
            return self;
        }
        Self { tenants: self.tenants, one_user: self.one_user, run_as: self.run_as, ..Self::open() }
    }

    /// What a task names and the node does not let it have with this runtime; empty = all is allowed.
    pub fn forbids(&self, runtime: Runtime, spec: &TaskSpec) -> Vec<NotAllowed> {
        let image = spec.image.as_deref().and_then(|image| self.forbids_image(runtime, image));
        let host = matches!(runtime, Runtime::Process | Runtime::Crun | Runtime::Docker);
        let files = spec.files.as_deref().filter(|_| host);
        let inputs = files.into_iter().flat_map(|files| self.forbidden_inputs(files));
        let secrets = files.filter(|files| !files.secrets.is_empty() && !self.secrets);
        let own_user = spec.run_as.filter(|uid| host && !self.runs_as(runtime, *uid)).map(NotAllowed::RunAs);
        image.into_iter().chain(inputs).chain(secrets.map(|_| NotAllowed::Secrets)).chain(own_user).collect()
    }

    /// Whether programs of this runtime run as a user who submits tasks. Never as root.
    fn runs_as(&self, runtime: Runtime, uid: u32) -> bool {
        let changes_user = runtime != Runtime::Process || self.one_user != Some(true);
        changes_user && uid != 0 && self.run_as.is_some_and(|least| uid >= least)
    }

    fn forbids_image(&self, runtime: Runtime, image: &str) -> Option<NotAllowed> {
        match runtime {
            Runtime::Docker if !image.starts_with(SCHEME) => {
                // What is no name at all, the node tells better.
                let image = Reference::parse(image).ok()?;
                let refusal = image.check(&self.docker_images, self.docker_by_digest).err()?;
                Some(NotAllowed::Image(refusal))
            }
            Runtime::Process | Runtime::Crun
                if image.starts_with('/') && !below(&self.image_roots, image) =>
            {
                Some(NotAllowed::ImageRoot(image.into()))
            }
            _ => None,
        }
    }

    fn forbidden_inputs(&self, files: &TaskFiles) -> impl Iterator<Item = NotAllowed> {
        folders_of_inputs(files)
            .filter(|folder| !below(&self.input_roots, folder))
            .map(|folder| NotAllowed::InputRoot(folder.into()))
    }
}

/// The folders of the node in which the inputs of a task lie: all that decides whether they are allowed.
pub fn folders_of_inputs(files: &TaskFiles) -> impl Iterator<Item = &str> {
    files.inputs.iter().filter_map(|input| match &input.source {
        InputSource::File(path) => Some(Path::new(path).parent()?.to_str()?),
        InputSource::Content(_) | InputSource::Blob(_) => None,
    })
}

fn below(roots: &[String], path: &str) -> bool {
    roots.iter().any(|root| Path::new(path).starts_with(root))
}

/// Why an image may not run, as one part of what a node does not allow.
pub(crate) fn describe(refusal: &ImageRefusal) -> String {
    match refusal {
        ImageRefusal::NotAllowed { name, none: true } => {
            format!("allows no images: add {name} to executor.docker.allowed_images there")
        }
        ImageRefusal::NotAllowed { name, none: false } => {
            format!("does not allow image {name}: add it to executor.docker.allowed_images there")
        }
        ImageRefusal::NoDigest(name) => {
            format!("wants {name} named by digest (executor.docker.require_digest): name@sha256:…")
        }
        ImageRefusal::Malformed(_) => refusal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::Class;
    use crate::files::{InputFile, SecretUse};

    fn spec(image: Option<&str>) -> TaskSpec {
        TaskSpec { image: image.map(Into::into), ..TaskSpec::new(Class::CpuShort, vec!["true".into()]) }
    }

    #[test]
    fn each_rule_counts_for_the_runtimes_that_have_it() {
        let rules = NodeRules {
            docker_images: vec!["busybox".into()],
            docker_by_digest: false,
            image_roots: vec!["/images".into()],
            input_roots: vec!["/data".into()],
            ..NodeRules::default()
        };
        let forbids = |runtime, image: &str| !rules.forbids(runtime, &spec(Some(image))).is_empty();
        assert!(!forbids(Runtime::Docker, "busybox:1") && forbids(Runtime::Docker, "evil/busybox"));
        assert!(!forbids(Runtime::Crun, "/images/a") && forbids(Runtime::Crun, "/images-too/a"));
        assert!(!forbids(Runtime::Crun, "stint://tool") && !forbids(Runtime::Mock, "/etc"));
        assert!(rules.forbids(Runtime::Process, &spec(None)).is_empty());
        let by_digest = NodeRules { docker_by_digest: true, ..rules.clone() };
        let refused = by_digest.forbids(Runtime::Docker, &spec(Some("busybox:1")));
        assert!(matches!(refused[..], [NotAllowed::Image(ImageRefusal::NoDigest(_))]));
        let input = |path: &str| InputFile {
            path: "in".into(),
            source: InputSource::File(path.into()),
            digest: None,
            executable: false,
        };
        let secret = SecretUse { name: "token".into(), variable: None };
        let (inputs, secrets) = (vec![input("/data/a/b"), input("/home/b")], vec![secret]);
        let files = TaskFiles { inputs, secrets, ..TaskFiles::default() };
        let asking = TaskSpec { files: Some(Box::new(files)), ..spec(None) };
        let refused = rules.forbids(Runtime::Process, &asking);
        assert_eq!(refused, [NotAllowed::InputRoot("/home".into()), NotAllowed::Secrets]);
        assert!(NodeRules::open().forbids(Runtime::Process, &asking).is_empty());
    }

    #[test]
    fn a_node_runs_tasks_as_their_users_only_where_it_says_so_and_never_as_root() {
        let forbids = |run_as, one_user, runtime, uid| {
            let rules = NodeRules { run_as, one_user, ..NodeRules::open() };
            !rules.forbids(runtime, &TaskSpec { run_as: Some(uid), ..spec(None) }).is_empty()
        };
        for runtime in [Runtime::Process, Runtime::Crun, Runtime::Docker] {
            assert!(forbids(None, None, runtime, 1000), "{runtime}");
            assert!(!forbids(Some(1000), None, runtime, 1000), "{runtime}");
            assert!(
                forbids(Some(1000), None, runtime, 999) && forbids(Some(0), None, runtime, 0),
                "{runtime}"
            );
        }
        assert!(forbids(Some(1000), Some(true), Runtime::Process, 1000));
        assert!(!forbids(Some(1000), Some(true), Runtime::Crun, 1000));
        assert!(!forbids(None, None, Runtime::Mock, 1000));
    }

    #[test]
    fn a_node_takes_tasks_of_the_tenants_that_it_names() {
        let takes = |tenants: Option<&[&str]>, tenant: &str| {
            let tenants = tenants.map(|names| names.iter().map(|name| name.to_string()).collect());
            NodeRules { tenants, ..NodeRules::default() }.takes(&Tenant::new(tenant).unwrap())
        };
        assert!(takes(None, "a") && takes(Some(&["a", "b"]), "b") && takes(Some(&["*"]), "a"));
        assert!(!takes(Some(&["a", "b"]), "c") && !takes(Some(&["ab"]), "a"));
        let alone = |names: Option<&[&str]>| {
            let tenants = names.map(|names| names.iter().map(|name| name.to_string()).collect());
            NodeRules { tenants, ..NodeRules::default() }.is_dedicated_to(&Tenant::new("a").unwrap())
        };
        assert!(alone(Some(&["a"])) && alone(Some(&["a", "a"])));
        assert!(!alone(None) && !alone(Some(&[])) && !alone(Some(&["a", "b"])) && !alone(Some(&["a", "*"])));
        let long =
            NodeRules { docker_images: vec!["a".repeat(limits::NODE_RULES_BYTES)], ..NodeRules::default() };
        let long = NodeRules { tenants: Some(vec!["a".into()]), one_user: Some(true), ..long }.offered();
        assert!(!long.takes(&Tenant::new("b").unwrap()) && long.one_user == Some(true) && long.secrets);
    }

    #[test]
    fn rules_that_are_too_long_are_the_nodes_own() {
        let rules = |count| NodeRules { docker_images: vec!["a".repeat(92); count], ..NodeRules::default() };
        let most = limits::NODE_RULES_BYTES / 100;
        assert_eq!(rules(most).offered(), rules(most));
        assert_eq!(rules(most + 1).offered(), NodeRules::open());
    }
}
