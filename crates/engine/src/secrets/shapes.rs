//! What keys usually look like. A list of shapes and a matcher that can say "not yet". Pure.
//!
//! A shape is a fixed beginning, parts after it, and characters that may go on. It matches as soon as its parts
//! are there; what follows of the key is then swallowed, so a key of any length never has to be held as a whole.
//! Regular expressions cannot say that a match is still possible, which the stream must know.
//!
//! The invariant: no shape needs more than [`super::HOLD_MAX`] characters to decide.

use std::fmt;

/// What was taken out; the word in `[redacted:<kind>]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A value the Engine knows.
    Secret,
    /// A key of a model provider.
    ProviderKey,
    /// A key of an Engine.
    EngineKey,
    /// GitHub.
    GithubToken,
    /// Slack.
    SlackToken,
    /// Stripe.
    StripeKey,
    /// An AWS access key id.
    AwsKey,
    /// A JSON web token.
    Jwt,
    /// A private key in PEM form.
    PrivateKey,
    /// The value of a `password=`-style assignment.
    Password,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 10] = [
        Kind::Secret,
        Kind::ProviderKey,
        Kind::EngineKey,
        Kind::GithubToken,
        Kind::SlackToken,
        Kind::StripeKey,
        Kind::AwsKey,
        Kind::Jwt,
        Kind::PrivateKey,
        Kind::Password,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Secret => "secret",
            Kind::ProviderKey => "provider_key",
            Kind::EngineKey => "engine_key",
            Kind::GithubToken => "github_token",
            Kind::SlackToken => "slack_token",
            Kind::StripeKey => "stripe_key",
            Kind::AwsKey => "aws_key",
            Kind::Jwt => "jwt",
            Kind::PrivateKey => "private_key",
            Kind::Password => "password",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of ASCII characters.
pub(super) type Class = fn(u8) -> bool;

pub(super) fn alnum(b: u8) -> bool {
    b.is_ascii_alphanumeric()
}

pub(super) fn word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

/// Base64url, and what provider keys are made of.
pub(super) fn token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'-'
}

fn jwt(b: u8) -> bool {
    token(b) || b == b'.'
}

fn upper(b: u8) -> bool {
    b.is_ascii_uppercase() || b.is_ascii_digit()
}

fn label(b: u8) -> bool {
    b.is_ascii_uppercase() || b.is_ascii_digit() || b == b' '
}

fn pem_gap(b: u8) -> bool {
    b.is_ascii_whitespace() || b"\\nr\"'".contains(&b)
}

fn base64(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'+' || b == b'/' || b == b'='
}

