//! What is to be done with one call: a pure decision from what the journal, the prompt and the rules say.

use super::{MAX_CALLS, MAX_REPEATS};
use crate::permissions::{self, Grants, Scope, Verdict};
use crate::tools::tool::Effect;
use brain::effects::{self, EffectState, Permission};
use brain::prompts::{Prompt, PromptState};
use contract::ToolReason;
use serde_json::Value;

/// The first question of a call.
pub const FIRST_ROUND: u32 = 1;
/// Questions of one call, each because what it would touch has changed since the answer. More would let a script that
/// keeps moving a link ask a person for ever; fewer gives up on one honest change.
pub const MAX_ROUNDS: u32 = 3;

/// A call that is answered without being run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The word for the model and the stream.
    pub reason: ToolReason,
    /// What happened and what to do instead.
    pub text: String,
    /// What the permission rules or a person said, when they were asked.
    pub permission: Option<Permission>,
    /// The rule that decided.
    pub rule: Option<String>,
}

impl Refusal {
    /// A refusal the permission rules have nothing to do with.
    pub fn new(reason: ToolReason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into(), permission: None, rule: None }
    }

    fn denied(permission: Permission, text: String, rule: Option<String>) -> Self {
        Self { reason: ToolReason::PermissionDenied, text, permission: Some(permission), rule }
    }
}

/// Why a call may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leave {
    /// Paths beyond the workspace.
    pub grants: Grants,
    /// Who allowed it.
    pub permission: Permission,
    /// The rule that decided.
    pub rule: Option<String>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It has an outcome.
    Nothing,
    /// The process died while it acted, and it must not be run again.
    InDoubt,
    /// Answer without running.
    Refuse(Refusal),
    /// Ask a person.
    Ask {
        /// What.
        question: permissions::Prompt,
        /// For the how-manieth time.
        round: u32,
    },
    /// A person has been asked and has not answered.
    Wait,
    /// Run it.
    Run(Leave),
}

/// What is known about a call before the permission rules are asked.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Its journal row.
    pub effect: Option<&'a effects::Effect>,
    /// Its place among the calls of its message.
    pub position: usize,
    /// Whether the agent has a tool of that name.
    pub known: bool,
    /// Tool name.
    pub tool: &'a str,
    /// What is wrong with the input.
    pub complaints: Vec<String>,
    /// How often the same call gave the same result in this turn.
    pub repeats: usize,
}

/// Decides what does not need the permission rules; `None` when they must be asked.
pub fn before_rules(facts: &Facts<'_>) -> Option<Decision> {
    if let Some(effect) = facts.effect {
        match effect.state {
            EffectState::Intent if effect.effect_class == Effect::Once.as_str() => {
                return Some(Decision::InDoubt);
            }
            EffectState::Intent => {}
            EffectState::Done | EffectState::Failed | EffectState::InDoubt | EffectState::Cancelled => {
                return Some(Decision::Nothing);
            }
        }
    }
    let refusal = if facts.position >= MAX_CALLS {
        Refusal::new(ToolReason::TooLarge, format!("at most {MAX_CALLS} calls of one message are run"))
    } else if !facts.known {
        Refusal::new(ToolReason::NotFound, format!("there is no tool `{}` for this agent", facts.tool))
    } else if !facts.complaints.is_empty() {
        let text = format!("the input does not fit the tool's schema: {}", facts.complaints.join("; "));
        Refusal::new(ToolReason::InvalidInput, text)
    } else if facts.repeats >= MAX_REPEATS {
        let text = format!(
            "this call gave the same result {} times in this turn; it is not run again. Do something else.",
            facts.repeats
        );
        Refusal::new(ToolReason::RepeatedCall, text)
    } else {
        return None;
    };
    Some(Decision::Refuse(refusal))
}

/// What an answer was about, as it was stored. What is missing or cannot be read covers nothing that has a place.
pub fn kept(scope: Option<&Value>) -> Scope {
    scope.and_then(|scope| serde_json::from_value(scope.clone()).ok()).unwrap_or_default()
}

