//! Variables whose values are words: one macro makes the type and its reader, so that no program spells it again.

/// Declares an enum whose variants are the words one variable admits: `as_str`, `parse`, `ALL`, `Display`, and `of`,
/// which reads the variable. The declaration of the variable must admit exactly these words.
#[macro_export]
macro_rules! words {
    ($(#[$doc:meta])* $name:ident reads $var:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $name {
            /// Every variant.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The word in the configuration.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }

            /// Reads the word back.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text)
            }

            /// Reads the variable; the declaration admits exactly these words.
            pub fn of(r: &$crate::config::Reader<'_>) -> Self {
                match r.text($var).as_deref() {
                    $(Some($word) => $name::$variant,)*
                    other => unreachable!("{} admits {other:?}", $var),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
