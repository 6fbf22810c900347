//! What a program says its result is: a line of its stdout that begins with a marker, and small JSON files among its outputs.

use serde_json::Value;
use stint_protocol::KeptFile;

use crate::host::{LogChunk, SmallFile};
use crate::limits;
use crate::stages::mask::Masks;

/// What the line begins with; the second is that of the published clients.
const MARKERS: [&[u8]; 2] = [b"__STINT_RESULT__:", b"__DSPY_RESULT__:"];

/// What is said in the end of a stdout that nobody writes to any more: the last marked line that is JSON. One that begins before these
/// bytes is not seen.
pub(crate) fn find_result(stdout: &LogChunk, masks: Option<&Masks>) -> Vec<u8> {
    let is_cut = stdout.next_offset > stdout.bytes.len() as u64;
    let mut lines: Vec<&[u8]> = stdout.bytes.split(|byte| *byte == b'\n').collect();
    if is_cut {
        lines.remove(0);
    }
    let said = |line: &&[u8]| {
        let marked = MARKERS.iter().find_map(|marker| line.strip_prefix(*marker))?;
        compact(marked, limits::RESULT_LINE_BYTES, masks)
    };
    lines.iter().rev().find_map(said).unwrap_or_default()
}

/// The same of an attempt without secrets.
pub fn result_line(stdout: &LogChunk) -> Vec<u8> {
    find_result(stdout, None)
}

/// Those of an attempt's outputs that are small JSON, in their order, as far as there is room. `read` gives so many bytes of one.
pub(crate) fn small_files(
    kept: &[KeptFile],
    masks: Option<&Masks>,
    read: impl Fn(&str, usize) -> Option<Vec<u8>>,
) -> Vec<SmallFile> {
    let (mut files, mut room) = (Vec::new(), limits::SMALL_FILES_BYTES);
    let is_small =
        |kept: &&KeptFile| kept.path.ends_with(".json") && kept.blob.size <= limits::SMALL_FILE_READ_BYTES;
    for kept in kept.iter().filter(is_small).take(limits::SMALL_FILES) {
        let bytes = read(&kept.path, kept.blob.size as usize);
        let json = bytes.and_then(|bytes| compact(&bytes, limits::SMALL_FILE_BYTES, masks));
        let Some(json) = json else { continue };
        let Some(rest) = room.checked_sub(json.len() + kept.path.len()) else { continue };
        room = rest;
        files.push(SmallFile { path: kept.path.clone(), json });
    }
    files
}

/// JSON without blanks; none when it is none, or is too long. A secret in it is hidden however JSON writes it; where it stands as a
/// number there is no room for stars, and nothing is told.
fn compact(bytes: &[u8], most: usize, masks: Option<&Masks>) -> Option<Vec<u8>> {
    if masks == Some(&Masks::Unknown) {
        return None;
    }
    let mut bytes = bytes.to_vec();
    masks.map(|masks| masks.cover(&mut bytes));
    let mut value: Value = serde_json::from_slice(&bytes).ok()?;
    if let Some(masks) = masks {
        value = hide(value, masks);
    }
    let mut written = serde_json::to_vec(&value).ok()?;
    let shows_none = !masks.is_some_and(|masks| masks.cover(&mut written));
    (shows_none && written.len() <= most).then_some(written)
}

fn hide(value: Value, masks: &Masks) -> Value {
    match value {
        Value::String(text) => Value::String(masks.hide(text)),
        Value::Array(items) => Value::Array(items.into_iter().map(|item| hide(item, masks)).collect()),
        Value::Object(fields) => {
            let hidden = fields.into_iter().map(|(name, item)| (masks.hide(name), hide(item, masks)));
            Value::Object(hidden.collect())
        }
        plain => plain,
    }
}

#[cfg(test)]
mod tests {
    use stint_protocol::{Blob, Digest};

    use super::*;

