//! A page of the guide as its test reads it: what it says to set up, and its commands in their order.
//!
//! A comment in the page's source, `<!-- test: … -->`, stands before a fenced block, or at the top for the page. Words
//! of the page: `peers=N` (a cluster of N peers is there before the first command; none: the page starts its own),
//! `hosts=N` (machines `gpu-1` to `gpu-N`), `docker` (the machine's Docker daemon is used). Words of a block:
//! `host=N`, `background` (a peer that runs on; the next block waits until it answers), `exit=CODE` (of its last command),
//! `file=NAME` (it is written), `stint.toml` (settings of the page's cluster), `not run: REASON`. Lines of the comment that
//! follow are shell commands that prepare what the page takes for granted.
//!
//! Blocks marked `sh` run. A block marked `text` is what the commands before it print; `…` in it stands for anything on
//! the line, and a line `…` for any lines. A word that ends with `…` in a command is the first one that was
//! printed before with the same beginning.

/// What is set up before the first command, and what follows.
#[derive(Debug, Default)]
pub struct Page {
    pub peers: usize,
    pub hosts: usize,
    pub docker: bool,
    pub prepare: String,
    /// For the configuration of the page's cluster.
    pub settings: Vec<String>,
    pub steps: Vec<Step>,
    /// Lines and reasons of blocks that do not run.
    pub left_out: Vec<(usize, String)>,
}

/// One block that does something.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Run(Run),
    File { name: String, text: String },
}

/// Commands, and what they print and answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    pub line: usize,
    pub script: String,
    pub host: usize,
    pub background: bool,
    pub exit: i32,
    pub prints: Option<String>,
}

/// A fenced block with the comment before it.
struct Block<'a> {
    line: usize,
    language: &'a str,
    text: String,
    marks: Marks,
}

/// What a comment says.
#[derive(Default)]
struct Marks {
    args: Vec<String>,
    not_run: Option<String>,
    prepare: String,
}

impl Marks {
    fn value(&self, key: &str) -> Option<&str> {
        self.args.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    fn number(&self, key: &str) -> Result<Option<usize>, String> {
        let parse = |text: &str| text.parse().map_err(|_| format!("{key}={text}: not a number"));
        self.value(key).map(parse).transpose()
    }

    fn has(&self, word: &str) -> bool {
        self.args.iter().any(|known| known == word)
    }

    /// Refuses words that mean nothing here, so that a misspelt one does not pass.
    fn check(&self, known: &[&str]) -> Result<(), String> {
        let unknown = |word: &&String| !known.contains(&word.split('=').next().unwrap_or_default());
        self.args.iter().find(unknown).map_or(Ok(()), |word| Err(format!("unknown word {word:?}")))
    }
}

impl Page {
    /// Reads a page. Errors name the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (marks, blocks) = blocks(text)?;
        marks.check(&["peers", "hosts", "docker"])?;
        let mut page = Self {
            peers: marks.number("peers")?.unwrap_or(0),
            hosts: marks.number("hosts")?.unwrap_or(1),
            docker: marks.has("docker"),
            prepare: marks.prepare,
            ..Self::default()
        };
        for block in blocks {
            let line = block.line;
            page.take(block).map_err(|e| format!("line {line}: {e}"))?;
        }
        Ok(page)
    }

    fn take(&mut self, block: Block<'_>) -> Result<(), String> {
        let Block { line, language, text, marks } = block;
        marks.check(&["host", "background", "exit", "file", "stint.toml"])?;
        if let Some(reason) = marks.not_run {
            self.left_out.push((line, reason));
            return Ok(());
        }
        match (language, marks.value("file")) {
            (_, Some(name)) => self.steps.push(Step::File { name: name.to_owned(), text }),
            ("toml", None) if marks.has("stint.toml") => self.settings.push(text),
            ("sh", None) => self.steps.push(Step::Run(Run {
                line,
                script: text,
                host: marks.number("host")?.unwrap_or(1),
                background: marks.has("background"),
                exit: marks.number("exit")?.unwrap_or(0) as i32,
                prints: None,
            })),
            ("text", None) => match self.steps.last_mut() {
                Some(Step::Run(run)) if run.prints.is_none() => run.prints = Some(text),
                _ => return Err("no commands stand before this output".into()),
            },
            // Pictures.
            ("mermaid" | "", None) => {}
            (other, None) => {
                return Err(format!("say in a comment what becomes of this block of {other:?}"));
            }
        }
        Ok(())
    }
}