/// Decides from the rules' verdict and the call's latest question, when it has asked one.
///
/// A call that has asked is judged by its own answer: it never runs while it waits, and never after a no, whatever the
/// rules have come to say meanwhile.
pub fn after_rules(verdict: Verdict, prompt: Option<&Prompt>) -> Decision {
    if let Verdict::Deny { reason } = verdict {
        return Decision::Refuse(Refusal::denied(Permission::Denied, reason, None));
    }
    let Some(prompt) = prompt else {
        return match verdict {
            Verdict::Prompt(question) => Decision::Ask { question, round: FIRST_ROUND },
            verdict => allowed(verdict),
        };
    };
    let rule = prompt.details["rule"].as_str().map(str::to_owned);
    match prompt.state {
        PromptState::Pending => return Decision::Wait,
        PromptState::Expired | PromptState::Cancelled => {
            let text = "nobody answered the permission question in time, which counts as no".to_owned();
            return Decision::Refuse(Refusal::denied(Permission::PromptNo, text, rule));
        }
        PromptState::Answered if !matches!(prompt.answer.as_deref(), Some("yes" | "always")) => {
            let text = match &prompt.feedback {
                Some(feedback) => format!("the person refused this call and said: {feedback}"),
                None => "the person refused this call".to_owned(),
            };
            return Decision::Refuse(Refusal::denied(Permission::PromptNo, text, rule));
        }
        PromptState::Answered => {}
    }
    let question = match verdict {
        Verdict::Prompt(question) => question,
        verdict => return allowed(verdict),
    };
    // a link may have been moved since: the yes was for what the person saw
    let seen = kept(prompt.details.get("scope"));
    if rule.as_deref() == Some(question.rule.as_str()) && seen.covers(&question.scope) {
        return Decision::Run(Leave { grants: question.grants, permission: Permission::PromptYes, rule });
    }
    if prompt.round >= MAX_ROUNDS {
        let text = "what this call would touch keeps changing while a person is asked about it".to_owned();
        return Decision::Refuse(Refusal::denied(Permission::Denied, text, rule));
    }
    Decision::Ask { question: question.asked_again(&seen), round: prompt.round + 1 }
}

