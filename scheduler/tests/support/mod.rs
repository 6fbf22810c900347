//! Plays a script against the state machine, with `check` after every command.
#![allow(dead_code, clippy::unwrap_used)]

mod flows;
mod images;
mod settings;

use std::collections::BTreeSet;
use std::fmt::Write;

use stint_protocol::*;
use stint_scheduler::*;

pub struct Story {
    pub state: State,
    planner: Planner,
    now: u64,
    submits: u128,
    images: u128,
    down: BTreeSet<NodeId>,
    flows: flows::Flows,
}

impl Default for Story {
    fn default() -> Self {
        let mut story = Self {
            state: State::default(),
            planner: Planner::default(),
            now: 1_000,
            submits: 0,
            images: 0,
            down: BTreeSet::new(),
            flows: flows::Flows::default(),
        };
        story.apply(Command::Configure(Settings::default())).unwrap();
        story
    }
}

impl Story {
    /// Commands stand behind `> `; all else is replaced by what they give.
    pub fn play(script: &str) -> String {
        let mut story = Story::default();
        let mut out = String::new();
        for line in script.lines() {
            if line.starts_with('#') {
                writeln!(out, "{line}").unwrap();
            } else if let Some(command) = line.strip_prefix("> ") {
                writeln!(out, "{line}\n{}", story.line(command)).unwrap();
            }
        }
        out
    }

    pub fn apply(&mut self, command: Command) -> Result<Vec<Change>, Rejection> {
        let result = apply(&mut self.state, StampedCommand { now: TimeMs(self.now), command });
        check(&self.state).unwrap();
        result
    }

    pub fn advance(&mut self, ms: u64) {
        self.now += ms;
    }

    pub fn input(&self) -> PlanInput {
        let up = self.state.nodes().map(|n| n.id).filter(|id| !self.down.contains(id));
        PlanInput { reachable: up.collect() }
    }

    fn line(&mut self, line: &str) -> String {
        let args: Vec<&str> = line.split_whitespace().collect();
        let rest = &args[1..];
        if let Some(command) = images::command(&args, &mut self.images) {
            return self.show(command);
        }
        match args[0] {
            "registry" => images::registry(self, rest),
            "wait" => {
                self.now += rest[0].parse::<u64>().unwrap();
                self.show(Command::Tick)
            }
            "node" => self.node(rest),
            "token" => {
                let uses = rest.get(1).map(|uses| uses.strip_prefix("uses=").unwrap().parse().unwrap());
                let hash = [rest[0].parse().unwrap(); 32];
                self.show(Command::AddJoinToken { hash, valid_ms: 60_000, uses })
            }
            "tokens" => self.tokens(),
            "revoke" => self.show(Command::RemoveJoinToken { hash: [rest[0].parse().unwrap(); 32] }),
            "join" => self.join(rest),
            "submit" => self.submit(rest),
            "plan" => {
                let input = self.input();
                let plan = self.planner.plan(&self.state, &input);
                let trace = self.show(Command::CommitPlan(plan.clone()));
                let missed = overlooked(&mut self.planner, &self.state, &input, &plan);
                assert_eq!(missed, None, "a task that fits waits");
                trace
            }
            // `late KEY=VALUE…`: a plan that is carried out after settings changed.
            "late" => {
                let plan = self.planner.plan(&self.state, &self.input());
                let changed = settings::settings(self, rest);
                format!("{changed}\n{}", self.show(Command::CommitPlan(plan)))
            }
            "end" => self.end(rest),
            "expire" => self.show(Command::ExpireLeases(vec![lease(rest[0], rest[1])])),
            "cancel" => self.show(Command::Cancel(task(rest[0]))),
            "suspend" => self.suspend(rest),
            "wake" => self.show(Command::Wake(task(rest[0]))),
            "flow" | "again" => match flows::command(self, &args) {
                Some(command) => self.show(command),
                None => "  nothing was asked".into(),
            },
            "flows" => flows::show(&self.state),
            "list" => self.list(rest),
            "settings" => settings::settings(self, rest),
            "mode" => self.mode(rest),
            "announce" => {
                self.show(Command::SetNodeVersion { node: node(rest[0]), speaks: version(rest[1]) })
            }
            "raise" => self.show(Command::RaiseVersion { to: version(rest[0]) }),
            "version" => self.version(),
            "uids" => self.uids(),
            "anew" => self.begin_anew(rest),
            "remove" => self.show(Command::RemoveNode(node(rest[0]))),
            "down" => {
                self.down.insert(node(rest[0]));
                "  -".into()
            }
            "up" => {
                self.down.remove(&node(rest[0]));
                "  -".into()
            }
            "explain" => self.explain(rest),
            "show" => self.show_task(task(rest[0])),
            other => panic!("no such command: {other}"),
        }
    }

