//! What an attempt runs instead of a program of the host: a registered image, or a folder that the operator permits.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use stint_protocol::TaskSpec;

use crate::image_config;
use crate::observer::Rule;
use crate::refusal::Refusal;
use crate::settings::{CrunOptions, HostOptions};
use crate::shim_api::inside::BINARY;
use crate::shim_api::request::Root;
use crate::store::ImageFiles;

/// Rights of others to read and execute.
const EVERYBODY: u32 = 0o005;

/// What an attempt runs: what the registry gave, or what the task names under one of the operator's folders. None: a
/// program of the host.
/// `folders`: it may be a whole root file system.
pub fn resolve(
    settings: &HostOptions,
    spec: &TaskSpec,
    folders: bool,
    image: Option<&ImageFiles>,
) -> Result<Option<ImageFiles>, Refusal> {
    let found = find(&settings.crun, spec, folders, image);
    if found.as_ref().is_err_and(Refusal::is_denied) {
        settings.observe(|observer| observer.denied(Rule::CrunRoots));
    }
    found
}

fn find(
    settings: &CrunOptions,
    spec: &TaskSpec,
    folders: bool,
    image: Option<&ImageFiles>,
) -> Result<Option<ImageFiles>, Refusal> {
    let found = match (image, &spec.image) {
        (None, None) => return Ok(None),
        (Some(files), _) => files.clone(),
        (None, Some(name)) => named(settings, name)?,
    };
    if matches!(found, ImageFiles::Root { .. }) && !folders {
        let message = "the process runtime runs programs of the host and images of one executable file: use --runtime crun \
                       for a root file system";
        return Err(Refusal::not_runnable(message));
    }
    if let ImageFiles::Executable(file) = &found {
        check_mode(file)?;
    }
    Ok(Some(found))
}

/// Told before anything starts, with the name that the task knows.
fn check_mode(file: &Path) -> Result<(), Refusal> {
    match std::fs::metadata(file) {
        Ok(meta) if meta.mode() & EVERYBODY == EVERYBODY => Ok(()),
        Ok(_) => {
            let message = format!("{}: not readable and executable by everybody (chmod 755)", file.display());
            Err(Refusal::not_runnable(message))
        }
        Err(e) => Err(Refusal::start_failed(format!("the image {}: {e}", file.display()))),
    }
}

/// What the attempt's root is; none = the host's.
pub fn root_for(image: Option<&ImageFiles>) -> Option<Root> {
    let shown = |path: &Path| path.display().to_string();
    Some(match image? {
        ImageFiles::Executable(file) => Root::Executable(shown(file)),
        ImageFiles::Root { folder, config } => Root::Folder(shown(folder), config.working_dir.clone()),
    })
}

/// What a task names, when it lies under one of the operator's folders. Links count as where they lead to.
fn named(settings: &CrunOptions, name: &str) -> Result<ImageFiles, Refusal> {
    if !name.starts_with('/') {
        let message =
            format!("{name:?} is no registered image and no path: for a Docker image use --runtime docker");
        return Err(Refusal::not_runnable(message));
    }
    let denied = || {
        let message = format!(
            "{name} is not under a folder of executor.crun.roots of this node: let its operator add one"
        );
        Refusal::denied(message)
    };
    // Before anything is looked up: a task must not learn which paths exist.
    let named = |root: &PathBuf| Path::new(name).starts_with(root);
    let climbs = Path::new(name).components().any(|part| part == Component::ParentDir);
    if climbs || !settings.roots.iter().any(named) {
        return Err(denied());
    }
    let real =
        std::fs::canonicalize(name).map_err(|e| Refusal::not_runnable(format!("the image {name}: {e}")))?;
    let mut roots = settings.roots.iter().filter_map(|root| std::fs::canonicalize(root).ok());
    if !roots.any(|root| real.starts_with(root)) {
        return Err(denied());
    }
    match std::fs::metadata(&real) {
        Ok(meta) if meta.is_dir() => Ok(ImageFiles::Root { folder: real, config: Arc::default() }),
        Ok(meta) if meta.is_file() => Ok(ImageFiles::Executable(real)),
        _ => Err(Refusal::not_runnable(format!("{name} is neither a folder nor a file"))),
    }
}

