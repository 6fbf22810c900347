//! What the task file of the command line needs of its failures.

#[derive(Debug)]
pub enum Failure {
    #[allow(dead_code, reason = "its words are for users")]
    Usage(String),
}