    fn show(&mut self, command: Command) -> String {
        match self.apply(command) {
            Err(rejection) => format!("  refused: {rejection}"),
            Ok(changes) if changes.is_empty() => "  -".into(),
            Ok(changes) => changes.iter().map(|c| format!("  {}", change(c))).collect::<Vec<_>>().join("\n"),
        }
    }

    /// `anew [keeps=N]`: the nodes, the leases and the next node of a cluster that begins anew from this state.
    fn begin_anew(&mut self, args: &[&str]) -> String {
        let keeps = args.first().map(|word| node(word.strip_prefix("keeps=").unwrap()));
        begin_anew(&mut self.state, keeps, TimeMs(self.now));
        check(&self.state).unwrap();
        let read = decode_snapshot(&encode_snapshot(&self.state)).unwrap();
        assert!(same(&read, &self.state), "its snapshot is another state");
        let nodes: Vec<String> = self.state.nodes().map(|node| node.id.to_string()).collect();
        let next = self.state.next_node();
        format!("  nodes {nodes:?}, {} leases, the next node is {next}", self.state.leases().count())
    }

    /// What the cluster speaks, to what it can be raised, and who holds it back.
    fn version(&self) -> String {
        let names: Vec<&str> = self.state.nodes_below_next_version().map(|node| node.name.as_str()).collect();
        let raisable = self.state.upgradable_to().map(|to| format!(", can be raised to {to}"));
        let raisable = raisable.unwrap_or_default();
        format!("  {}{raisable}, held back by {names:?}", self.state.version())
    }

    /// The user number of each tenant.
    fn uids(&self) -> String {
        let uids: Vec<String> =
            self.state.tenant_uids().map(|(tenant, uid)| format!("{tenant} {uid}")).collect();
        format!("  {}", uids.join(", "))
    }

    /// `node N [speaks=V] [incarnation=I] [cpus=C] [slots=S] [gpus=a,b] [label=k:v] [runtimes=…]
    /// [networks=none,host] [pids=P] [images=PATTERNS] [roots=FOLDERS] [inputs=FOLDERS] [secrets=yes]
    /// [tenants=NAMES] [one_user=yes]`: joins if new, registers.
    /// Without networks it knows no limits of tasks, without images to secrets it offers no rules.
    fn node(&mut self, args: &[&str]) -> String {
        let id = node(args[0]);
        if self.state.node(id).is_none() {
            let disk = [id.0 as u8; 16];
            let token = (id.0 > 1).then_some([9; 32]);
            if token.is_some() {
                self.apply(Command::AddJoinToken { hash: [9; 32], valid_ms: 1_000, uses: None }).unwrap();
            }
            let (name, address) = (format!("n{id}"), format!("10.0.0.{id}:7001"));
            let speaks = args[1..].iter().find_map(|word| word.strip_prefix("speaks="));
            let speaks = speaks.map_or(version::CURRENT, version);
            let admit = Command::Admit(Admit { disk, name, address, token, speaks });
            if let Err(rejection) = self.apply(admit) {
                return format!("  refused: {rejection}");
            }
        }
        let get = |key: &str, default: &str| {
            let found = args[1..].iter().find_map(|w| w.strip_prefix(&format!("{key}=")));
            found.unwrap_or(default).to_string()
        };
        let gpus = get("gpus", "");
        let gpu = |(index, id): (usize, &str)| GpuInfo {
            id: GpuId::new(id).unwrap(),
            model: "NVIDIA H200".into(),
            memory_bytes: 141 << 30,
            index: index as u32,
        };
        let runtimes: Vec<Runtime> =
            get("runtimes", "process,crun").split(',').map(|r| r.parse().unwrap()).collect();
        let with_slurm = runtimes.contains(&Runtime::Slurm);
        let mut offer = NodeOffer {
            resources: Resources {
                cpu_milli: get("cpus", "4").parse::<u64>().unwrap() * 1000,
                memory_bytes: 64 << 30,
            },
            gpus: gpus.split(',').filter(|g| !g.is_empty()).enumerate().map(gpu).collect(),
            runtimes,
            classes: Class::ALL.into_iter().filter(|c| *c != Class::GpuSlurm || with_slurm).collect(),
            slots: get("slots", "8").parse().unwrap(),
            rules: rules(&get),
            ..NodeOffer::default()
        };
        let networks = get("networks", "");
        if !networks.is_empty() {
            let networks: Vec<Network> = networks.split(',').map(|word| word.parse().unwrap()).collect();
            let pids = get("pids", "512").parse().unwrap();
            let allowance = |runtime: &Runtime| Allowance {
                runtime: *runtime,
                networks: networks.clone(),
                pids,
                tmp_bytes: 512 << 20,
                shm_bytes: 64 << 20,
                swap_bytes: 0,
                mounts: None,
            };
            offer.allows = Some(offer.runtimes.iter().map(allowance).collect());
        }
        if let Some((k, v)) = get("label", "").split_once(':') {
            offer.labels.insert(k.into(), v.into());
        }
        let incarnation = Incarnation(get("incarnation", "1").parse().unwrap());
        self.show(Command::RegisterNode(RegisterNode {
            node: id,
            incarnation,
            nonce: Nonce(1),
            offer,
            problems: vec![],
        }))
    }