enum Part {
    Is(&'static str),
    Run(Class, usize, usize),
}

/// What may follow a match and belongs to it.
#[derive(Clone, Copy)]
pub(super) enum Tail {
    /// Nothing.
    None,
    /// Any number of these.
    Of(Class),
    /// The rest of a PEM block.
    Pem,
}

/// What a place in a text holds.
pub(super) enum Verdict {
    /// Not this, whatever follows.
    No,
    /// The text ends before that can be said.
    More,
    /// This many bytes from the place on are visible, then a secret begins that ends here.
    Yes {
        /// What it is.
        kind: Kind,
        /// Bytes before the secret that stay.
        keep: usize,
        /// Where it ends.
        end: usize,
        /// What else belongs to it.
        tail: Tail,
    },
}

/// One shape of a key.
pub(super) struct Shape {
    /// Its first characters, by which it is found.
    pub(super) prefix: &'static str,
    kind: Kind,
    parts: &'static [Part],
    tail: Tail,
    /// Letters and digits are mixed, or it is a name that only begins like a key.
    mixed: bool,
    /// No word character may follow.
    closed: bool,
}

const fn key(kind: Kind, prefix: &'static str, parts: &'static [Part], tail: Tail) -> Shape {
    Shape { prefix, kind, parts, tail, mixed: true, closed: false }
}

const TOKEN: Tail = Tail::Of(token);

/// All shapes; of two that begin alike the longer beginning stands first.
pub(super) const SHAPES: &[Shape] = &[
    key(Kind::EngineKey, "sk-sept-", &[Part::Run(token, 20, 20)], TOKEN),
    key(Kind::ProviderKey, "sk-ant-", &[Part::Run(token, 20, 20)], TOKEN),
    key(Kind::ProviderKey, "sk-proj-", &[Part::Run(token, 20, 20)], TOKEN),
    key(Kind::ProviderKey, "sk-svcacct-", &[Part::Run(token, 20, 20)], TOKEN),
    key(Kind::ProviderKey, "sk-admin-", &[Part::Run(token, 20, 20)], TOKEN),
    key(Kind::ProviderKey, "sk-or-v1-", &[Part::Run(alnum, 20, 20)], TOKEN),
    key(Kind::ProviderKey, "sk-", &[Part::Run(alnum, 20, 20)], TOKEN),
    key(Kind::ProviderKey, "AIza", &[Part::Run(token, 35, 35)], TOKEN),
    key(Kind::GithubToken, "ghp_", &[Part::Run(alnum, 30, 30)], Tail::Of(word)),
    key(Kind::GithubToken, "gho_", &[Part::Run(alnum, 30, 30)], Tail::Of(word)),
    key(Kind::GithubToken, "ghu_", &[Part::Run(alnum, 30, 30)], Tail::Of(word)),
    key(Kind::GithubToken, "ghs_", &[Part::Run(alnum, 30, 30)], Tail::Of(word)),
    key(Kind::GithubToken, "ghr_", &[Part::Run(alnum, 30, 30)], Tail::Of(word)),
    key(Kind::GithubToken, "github_pat_", &[Part::Run(word, 40, 40)], Tail::Of(word)),
    key(Kind::SlackToken, "xoxb-", &[Part::Run(token, 20, 20)], TOKEN),
    key(Kind::SlackToken, "xoxp-", &[Part::Run(token, 20, 20)], TOKEN),
    key(Kind::SlackToken, "xoxa-", &[Part::Run(token, 20, 20)], TOKEN),
    key(Kind::SlackToken, "xoxr-", &[Part::Run(token, 20, 20)], TOKEN),
    key(Kind::SlackToken, "xoxs-", &[Part::Run(token, 20, 20)], TOKEN),
    key(Kind::SlackToken, "xoxe-", &[Part::Run(token, 20, 20)], TOKEN),
    key(Kind::SlackToken, "xoxe.xox", &[Part::Run(token, 20, 20)], TOKEN),
    key(Kind::SlackToken, "xapp-", &[Part::Run(token, 20, 20)], TOKEN),
    key(Kind::StripeKey, "sk_live_", &[Part::Run(alnum, 16, 16)], Tail::Of(word)),
    key(Kind::StripeKey, "sk_test_", &[Part::Run(alnum, 16, 16)], Tail::Of(word)),
    key(Kind::StripeKey, "rk_live_", &[Part::Run(alnum, 16, 16)], Tail::Of(word)),
    key(Kind::StripeKey, "rk_test_", &[Part::Run(alnum, 16, 16)], Tail::Of(word)),
    key(Kind::StripeKey, "whsec_", &[Part::Run(base64, 24, 24)], Tail::Of(base64)),
    Shape {
        closed: true,
        mixed: false,
        ..key(Kind::AwsKey, "AKIA", &[Part::Run(upper, 16, 16)], Tail::None)
    },
    Shape {
        closed: true,
        mixed: false,
        ..key(Kind::AwsKey, "ASIA", &[Part::Run(upper, 16, 16)], Tail::None)
    },
    key(
        Kind::Jwt,
        "eyJ",
        &[Part::Run(token, 8, 200), Part::Is(".eyJ"), Part::Run(token, 8, 8)],
        Tail::Of(jwt),
    ),
    Shape {
        mixed: false,
        ..key(
            Kind::PrivateKey,
            "-----BEGIN ",
            &[
                Part::Run(label, 11, 50),
                Part::Is("-----"),
                Part::Run(pem_gap, 0, 32),
                Part::Run(base64, 24, 24),
            ],
            Tail::Pem,
        )
    },
    // an encrypted one, or one of PGP, has header lines first
    Shape {
        mixed: false,
        ..key(
            Kind::PrivateKey,
            "-----BEGIN ",
            &[
                Part::Run(label, 11, 50),
                Part::Is("-----"),
                Part::Run(pem_gap, 1, 8),
                Part::Is("Proc-Type: 4"),
            ],
            Tail::Pem,
        )
    },
];

impl Shape {
    /// Looks at `text`, which begins with the prefix. `last` says that nothing follows.
    pub(super) fn at(&self, text: &str, last: bool) -> Verdict {
        let bytes = text.as_bytes();
        let more = if last { Verdict::No } else { Verdict::More };
        let mut at = self.prefix.len();
        for part in self.parts {
            match *part {
                Part::Is(wanted) => {
                    let rest = &bytes[at..];
                    if rest.starts_with(wanted.as_bytes()) {
                        at += wanted.len();
                    } else if wanted.as_bytes().starts_with(rest) {
                        return more;
                    } else {
                        return Verdict::No;
                    }
                }
                Part::Run(class, min, max) => {
                    let length = bytes[at..].iter().take(max).take_while(|b| class(**b)).count();
                    let open = at + length == bytes.len() && length < max;
                    if open && !last {
                        return Verdict::More;
                    }
                    if length < min {
                        return Verdict::No;
                    }
                    at += length;
                }
            }
        }
        if self.closed {
            match bytes.get(at) {
                None if !last => return Verdict::More,
                Some(b) if word(*b) => return Verdict::No,
                _ => {}
            }
        }
        let body = &text[self.prefix.len()..at];
        if self.kind == Kind::PrivateKey && !body.contains("PRIVATE KEY") {
            return Verdict::No;
        }
        if self.mixed && !is_mixed(body) {
            return Verdict::No;
        }
        Verdict::Yes { kind: self.kind, keep: 0, end: at, tail: self.tail }
    }
}

fn is_mixed(body: &str) -> bool {
    body.bytes().any(|b| b.is_ascii_digit()) && body.bytes().any(|b| b.is_ascii_alphabetic())
}

/// How far the rest of a PEM block has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pem {
    /// In the lines of the body; the last character was white.
    LineStart,
    /// In a line.
    Line,
    /// After a character of a header line, where blanks are usual.
    Header,
    /// This many dashes of the last line's beginning.
    Dashes(u8),
    /// In the words of the last line.
    Words,
    /// This many dashes of its end.
    Close(u8),
}

