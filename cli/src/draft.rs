//! A task as the user writes it, in a file or as flags: the same keys, the same units.

use std::collections::BTreeMap;

use stint_sdk::v1;

use crate::args::DEFAULT_TENANT;
use crate::failure::Failure;
use crate::limits::Limits;

/// What was said about a task; unsaid things are left to the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    pub class: Option<String>,
    pub name: Option<String>,
    pub tenant: Option<String>,
    pub count: Option<u32>,
    pub command: Vec<String>,
    pub runtime: Option<String>,
    pub image: Option<String>,
    pub cpu_milli: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub gpus: Option<u32>,
    pub gpu_model: Option<String>,
    pub gpu_memory_bytes: Option<u64>,
    pub timeout_ms: Option<u64>,
    pub stop_grace_ms: Option<u64>,
    pub priority: Option<u32>,
    pub env: BTreeMap<String, String>,
    pub constraints: BTreeMap<String, String>,
    pub retries: Option<u32>,
    pub retry_failures: Option<bool>,
    pub on_lost: Option<String>,
    pub idempotency_key: Option<String>,
    pub inputs: Vec<v1::InputFile>,
    pub outputs: Vec<v1::OutputPath>,
    pub secrets: Vec<v1::SecretUse>,
    pub limits: Limits,
}

impl Draft {
    /// This draft, and where it says nothing, `below`; files, secrets and variables join.
    pub fn over(self, below: Draft) -> Draft {
        let joined = |above: BTreeMap<_, _>, mut below: BTreeMap<_, _>| {
            below.extend(above);
            below
        };
        Draft {
            class: self.class.or(below.class),
            name: self.name.or(below.name),
            tenant: self.tenant.or(below.tenant),
            count: self.count.or(below.count),
            command: if self.command.is_empty() { below.command } else { self.command },
            runtime: self.runtime.or(below.runtime),
            image: self.image.or(below.image),
            cpu_milli: self.cpu_milli.or(below.cpu_milli),
            memory_bytes: self.memory_bytes.or(below.memory_bytes),
            gpus: self.gpus.or(below.gpus),
            gpu_model: self.gpu_model.or(below.gpu_model),
            gpu_memory_bytes: self.gpu_memory_bytes.or(below.gpu_memory_bytes),
            timeout_ms: self.timeout_ms.or(below.timeout_ms),
            stop_grace_ms: self.stop_grace_ms.or(below.stop_grace_ms),
            priority: self.priority.or(below.priority),
            env: joined(self.env, below.env),
            constraints: joined(self.constraints, below.constraints),
            retries: self.retries.or(below.retries),
            retry_failures: self.retry_failures.or(below.retry_failures),
            on_lost: self.on_lost.or(below.on_lost),
            idempotency_key: self.idempotency_key.or(below.idempotency_key),
            inputs: [below.inputs, self.inputs].concat(),
            outputs: [below.outputs, self.outputs].concat(),
            secrets: [below.secrets, self.secrets].concat(),
            limits: self.limits.over(below.limits),
        }
    }

    /// The request to submit it. Only what the cluster could not tell is refused here.
    pub fn into_request(self) -> Result<v1::SubmitRequest, Failure> {
        if self.command.is_empty() && self.image.is_none() {
            let advice = "give a program after --, a task file with -f, or an image";
            return Err(Failure::Usage(format!("nothing to run: {advice}")));
        }
        Ok(v1::SubmitRequest {
            tenant: self.tenant.clone().unwrap_or_else(|| DEFAULT_TENANT.into()),
            name: self.name.clone().unwrap_or_default(),
            count: self.count.unwrap_or(1),
            idempotency_key: self.idempotency_key.clone().unwrap_or_default(),
            spec: Some(self.into_spec()),
        })
    }

