//! What a line typed at the prompt means: a message, or one of the slash commands.

/// One line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Nothing to do.
    Empty,
    /// A message for the agent.
    Message(String),
    /// Show the commands.
    Help,
    /// List the tasks.
    Tasks,
    /// Go to a task (existing or new).
    Task(String),
    /// Start a new task; with a name, or with one made up.
    New(Option<String>),
    /// Run the last message again.
    Retry,
    /// Replace the last message; without text, edit it at the prompt.
    Edit(Option<String>),
    /// Cancel whatever this task is doing.
    Cancel,
    /// List the questions that wait for a person.
    Pending,
    /// Switch extended thinking on or off.
    Think,
    /// Leave.
    Quit,
    /// A slash command that does not exist, or lacks its argument; the text says what to type.
    Unknown(String),
}

/// The commands as /help shows them.
pub const HELP: &[(&str, &str)] = &[
    ("/help", "this list"),
    ("/tasks", "conversations, newest first"),
    ("/task <id>", "go to a conversation"),
    ("/new [id]", "start a new conversation"),
    ("/retry", "run the last message again"),
    ("/edit [text]", "replace the last message and run from there"),
    ("/cancel", "cancel what this conversation is doing"),
    ("/pending", "questions that wait for an answer, and answer those of this conversation"),
    ("/think", "extended thinking on or off"),
    ("/quit", "leave (Ctrl-D)"),
    ("…\\", "a backslash at the end of a line continues the message on the next"),
    ("//…", "a message that begins with a slash"),
    ("Ctrl-C", "cancels the running turn; once more leaves"),
    ("Ctrl-\\", "leaves at once, and the running turn goes on without you"),
];

impl Line {
    /// Reads one (joined) line.
    pub fn parse(text: &str) -> Self {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Line::Empty;
        }
        if let Some(message) = trimmed.strip_prefix("//") {
            return Line::Message(format!("/{message}"));
        }
        if !trimmed.starts_with('/') {
            return Line::Message(text.trim_end().to_owned());
        }
        let (word, rest) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
        let argument = Some(rest.trim().to_owned()).filter(|r| !r.is_empty());
        match word {
            "/help" | "/?" => Line::Help,
            "/tasks" => Line::Tasks,
            "/task" => match argument {
                Some(id) => Line::Task(id),
                None => Line::Unknown("/task needs a name; /tasks lists them".into()),
            },
            "/new" => Line::New(argument),
            "/retry" => Line::Retry,
            "/edit" => Line::Edit(argument),
            "/cancel" => Line::Cancel,
            "/pending" => Line::Pending,
            "/think" => Line::Think,
            "/quit" | "/exit" | "/q" => Line::Quit,
            other => Line::Unknown(format!(
                "there is no command {other}; /help lists them, and //… sends a message that begins with a slash"
            )),
        }
    }
}

/// An answer to a permission prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permission {
    /// This call only.
    Yes,
    /// Not this call; why, for the agent.
    No(Option<String>),
    /// This call, and the same rule for the rest of the task.
    Always,
}

impl Permission {
    /// Reads `y`, `yes`, `n`, `no`, `no: because`, `a`, `always`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let split = text.find([' ', ':', ',']).unwrap_or(text.len());
        let (word, rest) = text.split_at(split);
        let rest = rest.trim_start_matches([' ', ':', ',']).trim();
        match (word.to_lowercase().as_str(), rest) {
            ("y" | "yes", "") => Some(Permission::Yes),
            ("a" | "always", "") => Some(Permission::Always),
            ("n" | "no", "") => Some(Permission::No(None)),
            ("n" | "no", why) => Some(Permission::No(Some(why.to_owned()))),
            _ => None,
        }
    }

    /// The word of POST /hitl/respond.
    pub const fn word(&self) -> &'static str {
        match self {
            Permission::Yes => "yes",
            Permission::No(_) => "no",
            Permission::Always => "always",
        }
    }
}

/// The answer to a question: a number picks an option, anything else is the answer itself.
pub fn choose(text: &str, options: &[String]) -> String {
    let text = text.trim();
    match text.parse::<usize>().ok().and_then(|n| options.get(n.checked_sub(1)?)) {
        Some(option) => option.clone(),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_is_a_command_two_slashes_are_a_message() {
        assert_eq!(Line::parse("  hello \n"), Line::Message("  hello".into()));
        assert_eq!(Line::parse("//etc/hosts?"), Line::Message("/etc/hosts?".into()));
        assert_eq!(Line::parse("/task  a b "), Line::Task("a b".into()));
        assert_eq!(Line::parse("/new"), Line::New(None));
        assert_eq!(Line::parse(" "), Line::Empty);
        assert!(matches!(Line::parse("/task"), Line::Unknown(_)));
        assert!(matches!(Line::parse("/nonsense"), Line::Unknown(t) if t.contains("/help")));
    }

    #[test]
    fn a_refusal_may_carry_its_reason() {
        assert_eq!(Permission::parse("Y"), Some(Permission::Yes));
        assert_eq!(Permission::parse("always"), Some(Permission::Always));
        assert_eq!(
            Permission::parse("no: use the staging one"),
            Some(Permission::No(Some("use the staging one".into())))
        );
        assert_eq!(Permission::parse("n"), Some(Permission::No(None)));
        assert_eq!(Permission::parse("yes please"), None);
        assert_eq!(Permission::parse("sure"), None);
    }

    #[test]
    fn a_number_picks_an_option() {
        let options = ["staging".to_owned(), "production".to_owned()];
        assert_eq!(choose("2", &options), "production");
        assert_eq!(choose("3", &options), "3");
        assert_eq!(choose("neither", &options), "neither");
    }
}
