//! Every typed identifier, in one list.
//!
//! Identifiers made by the Engine are `<prefix>-<UUIDv7 as 32 lower-case hex digits>`, so they sort by
//! creation time. Identifiers chosen by callers ([`TaskId`]) are validated on entry and compared byte
//! for byte afterwards. There is deliberately no `From<String>` and no `Deref<str>`.

use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// Why a text is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct InvalidId {
    /// What would have been accepted, for people.
    pub expected: &'static str,
}

macro_rules! made_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The text every identifier of this kind begins with, without the dash.
            pub const PREFIX: &'static str = $prefix;

            /// Makes a new identifier from the present time and randomness.
            pub fn generate() -> Self {
                Self(format!(concat!($prefix, "-{}"), uuid::Uuid::now_v7().simple()))
            }

            /// Accepts a text of the form `prefix-<1..64 of [A-Za-z0-9._-]>`.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let rest = text.strip_prefix(concat!($prefix, "-"));
                match rest {
                    Some(r) if !r.is_empty()
                        && r.len() <= 64
                        && r.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) =>
                    {
                        Ok(Self(text.to_owned()))
                    }
                    _ => Err(InvalidId { expected: concat!("an id that starts with \"", $prefix, "-\"") }),
                }
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

made_id!(
    /// One turn: a user message plus everything done until the answer.
    TurnId, "turn"
);
made_id!(
    /// One stored message of a conversation.
    MessageId, "msg"
);
made_id!(
    /// One tool call asked for by a model.
    CallId, "call"
);
made_id!(
    /// One question to a person.
    HitlId, "hitl"
);
made_id!(
    /// One remembered permission of a task.
    PermissionId, "perm"
);
made_id!(
    /// One connection to an MCP server.
    ConnectionId, "conn"
);
made_id!(
    /// One piece of knowledge.
    FactId, "fact"
);
made_id!(
    /// One episode: something that happened.
    EpisodeId, "ep"
);
made_id!(
    /// One person, organization or thing in the social graph.
    NodeId, "soc"
);
made_id!(
    /// One relation between two nodes of the social graph.
    EdgeId, "rel"
);
made_id!(
    /// One piece of feedback.
    SignalId, "sig"
);
made_id!(
    /// One batch of the Learning Centre.
    BatchId, "batch"
);

/// A caller-chosen conversation name: 1..256 characters without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct TaskId(String);

impl TaskId {
    /// Longest accepted name in Unicode scalar values. Larger would let one name fill an index page;
    /// smaller would refuse names that products derive from their own long keys.
    pub const MAX_CHARS: usize = 256;

    /// Accepts 1..256 characters, none of them a control character.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let count = text.chars().count();
        if count == 0 || count > Self::MAX_CHARS || text.chars().any(char::is_control) {
            return Err(InvalidId { expected: "1..256 characters without control characters" });
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TaskId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The id of one HTTP request: the caller's `X-Request-Id`, or one made here.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct RequestId(String);

impl RequestId {
    /// Makes a new request id.
    pub fn generate() -> Self {
        Self(format!("req-{}", uuid::Uuid::now_v7().simple()))
    }

    /// Accepts `[A-Za-z0-9._-]{1,128}`.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let ok = !text.is_empty()
            && text.len() <= 128
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId { expected: "1..128 characters of [A-Za-z0-9._-]" })
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String, format = "uuid")]
        pub struct $name(uuid::Uuid);

        impl $name {
            /// Draws a new random identifier (UUIDv4: every character but two is random).
            pub fn generate() -> Self {
                Self(uuid::Uuid::new_v4())
            }

            /// Wraps a UUID that was stored as one.
            pub const fn from_uuid(id: uuid::Uuid) -> Self {
                Self(id)
            }

            /// The UUID.
            pub const fn uuid(self) -> uuid::Uuid {
                self.0
            }

            /// Accepts the hyphenated lower-case text form.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let wrong = InvalidId { expected: "a UUID, for example 3f2a9c1e-7b40-4c58-9d1a-0a6f5f0f2b11" };
                if text.len() != 36 {
                    return Err(wrong);
                }
                uuid::Uuid::try_parse(text).map(Self).map_err(|_| wrong)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0.hyphenated(), f)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

