//! Newtypes for every number and name of the domain, so that one can't stand where another belongs.
//! Leaves meaning (who leads, what is ahead of what) to the modules that decide.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A write-ahead log position in bytes. Text form is PostgreSQL's own: `0/3000060`.
/// Serialised as a plain integer, as Patroni's keys have it (contract 1.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

/// A PostgreSQL timeline number, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

/// One reign of one leader: the greater of the `term` key's modification revision and the `leader`
/// key's create revision. It only grows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(pub u64);

/// A revision of the store. As the modification revision of a key, 0 means that the key is absent.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// A lease of the store; never 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub i64);

/// PostgreSQL's system identifier: which database cluster a data directory belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SystemId(pub u64);

/// One life of one agent process, drawn at random when it starts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// One life of one data directory, drawn at random by each initdb, copy and rewind: a voter counts
/// only under the instance that the leader admitted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Instance(pub u64);

/// A node's name: 1 to 63 characters of `A-Z a-z 0-9 _ . -`, beginning with a letter or a digit.
/// It is a key in the store, an `application_name`, and part of a slot's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<str>);

/// A name that can't be a node's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "'{0}' is not a node name: expected 1 to 63 of A-Z a-z 0-9 _ . - beginning with a letter or digit"
)]
pub struct InvalidName(pub String);

impl Lsn {
    /// Before every position.
    pub const ZERO: Self = Self(0);

    /// How many bytes `self` lies behind `ahead`; 0 when it doesn't.
    #[must_use]
    pub fn lag_behind(self, ahead: Self) -> u64 {
        ahead.0.saturating_sub(self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not `HEX/HEX`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{0}' is not a WAL position: expected two hexadecimal numbers like 0/3000060")]
pub struct InvalidLsn(pub String);

impl FromStr for Lsn {
    type Err = InvalidLsn;
    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let invalid = || InvalidLsn(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(invalid)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| invalid())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| invalid())?;
        Ok(Self((u64::from(high) << 32) | u64::from(low)))
    }
}

impl NodeName {
    /// Checks and wraps a name.
    ///
    /// # Errors
    /// [`InvalidName`] when the text breaks the rule in the type's description.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let begins = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
        if begins && text.len() <= 63 && text.chars().all(legal) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName(text.to_owned()))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the node's physical replication slot (contract 1.7): lower case, `-` and `.`
    /// become `_`.
    #[must_use]
    pub fn slot_name(&self) -> String {
        self.0.to_ascii_lowercase().replace(['-', '.'], "_")
    }

    /// The slot through which this node streams from another replica, while that one's data directory
    /// has that life: in another life there is no such slot (docs/protocol.md, "Cascades"). A slot's
    /// name has 63 characters at most.
    #[must_use]
    pub fn cascade_slot(&self, instance: Instance) -> String {
        format!("{:.46}_{:016x}", self.slot_name(), instance.0)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl Serialize for NodeName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

macro_rules! display_number {
    ($($name:ident),*) => { $(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )* };
}
display_number!(Timeline, Term, Revision, LeaseId, SystemId, Incarnation, Instance);
