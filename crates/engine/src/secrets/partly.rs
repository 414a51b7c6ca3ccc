//! Spellings in which some of a value's special characters are written in another way and the others stand as they are.
//! Pure.
//!
//! Which characters a program escapes is a habit of that program, and there are more habits than a list can hold: so
//! for values with few special characters, as keys have, every choice of them is spelled in every form. Letters and
//! digits stand raw here; [`super::spelling`] has what writes those, too.
//!
//! Refused: more choices than [`CHOSEN_MAX`] special characters give. Values with more have the choices of one, of all
//! but one, and of all.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Values with up to this many different special characters have every choice of them spelled. One more doubles the
/// spellings, and with them the time and memory of learning a value; one less misses writers of keys in base64, which
/// have three (`+/=`).
const CHOSEN_MAX: usize = 3;

/// How one character is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `\\+`: shells, patterns, Markdown.
    Backslash,
    /// `\\u002b`: JSON and scripts.
    Unicode,
    /// `\\\\u002b`: the same inside JSON.
    UnicodeTwice,
    /// Every byte in hexadecimal behind this: `%`, `%25`, `\\x`, `=` (mail).
    Bytes(&'static str),
    /// `\\053`: C, shells, git.
    Octal,
    /// `&#43;`
    Decimal,
    /// `&#x2b;`
    Hexadecimal,
    /// `&plus;`, and by number what has no name.
    Named,
    /// `\\2b ` with its blank: style sheets.
    Style,
}

const FORMS: [Form; 12] = [
    Form::Backslash,
    Form::Unicode,
    Form::UnicodeTwice,
    Form::Bytes("%"),
    Form::Bytes("%25"),
    Form::Bytes("\\x"),
    Form::Bytes("="),
    Form::Octal,
    Form::Decimal,
    Form::Hexadecimal,
    Form::Named,
    Form::Style,
];

/// The names HTML has for ASCII.
const NAMES: [(char, &str); 29] = [
    ('!', "excl"),
    ('"', "quot"),
    ('#', "num"),
    ('$', "dollar"),
    ('%', "percnt"),
    ('&', "amp"),
    ('\'', "apos"),
    ('(', "lpar"),
    (')', "rpar"),
    ('*', "ast"),
    ('+', "plus"),
    (',', "comma"),
    ('.', "period"),
    ('/', "sol"),
    (':', "colon"),
    (';', "semi"),
    ('<', "lt"),
    ('=', "equals"),
    ('>', "gt"),
    ('?', "quest"),
    ('@', "commat"),
    ('[', "lbrack"),
    ('\\', "bsol"),
    (']', "rbrack"),
    ('^', "Hat"),
    ('_', "lowbar"),
    ('`', "grave"),
    ('{', "lbrace"),
    ('|', "vert"),
];

/// Adds the spellings of `value`.
pub(super) fn spellings(value: &str, all: &mut BTreeSet<String>) {
    let special: BTreeSet<char> = value.chars().filter(|c| !c.is_ascii_alphanumeric()).collect();
    for chosen in choices(&special.into_iter().collect::<Vec<_>>()) {
        for form in FORMS {
            for upper in [false, true] {
                let spelled = written(value, &chosen, form, upper);
                if !chosen.contains(&'/') && matches!(form, Form::Unicode | Form::Bytes("\\x")) {
                    // writers of scripts keep `</script>` apart
                    all.insert(spelled.replace('/', "\\/"));
                }
                all.insert(spelled);
            }
        }
    }
    // quotes that are doubled: SQL, and tables of text
    all.insert(value.replace('\'', "''"));
    all.insert(value.replace('"', "\"\""));
    // names of systemd's units
    let parts = value.split('/').map(|part| {
        let chosen: Vec<char> =
            part.chars().filter(|c| !c.is_ascii_alphanumeric() && !"_.:".contains(*c)).collect();
        written(part, &chosen, Form::Bytes("\\x"), false)
    });
    all.insert(parts.collect::<Vec<_>>().join("-"));
}

/// Which of the special characters are written in another way.
fn choices(special: &[char]) -> Vec<Vec<char>> {
    let pick = |which: &dyn Fn(usize) -> bool| {
        special.iter().enumerate().filter(|(n, _)| which(*n)).map(|(_, c)| *c).collect::<Vec<_>>()
    };
    if special.len() <= CHOSEN_MAX {
        return (1..1_usize << special.len()).map(|mask| pick(&|n| mask & (1 << n) != 0)).collect();
    }
    let mut some = vec![special.to_vec()];
    if special.len() <= 2 * CHOSEN_MAX {
        some.extend((0..special.len()).map(|one| pick(&|n| n == one)));
        some.extend((0..special.len()).map(|one| pick(&|n| n != one)));
    }
    some
}

