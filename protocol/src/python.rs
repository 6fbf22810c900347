//! The word `python` in the place of a runtime: a module or a script instead of a command line. It is no runtime of its
//! own: the interpreter runs it, and the process runtime or that of the image runs the interpreter.

use crate::class::Runtime;
use crate::image::NameKind;
use crate::task::InvalidSpec;

/// What users write as runtime.
pub const WORD: &str = "python";
/// Looked up in PATH where the task runs.
const INTERPRETER: &str = "python3";

/// The words that are run for a module (`package.module`) or a script (a path that ends with `.py`), with arguments.
pub fn command(arguments: Vec<String>) -> Result<Vec<String>, InvalidSpec> {
    let entry = arguments.first().map(String::as_str).unwrap_or_default();
    let before: &[&str] = if entry.ends_with(".py") && !entry.starts_with('-') {
        &[INTERPRETER]
    } else if is_module(entry) {
        &[INTERPRETER, "-m"]
    } else {
        let problem = format!(
            "{entry:?} is neither a module, for example package.module, nor a path that ends with .py: runtime {WORD} \
             takes one of both and its arguments; for any other command line choose a runtime"
        );
        return Err(InvalidSpec { field: "command", problem });
    };
    Ok(before.iter().map(|word| word.to_string()).chain(arguments).collect())
}

/// What runs the interpreter; none: the registered image decides.
pub fn runtime(image: Option<&str>) -> Option<Runtime> {
    image.map_or(Some(Runtime::Process), |image| NameKind::read(image)?.runtime())
}

/// Names as Python has them, with dots between.
fn is_module(text: &str) -> bool {
    let is_name = |name: &str| {
        let mut letters = name.chars();
        letters.next().is_some_and(|c| c.is_alphabetic() || c == '_')
            && letters.all(|c| c.is_alphanumeric() || c == '_')
    };
    text.split('.').all(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(arguments: &str) -> Result<String, String> {
        let arguments = arguments.split(' ').map(String::from).collect();
        command(arguments).map(|arguments| arguments.join(" ")).map_err(|e| e.to_string())
    }

    #[test]
    fn a_module_and_a_script_get_their_interpreter() {
        assert_eq!(made("package.module --fast 3").unwrap(), "python3 -m package.module --fast 3");
        assert_eq!(made("_m1").unwrap(), "python3 -m _m1");
        assert_eq!(made("bin/train.py -x").unwrap(), "python3 bin/train.py -x");
        assert_eq!(made("/opt/train.py").unwrap(), "python3 /opt/train.py");
    }

    #[test]
    fn nothing_else_is_taken_for_one() {
        for arguments in ["", "-c print(1)", "-x.py", "a..b", "a.b.", "1a", "my-tool", "/bin/true"] {
            let refusal = made(arguments).expect_err(arguments);
            assert!(refusal.starts_with("command: "), "{refusal}");
        }
    }

    #[test]
    fn the_image_says_what_runs_it() {
        let cases = [
            (None, Some(Runtime::Process)),
            (Some("stint://tool"), None),
            (Some("/srv/roots/py"), Some(Runtime::Crun)),
            (Some("python:3.13-slim"), Some(Runtime::Docker)),
        ];
        for (image, expected) in cases {
            assert_eq!(runtime(image), expected, "{image:?}");
        }
    }
}