uuid_id!(
    /// One user's engine: its row, its backend object and its storage carry this id.
    EngineId
);
uuid_id!(
    /// One product (tenant).
    ProductId
);
uuid_id!(
    /// One durable piece of work on an engine.
    OperationId
);
uuid_id!(
    /// One deployment of the orchestrator: label of every backend object it owns.
    InstanceId
);
uuid_id!(
    /// One running process of the orchestrator; drawn at its start.
    ReplicaId
);

impl EngineId {
    /// The first 12 characters of the text form, with which backend objects are named. Unique by index.
    pub fn short(self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

/// A user as a product names it: 1..256 bytes of UTF-8 without control characters or surrounding white space.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct UserId(String);

impl UserId {
    /// Longest accepted name in bytes. Larger would let one name fill an index page of the registry;
    /// smaller would refuse names that products derive from their own long keys.
    pub const MAX_BYTES: usize = 256;

    /// Accepts 1..256 bytes without control characters or surrounding white space.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let ok = !text.is_empty()
            && text.len() <= Self::MAX_BYTES
            && text.trim() == text
            && !text.chars().any(char::is_control);
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId { expected: "1..256 bytes without control characters or surrounding white space" })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A product's short name: `^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct Slug(String);

impl Slug {
    /// Accepts 1..63 of `[a-z0-9-]` that neither begin nor end with a dash.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        let ok = (1..=63).contains(&bytes.len())
            && bytes.iter().all(|&b| letter(b) || b == b'-')
            && letter(bytes[0])
            && letter(bytes[bytes.len() - 1]);
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId { expected: "1..63 of [a-z0-9-], beginning and ending with a letter or digit" })
        }
    }

    /// The slug as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! checked_text {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    )*};
}

checked_text!(UserId Slug);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_id_parses_back_and_carries_its_prefix() {
        let id = TurnId::generate();
        assert!(id.as_str().starts_with("turn-"));
        assert_eq!(id.as_str().len(), "turn-".len() + 32);
        assert_eq!(TurnId::parse(id.as_str()), Ok(id));
    }

    #[test]
    fn ids_of_another_kind_are_refused() {
        assert!(TurnId::parse("msg-0196").is_err());
        assert!(TurnId::parse("turn-").is_err());
        assert!(TurnId::parse("turn-a b").is_err());
    }

    #[test]
    fn task_ids_are_limited_in_characters_not_bytes() {
        assert!(TaskId::parse(&"ü".repeat(256)).is_ok());
        assert!(TaskId::parse(&"ü".repeat(257)).is_err());
        assert!(TaskId::parse("").is_err());
        assert!(TaskId::parse("a\nb").is_err());
    }

    #[test]
    fn fleet_ids_are_hyphenated_uuids_and_engines_have_a_short_form() {
        let id = EngineId::parse("3f2a9c1e-7b40-4c58-9d1a-0a6f5f0f2b11").expect("is a UUID");
        assert_eq!(id.short(), "3f2a9c1e-7b4");
        assert!(EngineId::parse("3f2a9c1e7b404c589d1a0a6f5f0f2b11").is_err());
        assert!(EngineId::parse("").is_err());
    }

    #[test]
    fn users_and_slugs_are_checked_on_entry() {
        assert!(UserId::parse("jürgen@example.com").is_ok());
        for wrong in ["", " a", "a ", "a\u{0}b", "a\nb"] {
            assert!(UserId::parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(UserId::parse(&"x".repeat(257)).is_err());
        for right in ["a", "demo", "a-1", "0"] {
            assert!(Slug::parse(right).is_ok(), "{right}");
        }
        for wrong in ["", "-a", "a-", "A", "a_b", "ä"] {
            assert!(Slug::parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(Slug::parse(&"a".repeat(64)).is_err());
    }
}