/// What needs no question.
fn allowed(verdict: Verdict) -> Decision {
    match verdict {
        Verdict::Allow { rule, grants } => {
            let permission = if rule.is_some() { Permission::Remembered } else { Permission::Allow };
            Decision::Run(Leave { grants, permission, rule })
        }
        Verdict::Deny { reason } => Decision::Refuse(Refusal::denied(Permission::Denied, reason, None)),
        Verdict::Prompt(question) => Decision::Ask { question, round: FIRST_ROUND },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::event::HitlKind;
    use contract::{CallId, HitlId, TaskId, Timestamp, TurnId};
    use serde_json::{Value, json};

    fn facts(effect: Option<&effects::Effect>) -> Facts<'_> {
        Facts { effect, position: 0, known: true, tool: "bash", complaints: Vec::new(), repeats: 0 }
    }

    fn effect(state: EffectState, class: Effect) -> effects::Effect {
        effects::Effect {
            call_id: CallId::generate(),
            turn_id: "turn-1".into(),
            tool: "bash".into(),
            input: json!({}),
            effect_class: class.as_str().into(),
            state,
            output: Value::Null,
            media: Vec::new(),
            blob: None,
            reason: None,
            error: None,
            pgid: None,
            started_at: Timestamp::from_millis(0),
            finished_at: None,
            told: true,
        }
    }

    fn question(rule: &str) -> Verdict {
        Verdict::ask(permissions::Prompt::new(rule, "destructive", "Run it?"))
    }

    fn prompt(state: PromptState, answer: Option<&str>) -> Prompt {
        Prompt {
            request_id: HitlId::generate(),
            task_id: TaskId::parse("a").expect("valid"),
            turn_id: TurnId::generate(),
            call_id: CallId::generate(),
            round: FIRST_ROUND,
            kind: HitlKind::Permission,
            question: "Run it?".into(),
            options: Vec::new(),
            details: json!({"rule": "bash:rm -rf /x"}),
            state,
            answer: answer.map(str::to_owned),
            feedback: None,
            content_blocks: Vec::new(),
            created_at: Timestamp::from_millis(0),
            expires_at: Timestamp::from_millis(1),
        }
    }

    #[test]
    fn after_a_death_only_a_once_call_is_in_doubt_and_a_settled_call_is_left_alone() {
        for class in Effect::ALL {
            let decided = before_rules(&facts(Some(&effect(EffectState::Intent, class))));
            assert_eq!(decided, (class == Effect::Once).then_some(Decision::InDoubt));
            for state in EffectState::ALL.into_iter().filter(|s| *s != EffectState::Intent) {
                assert_eq!(before_rules(&facts(Some(&effect(state, class)))), Some(Decision::Nothing));
            }
        }
    }

    #[test]
    fn nothing_runs_that_is_unknown_unreadable_too_many_or_going_in_circles() {
        let reason = |facts: Facts<'_>| match before_rules(&facts) {
            Some(Decision::Refuse(refusal)) => Some(refusal.reason),
            _ => None,
        };
        assert_eq!(reason(Facts { known: false, ..facts(None) }), Some(ToolReason::NotFound));
        assert_eq!(
            reason(Facts { complaints: vec!["x".into()], ..facts(None) }),
            Some(ToolReason::InvalidInput)
        );
        assert_eq!(reason(Facts { position: MAX_CALLS, ..facts(None) }), Some(ToolReason::TooLarge));
        assert_eq!(reason(Facts { repeats: MAX_REPEATS, ..facts(None) }), Some(ToolReason::RepeatedCall));
        assert_eq!(reason(facts(None)), None);
    }

    #[test]
    fn a_question_is_asked_once_and_only_a_yes_to_the_same_rule_lets_the_call_run() {
        let rule = "bash:rm -rf /x";
        assert!(matches!(after_rules(question(rule), None), Decision::Ask { round: FIRST_ROUND, .. }));
        assert_eq!(after_rules(question(rule), Some(&prompt(PromptState::Pending, None))), Decision::Wait);
        for (state, answer) in [
            (PromptState::Answered, Some("no")),
            (PromptState::Answered, None),
            (PromptState::Expired, None),
            (PromptState::Cancelled, None),
        ] {
            let decided = after_rules(question(rule), Some(&prompt(state, answer)));
            assert!(matches!(decided, Decision::Refuse(_)), "{state:?} {answer:?}");
        }
        for answer in ["yes", "always"] {
            let yes = prompt(PromptState::Answered, Some(answer));
            assert!(matches!(after_rules(question(rule), Some(&yes)), Decision::Run(_)));
            let again = after_rules(question("bash:rm -rf /y"), Some(&yes));
            assert!(matches!(again, Decision::Ask { round: 2, .. }), "{again:?}");
            let last = Prompt { round: MAX_ROUNDS, ..yes };
            assert!(matches!(after_rules(question("bash:rm -rf /y"), Some(&last)), Decision::Refuse(_)));
        }
    }

    #[test]
    fn what_has_become_harmless_still_waits_for_its_answer_and_obeys_it() {
        let allow = || Verdict::allow();
        assert_eq!(after_rules(allow(), Some(&prompt(PromptState::Pending, None))), Decision::Wait);
        for (state, answer) in [(PromptState::Answered, Some("no")), (PromptState::Expired, None)] {
            assert!(matches!(after_rules(allow(), Some(&prompt(state, answer))), Decision::Refuse(_)));
        }
        let yes = prompt(PromptState::Answered, Some("yes"));
        assert!(matches!(after_rules(allow(), Some(&yes)), Decision::Run(_)));
    }

    #[test]
    fn a_yes_is_spent_on_the_places_it_was_given_for_and_one_without_places_on_none() {
        let at = |path: &str| json!({"places": [{"path": path, "reach": "exact", "how": "write"}]});
        let now = |path: &str| {
            let scope = kept(Some(&at(path)));
            Verdict::ask(permissions::Prompt {
                scope,
                ..permissions::Prompt::new("bash:rm -rf /x", "why", "Q?")
            })
        };
        let mut yes = prompt(PromptState::Answered, Some("yes"));
        yes.details["scope"] = at("/a/x");
        assert!(matches!(after_rules(now("/a/x"), Some(&yes)), Decision::Run(_)));
        match after_rules(now("/b/x"), Some(&yes)) {
            Decision::Ask { question, round: 2 } => {
                assert!(question.question.contains("/b/x"), "{question:?}")
            }
            other => panic!("{other:?}"),
        }
        let from_before = prompt(PromptState::Answered, Some("yes"));
        assert!(matches!(after_rules(now("/a/x"), Some(&from_before)), Decision::Ask { .. }));
        yes.details["scope"] = json!("not a scope");
        assert!(matches!(after_rules(now("/a/x"), Some(&yes)), Decision::Ask { .. }));
    }
}