    fn tokens(&self) -> String {
        let lines = self.state.join_tokens().map(|(hash, token)| {
            let left = token.limit.as_ref().map(|limit| limit.left());
            format!("  {}: until {}, {left:?} left", hash[0], token.expires.0)
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn join(&mut self, args: &[&str]) -> String {
        let disk = [args[0].parse().unwrap(); 16];
        let token = args[2].parse().ok().map(|t: u8| [t; 32]);
        self.show(Command::Admit(Admit {
            disk,
            name: args[1].into(),
            address: "10.9.9.9:7001".into(),
            token,
            speaks: version::CURRENT,
        }))
    }

    /// `submit CLASS [count=N] [name=X] [key=K] [priority=P] [gpus=G] [cpus=C] [timeout=SECONDS] [image=I] [runtime=R] [retry] [fail]
    /// [constraint=k:v] [input=PATH] [secret=NAME] [network=N] [pids=P] [tmp=BYTES] [tenant=T] [run_as=UID] [ask]`. `ask`: only whether any node could ever run it.
    fn submit(&mut self, args: &[&str]) -> String {
        let mut tenant = Tenant::default_tenant();
        let mut spec = TaskSpec::new(args[0].parse().unwrap(), vec!["true".into()]);
        let (mut count, mut name, mut key, mut made) = (1, None, None, None);
        let mut ask = false;
        for word in &args[1..] {
            match word.split_once('=').unwrap_or((word, "")) {
                ("count", n) => count = n.parse().unwrap(),
                ("name", n) => name = Some(TaskName::new(n).unwrap()),
                ("key", k) => key = Some(IdempotencyKey::new(k).unwrap()),
                ("made", at) => made = Some(at.parse().unwrap()),
                ("priority", p) => spec.priority = p.parse().unwrap(),
                ("gpus", g) => {
                    spec.gpus = Some(GpuRequest { count: g.parse().unwrap(), ..GpuRequest::default() })
                }
                ("cpus", c) => spec.cpu_milli = c.parse::<u64>().unwrap() * 1000,
                ("image", image) => spec.image = Some(image.into()),
                ("runtime", runtime) => spec.runtime = Some(runtime.parse().unwrap()),
                ("timeout", s) => spec.timeout_ms = s.parse::<u64>().unwrap() * 1000,
                ("retry", _) => spec.retry.retry_failures = true,
                ("fail", _) => spec.on_lost = OnLost::Fail,
                ("ask", _) => ask = true,
                ("constraint", kv) => {
                    let (k, v) = kv.split_once(':').unwrap();
                    spec.constraints.insert(k.into(), v.into());
                }
                ("network", network) => limits(&mut spec).network = Some(network.parse().unwrap()),
                ("tenant", name) => tenant = Tenant::new(name).unwrap(),
                ("input", path) => {
                    let source = InputSource::File(path.into());
                    let input = InputFile { path: "in".into(), source, digest: None, executable: false };
                    files(&mut spec).inputs.push(input);
                }
                ("secret", name) => {
                    files(&mut spec).secrets.push(SecretUse { name: name.into(), variable: None });
                }
                ("run_as", uid) => spec.run_as = Some(uid.parse().unwrap()),
                ("pids", pids) => limits(&mut spec).pids = Some(pids.parse().unwrap()),
                ("tmp", bytes) => limits(&mut spec).tmp_bytes = Some(bytes.parse().unwrap()),
                other => panic!("{other:?}"),
            }
        }
        let digest = spec.weight() ^ u64::from(spec.priority) ^ (u64::from(count) << 32);
        let spec = match spec.clone().resolve(self.state.settings().class(spec.class)) {
            Ok(spec) => SharedSpec::new(spec),
            Err(error) => return format!("  refused: {error}"),
        };
        if ask {
            let never = never_fits(&self.state, &tenant, &spec);
            return format!("  {}", never.unwrap_or_else(|| "a node could run it".into()));
        }
        self.submits += 1;
        let first = TaskId(self.submits << 16);
        self.show(Command::Submit(Submit {
            tenant,
            first,
            count,
            name,
            spec,
            key,
            digest,
            key_made_ms: made,
        }))
    }

    /// `end NODE TASK ATTEMPT KIND [WORD] [left=CONTENT,…]`: with outputs that the cluster keeps, as their node says.
    fn end(&mut self, args: &[&str]) -> String {
        let kind = match args[3].split_once('=').unwrap_or((args[3], "0")) {
            ("exit", code) => EndKind::Exited(code.parse().unwrap()),
            ("signal", signal) => EndKind::Signalled(signal.parse().unwrap()),
            ("timeout", _) => EndKind::TimedOut,
            ("oom", _) => EndKind::OutOfMemory,
            ("cancelled", _) => EndKind::Cancelled,
            ("lost", _) => EndKind::Lost,
            ("start_failed", _) => EndKind::StartFailed,
            ("files_missing", _) => EndKind::FilesMissing,
            ("not_runnable", _) => EndKind::NotRunnable,
            ("denied", _) => EndKind::Denied,
            ("start_refused", _) => EndKind::StartRefused,
            ("drained", _) => EndKind::Drained,
            ("cut", _) => EndKind::Cut,
            other => panic!("{other:?}"),
        };
        let message = match kind {
            EndKind::StartFailed => "the disk is full".into(),
            EndKind::StartRefused => {
                format!("crun create: {} of /run/n{}", args.get(4).unwrap_or(&"no"), args[0])
            }
            _ => String::new(),
        };
        let mut end = AttemptEnd::new(lease(args[1], args[2]), kind, message, 5);
        let left = args.iter().find_map(|word| word.strip_prefix("left="));
        end.outputs = left.map(|contents| contents.split(',').map(images::output).collect());
        self.show(Command::RecordEnds { node: node(args[0]), ends: vec![end] })
    }

    /// `suspend TASK sleep|paused [MS]`: woken after so long, or by a command alone.
    fn suspend(&mut self, args: &[&str]) -> String {
        let reason = if args[1] == "sleep" { SuspendReason::Sleep } else { SuspendReason::Paused };
        let wake_at = args.get(2).map(|ms| TimeMs(self.now + ms.parse::<u64>().unwrap()));
        self.show(Command::Suspend { task: task(args[0]), reason, wake_at })
    }

    /// `list TENANT`: its live tasks, then its finished ones, each newest first.
    fn list(&self, args: &[&str]) -> String {
        let (tenant, all) = (Tenant::new(args[0]).unwrap(), TaskId(u128::MAX));
        let live: Vec<String> = self.state.tasks_of(&tenant, all).map(|(id, _)| short(id)).collect();
        let finished = self.state.finished_of(&tenant, None, all);
        let finished: Vec<String> = finished.map(|(id, _)| short(id)).collect();
        format!("  live {}, finished {}", live.join(" "), finished.join(" "))
    }

    /// `mode NODE ready|cordon|drain [WITHIN_MS]`
    fn mode(&mut self, args: &[&str]) -> String {
        let mode = match args[1] {
            "ready" => NodeMode::Ready,
            "cordon" => NodeMode::Cordoned,
            _ => NodeMode::Draining,
        };
        let within_ms = args.get(2).map(|within| within.parse().unwrap());
        self.show(Command::SetNodeMode { node: node(args[0]), mode, within_ms })
    }

    fn explain(&mut self, args: &[&str]) -> String {
        let Some(explanation) = explain(&self.state, task(args[0]), &self.input().reachable) else {
            return "  unknown".into();
        };
        let mut out = format!("  {}", explanation.summary);
        for node in explanation.nodes {
            write!(out, "\n  {}: {}", node.name, node.missing.join("; ")).unwrap();
        }
        for line in explanation.advice {
            write!(out, "\n  advice: {line}").unwrap();
        }
        out
    }

    fn show_task(&mut self, id: TaskId) -> String {
        if let Some(done) = self.state.finished(id) {
            let o = &done.fields.outcome;
            let (kind, attempts) = (&o.kind, done.fields.attempts);
            let left = left(&done.fields.records, o.outputs.as_deref());
            return format!(
                "  finished {} as {kind:?}, attempts {attempts}, message {:?}{left}",
                o.as_str(),
                o.message
            );
        }
        match self.state.task(id) {
            None => "  unknown".into(),
            Some(t) => format!(
                "  {:?}, attempts {}, failures {}, losses {}{}",
                t.fields.state,
                t.fields.attempts,
                t.fields.failures,
                t.fields.losses,
                left(&t.fields.records, None)
            ),
        }
    }
}

/// What is remembered of the outputs of each attempt, and of the one that decided; `!`: its bytes need not stay.
fn left(records: &[AttemptRecord], of_outcome: Option<&[KeptFile]>) -> String {
    let paths = |files: &[KeptFile]| -> Vec<String> {
        files.iter().map(|file| format!("{}{}", file.path, if file.is_pinned() { "" } else { "!" })).collect()
    };
    let mut out = String::new();
    for record in records {
        if !record.outputs().is_empty() || record.outputs_forgotten.is_some() {
            let forgotten = record.outputs_forgotten.map(|n| format!(", {n} forgotten")).unwrap_or_default();
            write!(out, ", attempt {} left {:?}{forgotten}", record.number, paths(record.outputs())).unwrap();
        }
    }
    if let Some(files) = of_outcome {
        write!(out, ", the last one left {:?}", paths(files)).unwrap();
    }
    out
}

/// `2.3` is the fourth task of the second submit.
pub fn task(word: &str) -> TaskId {
    let (submit, index) = word.split_once('.').unwrap_or((word, "0"));
    TaskId((submit.parse::<u128>().unwrap() << 16) + index.parse::<u128>().unwrap())
}

fn limits(spec: &mut TaskSpec) -> &mut TaskLimits {
    spec.limits.get_or_insert_default()
}

fn short(id: TaskId) -> String {
    let (submit, index) = (id.0 >> 16, id.0 & 0xffff);
    if index == 0 { submit.to_string() } else { format!("{submit}.{index}") }
}

fn version(word: &str) -> Version {
    Version(word.parse().unwrap())
}

fn files(spec: &mut TaskSpec) -> &mut TaskFiles {
    let none = || Box::new(TaskFiles::default());
    spec.files.get_or_insert_with(none)
}

/// What a node lets tasks name, where the script says anything of it.
fn rules(get: &dyn Fn(&str, &str) -> String) -> Option<Box<NodeRules>> {
    let values =
        ["images", "roots", "inputs", "secrets", "tenants", "one_user", "run_as"].map(|key| get(key, ""));
    let list = |text: &str| text.split(',').filter(|word| !word.is_empty()).map(String::from).collect();
    let [images, roots, inputs, secrets, tenants, one_user, run_as] = &values;
    let rules = NodeRules {
        docker_images: list(images),
        docker_by_digest: false,
        image_roots: list(roots),
        input_roots: list(inputs),
        secrets: secrets == "yes",
        tenants: (!tenants.is_empty()).then(|| list(tenants)),
        one_user: (one_user == "yes").then_some(true),
        run_as: run_as.parse().ok(),
    };
    values.iter().any(|word| !word.is_empty()).then(|| Box::new(rules))
}

fn node(word: &str) -> NodeId {
    NodeId(word.parse().unwrap())
}

fn lease(task_word: &str, attempt: &str) -> LeaseId {
    LeaseId { task: task(task_word), attempt: attempt.parse().unwrap() }
}

fn change(change: &Change) -> String {
    match change {
        Change::Submitted { first, count, repeated } => {
            format!("submitted {} x{count}{}", short(*first), if *repeated { " (repeated)" } else { "" })
        }
        Change::Leased { lease, node } => format!("leased {}#{} to {node}", short(lease.task), lease.attempt),
        Change::StopAsked { lease, node } => {
            format!("stop {}#{} on {node}", short(lease.task), lease.attempt)
        }
        Change::Released { lease, node } => {
            format!("released {}#{} on {node}", short(lease.task), lease.attempt)
        }
        Change::Queued { task } => format!("queued {}", short(*task)),
        Change::Finished { task, outcome, .. } => format!(
            "finished {} {} ({:?}) by attempt {}",
            short(*task),
            outcome.as_str(),
            outcome.kind,
            outcome.attempt
        ),
        Change::ImageRegistered { image, repeated } => {
            format!("image {}{}", image.0, if *repeated { " (repeated)" } else { "" })
        }
        Change::ImageDeleted { image, uses } => format!("image {} deleted, {uses} use it", image.0),
        other => format!("{other:?}"),
    }
}
