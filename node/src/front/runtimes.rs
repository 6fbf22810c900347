//! The runtime that a submit names. Refusals list what the class and the nodes have, never what nobody could use.

use stint_protocol::image::Named;
use stint_protocol::{Class, ImageKind, Runtime, Tenant, python, v1};
use stint_scheduler::State;
use tonic::Status;

use super::convert::invalid;

/// Whether it takes the newest state to tell that a submit is refused: a registered image must have a place for Python.
pub fn needs_image(spec: &v1::TaskSpec) -> bool {
    spec.runtime == python::WORD && Named::of_task(&spec.image).is_some()
}

/// The runtime and the words to run.
pub fn choose(
    state: &State,
    tenant: &Tenant,
    class: Class,
    spec: &mut v1::TaskSpec,
) -> Result<(Option<Runtime>, Vec<String>), Status> {
    let command = std::mem::take(&mut spec.command);
    if spec.runtime.is_empty() {
        return Ok((None, command));
    }
    if spec.runtime != python::WORD {
        let runtime = spec.runtime.parse().map_err(|_| unknown(state, class, &spec.runtime))?;
        return Ok((Some(runtime), command));
    }
    let image = Some(spec.image.as_str()).filter(|image| !image.is_empty());
    let named = image.and_then(Named::of_task).and_then(Result::ok);
    let known = named.and_then(|named| state.image_named(tenant, &named));
    if let Some(image) = known.filter(|image| image.source.kind() == ImageKind::Executable) {
        return Err(invalid(format!(
            "runtime: image {} is a single program, which has no place for {}: leave the runtime out to run that \
             program with these words, or name an image with a root file system that has python3",
            image.name,
            python::WORD
        )));
    }
    Ok((python::runtime(image), python::command(command).map_err(invalid)?))
}

fn unknown(state: &State, class: Class, word: &str) -> Status {
    let offered = |runtime: &&Runtime| state.nodes().any(|node| node.offer.runtimes.contains(runtime));
    let usable: Vec<&Runtime> = state.settings().class(class).runtimes.iter().filter(offered).collect();
    if usable.is_empty() {
        return invalid(format!("unknown runtime {word:?}, and no node offers one for class {class} now"));
    }
    let names: Vec<&str> = usable.iter().map(|runtime| runtime.as_str()).collect();
    invalid(format!(
        "unknown runtime {word:?}: use one of {} for class {class}, or {} for a module or a script",
        names.join(", "),
        python::WORD
    ))
}
