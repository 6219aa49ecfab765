//! What a memory adds to a question, and where it is from.

use super::Session;

/// Nothing where there is no memory.
#[derive(Debug, Default)]
pub(super) struct Quoted {
    /// What stands before the question.
    pub text: String,
    /// A line for each passage in it.
    pub sources: Vec<String>,
}

impl Quoted {
    /// Prints the sources, numbered as they are quoted: after the answer.
    pub fn cite(&self, session: &Session) {
        self.sources.iter().for_each(|line| session.say(line));
    }
}