impl Pem {
    /// The state after one more character; `None` when it does not belong to the block.
    pub(super) fn next(self, c: char) -> Option<Pem> {
        let dash = c == '-';
        match self {
            Pem::Close(4) if dash => Some(Pem::Close(5)),
            Pem::Close(5..) => None,
            Pem::Close(n) => dash.then_some(Pem::Close(n + 1)),
            Pem::Words if dash => Some(Pem::Close(1)),
            Pem::Words => (c.is_ascii_uppercase() || c.is_ascii_digit() || c == ' ').then_some(Pem::Words),
            Pem::Dashes(5..) => c.is_ascii_uppercase().then_some(Pem::Words),
            Pem::Dashes(n) if dash => Some(Pem::Dashes(n + 1)),
            Pem::Header if c != '\n' && !c.is_control() => Some(Pem::Header),
            _ if matches!(c, '\n' | '\r') => Some(Pem::LineStart),
            Pem::LineStart if c.is_ascii_whitespace() => Some(Pem::LineStart),
            Pem::LineStart | Pem::Line if dash => Some(Pem::Dashes(1)),
            // Proc-Type: and DEK-Info:
            Pem::Dashes(1) | Pem::Line if matches!(c, ':' | ',') => Some(Pem::Header),
            Pem::Dashes(1) if c.is_ascii_alphabetic() => Some(Pem::Line),
            Pem::LineStart | Pem::Line => {
                (c.is_ascii_alphanumeric() || "+/=\\\"'".contains(c)).then_some(Pem::Line)
            }
            Pem::Dashes(_) | Pem::Header => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::HOLD_MAX;

    #[test]
    fn no_shape_needs_more_than_the_hold_back() {
        for shape in SHAPES {
            let parts: usize = shape
                .parts
                .iter()
                .map(|p| match p {
                    Part::Is(text) => text.len(),
                    Part::Run(_, min, max) => {
                        assert!(min <= max, "{}", shape.prefix);
                        *max
                    }
                })
                .sum();
            assert!(shape.prefix.len() + parts + usize::from(shape.closed) <= HOLD_MAX, "{}", shape.prefix);
        }
    }

    #[test]
    fn of_two_shapes_that_begin_alike_the_longer_beginning_stands_first() {
        for (index, shape) in SHAPES.iter().enumerate() {
            let later = &SHAPES[index + 1..];
            assert!(later.iter().all(|l| l.prefix == shape.prefix || !l.prefix.starts_with(shape.prefix)));
        }
    }
}