    fn into_spec(self) -> v1::TaskSpec {
        let gpus = self.gpu_request();
        let default_class = if gpus.as_ref().is_some_and(|g| g.count > 0) { "gpu" } else { "cpu_short" };
        let retry = self.retry_policy();
        v1::TaskSpec {
            class: self.class.unwrap_or_else(|| default_class.into()),
            command: self.command,
            runtime: self.runtime.unwrap_or_default(),
            image: self.image.unwrap_or_default(),
            env: self.env.into_iter().collect(),
            cpu_milli: self.cpu_milli.unwrap_or(0),
            memory_bytes: self.memory_bytes.unwrap_or(0),
            gpus,
            timeout_ms: self.timeout_ms.unwrap_or(0),
            priority: self.priority,
            retry,
            on_lost: self.on_lost.unwrap_or_default(),
            constraints: self.constraints.into_iter().collect(),
            stop_grace_ms: self.stop_grace_ms,
            inputs: self.inputs,
            outputs: self.outputs,
            secrets: self.secrets,
            limits: self.limits.into_request(),
        }
    }

    /// Naming a model or a memory means one GPU, unless a number is said.
    fn gpu_request(&self) -> Option<v1::GpuRequest> {
        let narrowed = self.gpu_model.is_some() || self.gpu_memory_bytes.is_some();
        let count = self.gpus.or(narrowed.then_some(1))?;
        Some(v1::GpuRequest {
            count,
            model: self.gpu_model.clone().unwrap_or_default(),
            min_memory_bytes: self.gpu_memory_bytes.unwrap_or(0),
        })
    }

    /// `retries` counts the attempts after the first.
    fn retry_policy(&self) -> Option<v1::RetryPolicy> {
        (self.retries.is_some() || self.retry_failures.is_some()).then(|| v1::RetryPolicy {
            max_attempts: self.retries.map_or(0, |n| n.saturating_add(1)),
            retry_failures: self.retry_failures.unwrap_or(false),
            ..Default::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(command: &str) -> Draft {
        Draft { command: command.split_whitespace().map(String::from).collect(), ..Draft::default() }
    }

    #[test]
    fn flags_win_over_the_file_and_variables_join() {
        let env =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let file =
            Draft { class: Some("gpu".into()), env: env(&[("A", "1"), ("B", "1")]), ..draft("from file") };
        let flags = Draft { count: Some(3), env: env(&[("B", "2")]), ..Draft::default() };
        let request = flags.over(file).into_request().unwrap();
        let spec = request.spec.unwrap();
        assert_eq!((request.count, spec.class.as_str(), spec.command.len()), (3, "gpu", 2));
        assert_eq!((spec.env["A"].as_str(), spec.env["B"].as_str()), ("1", "2"));
    }

    #[test]
    fn what_is_unsaid_is_left_to_the_cluster() {
        let request = draft("true").into_request().unwrap();
        let spec = request.spec.unwrap();
        assert_eq!((request.tenant.as_str(), spec.class.as_str()), ("default", "cpu_short"));
        assert_eq!((spec.cpu_milli, spec.timeout_ms, spec.priority), (0, 0, None));
        assert!(spec.retry.is_none() && spec.gpus.is_none());
    }

    #[test]
    fn a_gpu_model_means_one_gpu_and_the_class_gpu() {
        let spec = Draft { gpu_model: Some("H200".into()), ..draft("train") }.into_spec();
        assert_eq!((spec.class.as_str(), spec.gpus.unwrap().count), ("gpu", 1));
    }

    #[test]
    fn retries_are_the_attempts_after_the_first() {
        let policy = Draft { retries: Some(0), ..draft("x") }.retry_policy().unwrap();
        assert_eq!(policy.max_attempts, 1);
        let policy = Draft { retry_failures: Some(true), ..draft("x") }.retry_policy().unwrap();
        assert_eq!((policy.max_attempts, policy.retry_failures), (0, true));
    }

    #[test]
    fn nothing_to_run_is_refused() {
        assert!(Draft::default().into_request().unwrap_err().to_string().contains("nothing to run"));
    }
}