fn written(value: &str, chosen: &[char], form: Form, upper: bool) -> String {
    let mut out = String::with_capacity(value.len() * 2);
    for c in value.chars() {
        match chosen.contains(&c) {
            true => write_in(&mut out, c, form, upper),
            false => out.push(c),
        }
    }
    out
}

fn write_in(out: &mut String, c: char, form: Form, upper: bool) {
    let number = u32::from(c);
    // writing into a String has no error
    let _ = match (form, upper) {
        (Form::Backslash, _) => write!(out, "\\{c}"),
        (Form::Unicode, _) => return units(out, "\\u", c, upper),
        (Form::UnicodeTwice, _) => return units(out, "\\\\u", c, upper),
        (Form::Bytes(before), _) => {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                let _ = match upper {
                    true => write!(out, "{before}{byte:02X}"),
                    false => write!(out, "{before}{byte:02x}"),
                };
            }
            return;
        }
        (Form::Octal, _) => {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(out, "\\{byte:03o}");
            }
            return;
        }
        (Form::Decimal, _) => write!(out, "&#{number};"),
        (Form::Hexadecimal, true) => write!(out, "&#x{number:X};"),
        (Form::Hexadecimal, false) => write!(out, "&#x{number:x};"),
        (Form::Named, _) => match NAMES.iter().find(|(of, _)| *of == c) {
            Some((_, name)) => write!(out, "&{name};"),
            None => write!(out, "&#{number};"),
        },
        (Form::Style, true) => write!(out, "\\{number:X} "),
        (Form::Style, false) => write!(out, "\\{number:x} "),
    };
}

fn units(out: &mut String, before: &str, c: char, upper: bool) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        let _ = match upper {
            true => write!(out, "{before}{unit:04X}"),
            false => write!(out, "{before}{unit:04x}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::Known;

    /// Shaped like a storage account's key.
    const KEY: &str = "Zk3vQx9T/Lm2+Rt5Vv8Nn3Kk7Pp1/Hh4Jj6+Dd0Ss==";

    #[test]
    fn a_key_in_base64_is_found_as_ordinary_programs_write_it() {
        let known = Known::new([KEY]);
        let with = |pairs: &[(&str, &str)]| {
            pairs.iter().fold(KEY.to_owned(), |text, (from, to)| text.replace(from, to))
        };
        for (who, text) in [
            ("Gson", with(&[("=", "\\u003d")])),
            ("serialize-javascript", with(&[("/", "\\u002F")])),
            (".NET", with(&[("+", "\\u002B")])),
            ("ASP.NET, Go's template for scripts", with(&[("/", "\\/"), ("+", "\\u002b"), ("=", "\\u003d")])),
            ("Soy", with(&[("/", "\\/"), ("=", "\\x3d")])),
            ("OWASP for scripts", with(&[("/", "\\x2F"), ("+", "\\x2B"), ("=", "\\x3D")])),
            ("OWASP for styles", with(&[("/", "\\2f "), ("+", "\\2b "), ("=", "\\3d ")])),
            ("Handlebars", with(&[("=", "&#x3D;")])),
            ("Blazor", with(&[("+", "&#x2B;")])),
            ("Mustache", with(&[("/", "&#x2F;"), ("=", "&#x3D;")])),
            ("Go's template for attributes", with(&[("=", "&#61;"), ("+", "&#43;")])),
            ("names", with(&[("/", "&sol;"), ("+", "&plus;"), ("=", "&equals;")])),
            ("escape()", with(&[("=", "%3D")])),
            ("quote twice", with(&[("+", "%252B"), ("=", "%253D")])),
            ("mail", with(&[("=", "=3D")])),
            ("re.escape", with(&[("+", "\\+")])),
            ("sed", with(&[("/", "\\/")])),
            ("printf %q", with(&[("=", "\\=")])),
            ("systemd-escape", with(&[("+", "\\x2b"), ("=", "\\x3d"), ("/", "-")])),
            ("octal", with(&[("+", "\\053"), ("=", "\\075"), ("/", "\\057")])),
        ] {
            let scrubbed = known.scrub(&text);
            assert_eq!(scrubbed, "[redacted:secret]", "{who}: {text}");
        }
    }

    #[test]
    fn the_same_characters_in_another_order_stay() {
        let known = Known::new([KEY]);
        for text in ["Zk3vQx9T%2FLm2", "Lm2+Rt5Vv8Nn3Kk7Pp1/Hh4Jj6", "a=3D b \\u003d &equals; \\/"] {
            assert_eq!(known.scrub(text), text);
        }
    }
}
