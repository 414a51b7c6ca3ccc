//! The catalog that is part of the program. (specification 8.1)
//!
//! Lists name every tool the specification gives an agent; a tool that this build does not have is left out
//! of an agent silently when the catalog is put together.

use super::agent::{Agent, Layer};
use super::skill::{Scripts, Skill, TIMEOUT};

const READING: [&str; 4] = ["read_file", "grep", "find", "file_search"];
const WRITING: [&str; 2] = ["write_file", "edit_file"];
const GIT: [&str; 2] = ["git_status", "git_log"];
const MEMORY: [&str; 6] = [
    "knowledge_search",
    "episode_search",
    "social_search",
    "knowledge_write",
    "memory_episode_write",
    "working_memory_write",
];

fn agent(name: &str, description: &str, tools: &[&[&str]], skills: &[&str], prompt: &str) -> Agent {
    let owned = |list: &[&str]| -> Vec<String> { list.iter().map(|t| (*t).to_owned()).collect() };
    Agent {
        name: name.to_owned(),
        description: description.to_owned(),
        model: None,
        tools: owned(&tools.concat()),
        skills: owned(skills),
        system_prompt: prompt.trim().to_owned(),
        default: name == "assistant",
        max_tokens: None,
        layer: Layer::Builtin,
    }
}

/// The agents of the program, by name.
pub fn agents() -> Vec<Agent> {
    vec![
        agent(
            "analyst",
            "Answers questions about data: reads files, computes, explains the numbers.",
            &[&["bash", "web_search", "ask_user"], &READING, &WRITING, &MEMORY],
            &[],
            "You are an analyst. Look at the data before you speak about it, compute instead of guessing, \
             and show the figures an answer rests on together with their limits.",
        ),
        agent(
            "assistant",
            "A general personal assistant with every tool.",
            &[&["*"]],
            &["*"],
            "You are a careful personal assistant. Do what is asked, use tools when they help, say plainly \
             what you do not know, and keep answers as short as the question allows.",
        ),
        agent(
            "coder",
            "Writes and changes code in the workspace.",
            &[&["bash", "ask_user"], &READING, &WRITING, &GIT],
            &["code-reviewer"],
            "You are a software engineer working in the person's workspace. Read the code around a change \
             before making it, keep to its style, run what can be run, and report what you did and what \
             you could not check.",
        ),
        agent(
            "researcher",
            "Finds things out and names its sources.",
            &[&["web_search", "web_fetch", "ask_user", "delegate"], &READING, &MEMORY],
            &[],
            "You are a researcher. Gather evidence first, name the source of every claim, and separate what \
             is established from what is likely.",
        ),
        agent(
            "writer",
            "Drafts and edits texts.",
            &[&["web_search", "ask_user"], &READING, &WRITING, &MEMORY],
            &["summarizer"],
            "You are a writer and editor. Ask for audience and purpose when they are not clear, keep the \
             person's voice, and hand over finished text.",
        ),
    ]
}

fn skill(name: &str, description: &str, category: &str, capability: &str, prompt: &str) -> Skill {
    Skill {
        name: name.to_owned(),
        description: description.to_owned(),
        category: category.to_owned(),
        prompt_template: Some(prompt.to_owned()),
        capabilities: vec![capability.to_owned()],
        confidence: 1.0,
        scripts: Scripts::Kept(Vec::new()),
        entry: None,
        timeout: TIMEOUT,
        layer: Some(Layer::Builtin),
    }
}

/// The skills of the program, by name.
pub fn skills() -> Vec<Skill> {
    vec![
        skill(
            "code-reviewer",
            "Reviews code or a diff: what is wrong, what is risky, what is missing. Input: text, the code to be \
             reviewed. Output: findings, the worst first. Not for writing code.",
            "code",
            "review",
            "Review the code below as a careful colleague would. Report only what matters: mistakes first \
             (wrong results, lost data, races, unchecked input, leaked secrets), then risks, then what is \
             missing (tests, limits, error handling). For each finding name the place, say what happens and \
             what would be right. Say so when you find nothing. Do not praise, do not restate the code.\n\n\
             <code>\n{{text}}\n</code>",
        ),
        skill(
            "fact-checker",
            "Checks the claims of a text: which are supported, doubtful or wrong, and why. Input: text, the text \
             to be checked. Output: one line per claim. Not for opinions.",
            "research",
            "verification",
            "List every checkable claim of the text below. For each write one line: the claim in a few words, \
             then supported, doubtful or wrong, then the reason in one sentence. Say openly where you cannot \
             know without a source, and which source would settle it. Leave out opinions.\n\n\
             <text>\n{{text}}\n</text>",
        ),
        skill(
            "summarizer",
            "Summarises a text. Input: text, the text to be summarised. Output: the summary. Not for texts of a \
             few sentences, which you can summarise yourself.",
            "text",
            "summarisation",
            "Summarise the text below in its own language. Begin with the one sentence that matters most, then \
             the points a reader needs, each in one short line, in the order of their weight. Keep numbers, names \
             and dates exact. Add nothing that the text does not say.\n\n<text>\n{{text}}\n</text>",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::document::is_plain_name;

    #[test]
    fn there_is_exactly_one_default_agent_and_everything_stands_in_order() {
        let (agents, skills) = (agents(), skills());
        let names: Vec<&str> = agents.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(names, ["analyst", "assistant", "coder", "researcher", "writer"]);
        let defaults: Vec<&str> = agents.iter().filter(|a| a.default).map(|a| a.name.as_str()).collect();
        assert_eq!(defaults, ["assistant"]);
        let names: Vec<&str> = skills.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["code-reviewer", "fact-checker", "summarizer"]);
        assert!(names.iter().all(|n| is_plain_name(n)));
    }

    #[test]
    fn an_agent_names_what_the_specification_gives_it() {
        let agents = agents();
        let named = |agent: &str, tool: &str| {
            agents.iter().find(|a| a.name == agent).is_some_and(|a| a.names_tool(tool))
        };
        for (agent, tool, expected) in [
            ("assistant", "anything", true),
            ("researcher", "delegate", true),
            ("researcher", "write_file", false),
            ("researcher", "bash", false),
            ("coder", "git_log", true),
            ("coder", "web_search", false),
            ("coder", "working_memory_write", true),
            ("analyst", "bash", true),
            ("writer", "bash", false),
            ("writer", "edit_file", true),
        ] {
            assert_eq!(named(agent, tool), expected, "{agent} {tool}");
        }
    }
}
