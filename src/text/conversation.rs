//! What was said so far: an optional system message, then exchanges of user and assistant.

use serde::{Deserialize, Serialize};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    /// The name in chat templates, session files and the HTTP interface.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message. Its content is text, whatever it looks like: it never becomes control tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: Role,
    pub content: String,
}

impl Message {
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// The messages of a chat, in order. A system message, if any, is the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    messages: Vec<Message>,
}

impl Conversation {
    pub fn new() -> Self {
        Self::default()
    }

    /// A conversation as it was saved.
    pub fn from_messages(messages: Vec<Message>) -> Self {
        Self { messages }
    }

    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub fn system(&self) -> Option<&str> {
        self.messages.first().filter(|m| m.role == Role::System).map(|m| &*m.content)
    }

    /// Replaces the system message; an empty one means none.
    pub fn set_system(&mut self, content: &str) {
        if self.system().is_some() {
            self.messages.remove(0);
        }
        if !content.is_empty() {
            self.messages.insert(0, Message::new(Role::System, content));
        }
    }

    pub fn push(&mut self, role: Role, content: impl Into<String>) {
        self.messages.push(Message::new(role, content));
    }

    /// Takes back the last exchange, and gives it: the last user message and everything after it. Empty when there is
    /// none.
    pub fn undo(&mut self) -> Vec<Message> {
        match self.messages.iter().rposition(|m| m.role == Role::User) {
            Some(at) => self.messages.split_off(at),
            None => Vec::new(),
        }
    }

    /// Takes back the answer to the last user message, so that it can be given anew. `false` when there is no user
    /// message to answer.
    pub fn undo_answer(&mut self) -> bool {
        let Some(at) = self.messages.iter().rposition(|m| m.role == Role::User) else { return false };
        self.messages.truncate(at + 1);
        true
    }

    /// Forgets everything but the system message.
    pub fn clear(&mut self) {
        let keep = usize::from(self.system().is_some());
        self.messages.truncate(keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(c: &Conversation) -> Vec<&str> {
        c.messages().iter().map(|m| &*m.content).collect()
    }

    #[test]
    fn exchanges_are_undone_one_by_one() {
        let mut c = Conversation::new();
        c.set_system("s");
        c.push(Role::User, "q1");
        c.push(Role::Assistant, "a1");
        c.push(Role::User, "q2");
        assert_eq!(c.undo(), [Message::new(Role::User, "q2")]);
        assert_eq!(c.undo().len(), 2);
        assert_eq!(c.undo(), []);
        assert_eq!(contents(&c), ["s"]);
    }

    #[test]
    fn an_answer_can_be_taken_back_alone() {
        let mut c = Conversation::new();
        assert!(!c.undo_answer());
        c.push(Role::User, "q");
        c.push(Role::Assistant, "a");
        assert!(c.undo_answer());
        assert_eq!(contents(&c), ["q"]);
    }

    #[test]
    fn the_system_message_is_replaced_kept_and_removed() {
        let mut c = Conversation::new();
        c.push(Role::User, "q");
        c.set_system("one");
        c.set_system("two");
        assert_eq!(contents(&c), ["two", "q"]);
        c.clear();
        assert_eq!(c.system(), Some("two"));
        c.set_system("");
        assert!(c.is_empty());
    }

    #[test]
    fn messages_are_saved_with_lower_case_roles() {
        let json = serde_json::to_string(&Message::new(Role::User, "hi")).unwrap();
        assert_eq!(json, r#"{"role":"user","content":"hi"}"#);
        assert!(serde_json::from_str::<Message>(r#"{"role":"wizard","content":""}"#).is_err());
    }
}