/// The page's own marks, and its blocks.
fn blocks(text: &str) -> Result<(Marks, Vec<Block<'_>>), String> {
    let (mut of_page, mut pending) = (None, None);
    let mut found: Vec<Block> = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if let Some(begun) = line.strip_prefix("<!-- test:") {
            let mut comment = begun.to_owned();
            while !comment.contains("-->") {
                let (_, next) = lines.next().ok_or(format!("line {}: the comment has no end", number + 1))?;
                comment = comment + "\n" + next;
            }
            let marks = marks(&comment);
            // The first comment is the page's own when no block has been there.
            if of_page.is_none() && found.is_empty() && marks.not_run.is_none() {
                of_page = Some(marks);
            } else if pending.replace(marks).is_some() {
                return Err(format!("line {}: the comment before this one has no block", number + 1));
            }
        } else if let Some(language) = line.strip_prefix("```") {
            let body: Vec<&str> =
                lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
            let text = body.iter().map(|line| format!("{line}\n")).collect();
            let marks = pending.take().unwrap_or_default();
            found.push(Block { line: number + 1, language, text, marks });
        }
    }
    match pending {
        Some(_) => Err("the last comment has no block".into()),
        None => Ok((of_page.unwrap_or_default(), found)),
    }
}

fn marks(comment: &str) -> Marks {
    let comment = comment.split("-->").next().unwrap_or_default();
    let (first, prepare) = comment.split_once('\n').unwrap_or((comment, ""));
    let (args, not_run) = match first.split_once("not run:") {
        Some((args, reason)) => (args, Some(reason.trim().to_owned())),
        None => (first, None),
    };
    let args = args.split_whitespace().map(str::to_owned).collect();
    Marks { args, not_run, prepare: prepare.to_owned() }
}

/// Whether the output is what the page shows: `…` is anything on its line, a line `…` any lines.
pub fn matches(shown: &str, printed: &str) -> bool {
    let shown: Vec<&str> = shown.lines().map(str::trim_end).collect();
    let printed: Vec<&str> = printed.lines().map(str::trim_end).collect();
    lines_match(&shown, &printed)
}

fn lines_match(shown: &[&str], printed: &[&str]) -> bool {
    match (shown, printed) {
        ([], []) => true,
        (["…", rest @ ..], _) => (0..=printed.len()).any(|skip| lines_match(rest, &printed[skip..])),
        ([first, shown @ ..], [line, printed @ ..]) => {
            line_matches(first, line) && lines_match(shown, printed)
        }
        _ => false,
    }
}

/// Runs of spaces are alike: columns are as wide as what stands in them.
fn line_matches(shown: &str, printed: &str) -> bool {
    let args = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (shown, printed) = (args(shown), args(printed));
    let mut parts = shown.split('…');
    let Some(mut rest) = parts.next().and_then(|first| printed.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// The script with each word that ends with `…` put in full, as it was printed before.
pub fn complete(script: &str, printed: &str) -> Result<String, String> {
    let mut complete = script.to_owned();
    while let Some(end) = complete.find('…') {
        let begin =
            complete[..end].rfind(|c: char| c.is_whitespace() || c == '=' || c == '"').map_or(0, |at| at + 1);
        let start = &complete[begin..end];
        let args = printed.split(|c: char| c.is_whitespace() || c == '"');
        let full =
            args.into_iter().find(|word| !start.is_empty() && word.starts_with(start) && *word != start);
        let full = full.ok_or(format!("nothing that begins with {start:?} was printed before"))?;
        complete.replace_range(begin..end + '…'.len_utf8(), full);
    }
    Ok(complete)
}