/// The words to run: as Docker puts an image's and a task's together.
pub fn command(spec: &TaskSpec, image: Option<&ImageFiles>) -> Vec<String> {
    let own = spec.command.iter().cloned();
    match image {
        None => own.collect(),
        Some(ImageFiles::Executable(_)) => std::iter::once(BINARY.to_owned()).chain(own).collect(),
        Some(ImageFiles::Root { config, .. }) => {
            let default = config.command.iter().filter(|_| spec.command.is_empty()).cloned();
            config.entrypoint.iter().cloned().chain(own).chain(default).collect()
        }
    }
}

/// The signal that asks an image's program to end. One of a name that there is not is none.
pub fn stop_signal(image: Option<&ImageFiles>) -> Option<i32> {
    let Some(ImageFiles::Root { config, .. }) = image else { return None };
    image_config::signal_number(config.stop_signal.as_deref()?)
}

/// Folders of an image that get a place of their own to be written in.
pub fn volumes(image: Option<&ImageFiles>) -> Vec<String> {
    let Some(ImageFiles::Root { config, .. }) = image else { return Vec::new() };
    image_config::volumes(&config.volumes)
}

/// The variables that an image sets.
pub fn environment(image: Option<&ImageFiles>) -> BTreeMap<String, String> {
    let Some(ImageFiles::Root { config, .. }) = image else { return BTreeMap::new() };
    let pairs = config.environment.iter().filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| !name.starts_with("STINT_")).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use stint_protocol::{Class, EndKind};

    use super::*;
    use crate::store::ImageConfig;

    fn split_words(text: &str) -> Vec<String> {
        text.split_whitespace().map(String::from).collect()
    }

    fn with_image(name: &str) -> TaskSpec {
        let mut spec = TaskSpec::new(Class::CpuLong, split_words("sh"));
        spec.image = Some(name.into());
        spec
    }

    #[test]
    fn only_folders_under_the_operators_are_roots() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("allowed/debian");
        std::fs::create_dir_all(&inside).unwrap();
        let link = folder.path().join("allowed/link");
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        let settings = CrunOptions { roots: vec![folder.path().join("allowed")], ..CrunOptions::default() };
        let resolve = |name: &str| find(&settings, &with_image(name), true, None);
        let shown = |path: &Path| path.display().to_string();
        let chosen = root_for(resolve(&shown(&inside)).unwrap().as_ref()).unwrap();
        assert_eq!(chosen, Root::Folder(shown(&inside.canonicalize().unwrap()), None));
        let out = format!("{}/../../../etc", inside.display());
        for denied in ["/", "/etc", "/no/such", &shown(&link), &out] {
            let Refusal { kind, message } = resolve(denied).unwrap_err();
            assert!(
                kind == EndKind::Denied && message.contains("executor.crun.roots"),
                "{denied}: {message}"
            );
        }
        assert_eq!(resolve("busybox:1").unwrap_err().kind, EndKind::NotRunnable);
        let no_roots = find(&CrunOptions::default(), &with_image("/srv"), true, None);
        assert_eq!(no_roots.unwrap_err().kind, EndKind::Denied);
    }

    #[test]
    fn an_image_and_a_task_are_put_together_as_docker_does() {
        let config = ImageConfig {
            entrypoint: split_words("/entry --first"),
            command: split_words("default words"),
            environment: split_words("PATH=/opt A=b=c STINT_TASK_ID=7 broken"),
            working_dir: Some("/srv".into()),
            stop_signal: Some("SIGINT".into()),
            volumes: split_words("/data /work"),
        };
        let image = ImageFiles::Root { folder: "/image".into(), config: Arc::new(config) };
        let mut spec = TaskSpec::new(Class::CpuLong, split_words("own"));
        assert_eq!(command(&spec, Some(&image)), split_words("/entry --first own"));
        spec.command.clear();
        assert_eq!(command(&spec, Some(&image)), split_words("/entry --first default words"));
        let variables: Vec<String> =
            environment(Some(&image)).into_iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(variables, ["A=b=c", "PATH=/opt"]);
        assert_eq!(root_for(Some(&image)), Some(Root::Folder("/image".into(), Some("/srv".into()))));
        assert_eq!(
            (stop_signal(Some(&image)), volumes(Some(&image))),
            (Some(libc::SIGINT), vec!["/data".into()])
        );
        let as_process = find(&CrunOptions::default(), &spec, false, Some(&image));
        assert_eq!(as_process.unwrap_err().kind, EndKind::NotRunnable);
        let file = ImageFiles::Executable("/blob".into());
        spec.command = split_words("a b");
        assert_eq!(command(&spec, Some(&file)), split_words("/binary a b"));
    }
}
