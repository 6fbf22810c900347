//! The runtime that a submit names. Refusals list what the class and the nodes have, never what nobody could use.

use stint_protocol::image::Named;
use stint_protocol::{Class, ImageKind, Runtime, python};
use stint_scheduler::State;

use super::NewTasks;
use crate::service::ServiceError;

/// Whether it takes the newest state to tell that a submit is refused: a registered image must have a place for Python.
pub fn needs_image(new: &NewTasks) -> bool {
    new.runtime == python::WORD && new.spec.image.as_deref().and_then(Named::of_task).is_some()
}

/// Puts the runtime that was named, and the command it takes, into the spec. The state tells what runtimes there are, and
/// what a registered image is.
pub fn choose(state: &State, new: &mut NewTasks) -> Result<(), ServiceError> {
    let class = new.spec.class;
    if new.runtime.is_empty() {
        return Ok(());
    }
    if new.runtime != python::WORD {
        let runtime = new.runtime.parse().map_err(|_| unknown(state, class, &new.runtime))?;
        new.spec.runtime = Some(runtime);
        return Ok(());
    }
    let image = new.spec.image.as_deref();
    let named = image.and_then(Named::of_task).and_then(Result::ok);
    let known = named.and_then(|named| state.image_named(&new.tenant, &named));
    if let Some(program) = known.filter(|image| image.source.kind() == ImageKind::Executable) {
        return Err(ServiceError::NoPlaceForPython(program.name.clone()));
    }
    new.spec.runtime = python::runtime(image);
    new.spec.command = python::command(std::mem::take(&mut new.spec.command))?;
    Ok(())
}

fn unknown(state: &State, class: Class, asked: &str) -> ServiceError {
    let asked = asked.to_owned();
    let offered = |runtime: &Runtime| state.nodes().any(|node| node.offer.runtimes.contains(runtime));
    let usable: Vec<Runtime> =
        state.settings().class(class).runtimes.iter().copied().filter(offered).collect();
    match usable.is_empty() {
        true => ServiceError::NoRuntimeOffered { asked, class },
        false => ServiceError::UnknownRuntime { asked, class, usable },
    }
}
