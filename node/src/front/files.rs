//! Files of tasks, read from `stint.v1`.

use stint_protocol::v1::input_file::Source;
use stint_protocol::{Blob, InputFile, InputSource, OutputPath, SecretUse, TaskFiles, v1};
use tonic::Status;

use super::errors::invalid;

/// Inputs, outputs and secrets as they came in, and what becomes of the output streams; none when there are none.
pub fn task_files(
    inputs: Vec<v1::InputFile>,
    outputs: Vec<v1::OutputPath>,
    secrets: Vec<v1::SecretUse>,
    keep: &str,
    (logs_keep, record): (&str, Option<bool>),
) -> Result<Option<Box<TaskFiles>>, Status> {
    let output = |output: v1::OutputPath| OutputPath { path: output.path, optional: output.optional };
    let secret = |secret: v1::SecretUse| SecretUse {
        name: secret.name,
        variable: Some(secret.variable).filter(|variable| !variable.is_empty()),
    };
    let said = |word: &str| Some(word).filter(|word| !word.is_empty()).map(str::to_owned);
    let files = TaskFiles {
        inputs: inputs.into_iter().map(input).collect::<Result<_, _>>()?,
        outputs: outputs.into_iter().map(output).collect(),
        secrets: secrets.into_iter().map(secret).collect(),
        keep: said(keep).map(|word| word.parse()).transpose().map_err(invalid)?,
        logs: said(logs_keep).map(|word| word.parse()).transpose().map_err(invalid)?,
        record,
    };
    Ok((!files.is_empty()).then(|| Box::new(files)))
}

fn input(input: v1::InputFile) -> Result<InputFile, Status> {
    let v1::InputFile { path, source, digest, executable } = input;
    let source = match source {
        Some(Source::Content(bytes)) => InputSource::Content(bytes),
        Some(Source::File(path)) => InputSource::File(path),
        Some(Source::Blob(blob)) => InputSource::Blob(self::blob(blob)?),
        None => return Err(invalid(format!("inputs: {path:?} has no source: give content, file or blob"))),
    };
    let digest = Some(digest).filter(|digest| !digest.is_empty());
    let digest = digest.map(|digest| digest.parse()).transpose().map_err(invalid)?;
    Ok(InputFile { path, source, digest, executable })
}

fn blob(blob: v1::Blob) -> Result<Blob, Status> {
    Ok(Blob { digest: blob.digest.parse().map_err(invalid)?, size: blob.size_bytes })
}