    fn said(stdout: &str, masks: Option<&Masks>) -> String {
        let bytes = stdout.as_bytes().to_vec();
        let chunk = LogChunk { next_offset: bytes.len() as u64, bytes, complete: true };
        String::from_utf8(find_result(&chunk, masks)).unwrap()
    }

    #[test]
    fn the_last_marked_line_that_is_json_counts() {
        let many = "more\n".repeat(2_000);
        let marked =
            format!("a\n__STINT_RESULT__:{{\"a\":1}}\n__DSPY_RESULT__: {{ \"b\" : [1, 2] }}\n{many}");
        assert_eq!(said(&marked, None), r#"{"b":[1,2]}"#);
        assert_eq!(said("__STINT_RESULT__:\"no line break\"", None), r#""no line break""#);
        assert_eq!(said("__STINT_RESULT__:1\n__STINT_RESULT__:not json\nx __STINT_RESULT__:2\n", None), "1");
        assert_eq!(said("nothing\n", None), "");
        let long = "x".repeat(limits::RESULT_LINE_BYTES);
        assert_eq!(said(&format!("__STINT_RESULT__:1\n__STINT_RESULT__:\"{long}\"\n"), None), "1");
        let deep = "[".repeat(100_000);
        assert_eq!(said(&format!("__STINT_RESULT__:{deep}"), None), "");
    }

    #[test]
    fn a_line_that_began_before_what_is_read_is_not_seen() {
        let bytes = b"__STINT_RESULT__:1\nrest\n".to_vec();
        let chunk = LogChunk { next_offset: bytes.len() as u64 + 3, bytes, complete: true };
        assert_eq!(find_result(&chunk, None), b"");
    }

    #[test]
    fn secrets_are_hidden_however_json_writes_them() {
        let masks = Masks::for_values(&[b"p4ss\"w0rd".to_vec(), b"40712345678".to_vec()]);
        let unknown = said("__STINT_RESULT__:1\n", Some(&Masks::Unknown));
        assert_eq!(unknown, "");
        let said = |line: &str| said(&format!("__STINT_RESULT__:{line}\n"), Some(&masks));
        assert_eq!(said(r#"{"a":["it is p4ss\"w0rd"]}"#), r#"{"a":["it is *********"]}"#);
        assert_eq!(said(r#"{"\u0070\u0034ss\"w0rd":"4071234567\u0038"}"#), r#"{"*********":"***********"}"#);
        assert_eq!(said(r#"{"a":40712345678}"#), "", "there is no room for stars");
        assert_eq!(said(r#"{"a":407123456.78e2}"#), "", "nor when it is written in another way");
    }

    #[test]
    fn small_json_is_taken_as_far_as_there_is_room() {
        let kept = |path: &str, size| KeptFile {
            path: path.into(),
            blob: Blob { digest: Digest::from_bytes([1; 32]), size },
            stored: true,
            executable: None,
            pinned: None,
        };
        let half = format!("\"{}\"", "y".repeat(limits::SMALL_FILE_BYTES - 2));
        let read = |path: &str, _| {
            let text = match path {
                "wrong.json" => "{".into(),
                "metrics.json" => "{ \"loss\": 0.5,\n \"step\": 7 }\n".into(),
                _ => half.clone(),
            };
            Some(text.into_bytes())
        };
        let most = limits::SMALL_FILE_READ_BYTES;
        let outputs = [
            kept("model.bin", 9),
            kept("wrong.json", 1),
            kept("large.json", most + 1),
            kept("one.json", 9),
            kept("two.json", 9),
            kept("metrics.json", 30),
        ];
        let found = small_files(&outputs, None, read);
        let paths: Vec<&str> = found.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["one.json", "metrics.json"], "there is no room for two of the largest");
        assert_eq!(found[1].json, br#"{"loss":0.5,"step":7}"#);
        let many: Vec<KeptFile> = (0..200).map(|_| kept("metrics.json", 30)).collect();
        assert_eq!(small_files(&many, None, read).len(), limits::SMALL_FILES);
    }
}
