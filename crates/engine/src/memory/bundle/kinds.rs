//! Values of a bundle that are bounded while they are read, so that a hostile document cannot grow in memory: short
//! lists, small objects, shares.
//!
//! The invariant: what is written is read back as the very same.

use ::memory::field::ATTRIBUTES_BYTES;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::fmt;
use std::marker::PhantomData;

/// How much longer an object may be written than it is kept: spaces and escapes.
const WRITTEN_BYTES: usize = 8 * ATTRIBUTES_BYTES;

/// A list of at most `MAX` entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Few<T, const MAX: usize>(pub Vec<T>);

impl<T, const MAX: usize> Default for Few<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize, const MAX: usize> Serialize for Few<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Few<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(FewVisitor::<T, MAX>(PhantomData))
    }
}

struct FewVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for FewVisitor<T, MAX> {
    type Value = Few<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of at most {MAX}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut found = Vec::new();
        while let Some(item) = seq.next_element()? {
            if found.len() == MAX {
                return Err(A::Error::custom(format!("expected an array of at most {MAX}")));
            }
            found.push(item);
        }
        Ok(Few(found))
    }
}

/// What else is known of a node: an object that is small as it is written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attributes(pub Map<String, Value>);

impl Serialize for Attributes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Box::<RawValue>::deserialize(deserializer)?;
        if written.get().len() > WRITTEN_BYTES {
            return Err(D::Error::custom(format!("expected an object of at most {ATTRIBUTES_BYTES} bytes")));
        }
        match serde_json::from_str(written.get()) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) | Err(_) => Err(D::Error::custom("expected an object")),
        }
    }
}

/// A number from 0 to 1, read to its last digit: the usual reading of numbers may be one digit off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share(pub f64);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Box::<RawValue>::deserialize(deserializer)?;
        let number = written.get().parse::<f64>().ok().filter(|n| (0.0..=1.0).contains(n));
        number.map(Self).ok_or_else(|| D::Error::custom("expected a number from 0 to 1"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_too_much_is_refused_while_it_is_read() {
        assert!(serde_json::from_str::<Few<u8, 2>>("[1,2]").is_ok());
        assert!(serde_json::from_str::<Few<u8, 2>>("[1,2,3]").is_err());
        assert!(serde_json::from_str::<Attributes>("{\"a\":[1]}").is_ok());
        assert!(serde_json::from_str::<Attributes>("[1]").is_err());
        let long = format!("{{\"a\":[{}0]}}", "0,".repeat(WRITTEN_BYTES));
        assert!(serde_json::from_str::<Attributes>(&long).is_err());
        for wrong in ["-0.1", "1.5", "\"0.5\"", "null", "1e400"] {
            assert!(serde_json::from_str::<Share>(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_share_is_read_as_it_was_written(number in 0.0f64..=1.0) {
            let text = serde_json::to_string(&Share(number)).expect("a number");
            prop_assert_eq!(serde_json::from_str::<Share>(&text).expect("a share").0.to_bits(), number.to_bits());
        }
    }
}
