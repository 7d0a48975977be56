//! What is said of a generation itself, in its `meta`.

use super::error::damaged;
use super::ledger::{Fields, number, text};
use super::names::rows_of;
use super::settings::{RedisSettings, RowEncoding};
use crate::domain::catalog::Catalog;
use crate::store::{Rebuild, StoreError};

/// Of keys and fields; another one cannot be read.
pub(super) const LAYOUT: &str = "4";

/// What a generation is to readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The one they see, or the first one, which they will see.
    Live,
    /// Built beside the live one. With `carries_live` nothing else writes the live one, and the
    /// heartbeat counts for that one too.
    Next { carries_live: bool },
    /// Out of use; it goes in slices.
    Dropped,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Live => "live",
            Role::Next { .. } => "next",
            Role::Dropped => "dropped",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Described {
    pub number: u32,
    pub role: Role,
    pub writer: String,
    pub epoch: u64,
    pub catalog: Catalog,
    pub encoding: RowEncoding,
    /// Before the names of tables.
    pub rows: String,
    /// Of a generation beside the live one: why it is built and how.
    pub rebuild: Rebuild,
    /// Rows of an earlier generation have to go from its place first.
    pub clearing: bool,
    /// How far it was made of the live one; see [`super::copying`].
    pub copying: Option<String>,
    /// Of the live one: the number of the generation that is built beside it.
    pub next: Option<u32>,
    /// Of the live one: numbers of generations that are out of use and not gone yet.
    pub dropped: Vec<u32>,
    /// Of the live one: the highest number that was taken. None is used again.
    pub last: u32,
}

impl Described {
    pub fn parse(meta: &Fields) -> Result<Described, StoreError> {
        let word = |name: &str| text(meta, name).unwrap_or_default();
        let flag = |name: &str| number::<u8>(meta, name) == Some(1);
        let catalog = serde_json::from_str(&word("catalog"));
        let carries_live = flag("carries_live");
        let role = match word("role").as_str() {
            "live" => Some(Role::Live),
            "next" => Some(Role::Next { carries_live }),
            "dropped" => Some(Role::Dropped),
            _ => None,
        };
        let encoding = [RowEncoding::Hash, RowEncoding::Json];
        let encoding = encoding.into_iter().find(|encoding| encoding.name() == word("encoding"));
        let (Some(number_), Some(role), Some(encoding), Ok(catalog)) =
            (number(meta, "generation"), role, encoding, catalog)
        else {
            return Err(damaged("the description", "a generation"));
        };
        Ok(Described {
            number: number_,
            role,
            writer: word("writer"),
            epoch: number(meta, "epoch").unwrap_or(0),
            catalog,
            encoding,
            rows: word("rows"),
            rebuild: Rebuild {
                reason: word("reason"),
                may_go_back: flag("may_go_back"),
                accepts_loss: flag("accepts_loss"),
                live_is_frozen: carries_live,
                from_live: text(meta, "copying").is_some(),
            },
            clearing: flag("clearing"),
            copying: text(meta, "copying"),
            next: number(meta, "next"),
            dropped: word("dropped").split(' ').filter_map(|number| number.parse().ok()).collect(),
            last: number(meta, "last").unwrap_or(number_),
        })
    }

    /// Tables that are not as the mapping of now has them, or that are too many. Empty: the same.
    pub fn differing(&self, catalog: &Catalog, settings: &RedisSettings) -> Vec<String> {
        let elsewhere = self.rows != rows_of(&settings.redis, self.number);
        let all = elsewhere || self.encoding != settings.redis.encoding;
        let is_same = |name: &str| {
            let of = |catalog: &Catalog| {
                let table = catalog.tables.iter().find(|table| table.name == name)?;
                let column = |&column: &usize| table.columns[column].name.clone();
                let indexes: Vec<Vec<String>> =
                    table.indexes.iter().map(|index| index.iter().map(column).collect()).collect();
                Some((table.fingerprint.clone(), table.columns.clone(), indexes))
            };
            !all && of(&self.catalog) == of(catalog)
        };
        let new = catalog.tables.iter().map(|table| &table.name);
        let old = self.catalog.tables.iter().map(|table| &table.name);
        let mut differing: Vec<String> = Vec::new();
        for name in new.chain(old) {
            if !is_same(name) && !differing.contains(name) {
                differing.push(name.clone());
            }
        }
        differing
    }

    /// Whether it can be written under the mapping of now.
    pub fn is_under(&self, catalog: &Catalog, settings: &RedisSettings) -> bool {
        self.catalog.fingerprint == catalog.fingerprint && self.differing(catalog, settings).is_empty()
    }
}

/// Fields of the `meta` of a new generation, without its writer.
pub(super) fn fields(
    settings: &RedisSettings,
    number: u32,
    role: Role,
    catalog: &Catalog,
) -> Vec<(&'static str, String)> {
    vec![
        ("layout", LAYOUT.to_owned()),
        ("name", settings.replica_name.clone()),
        ("generation", number.to_string()),
        ("role", role.name().to_owned()),
        ("catalog", as_text(catalog)),
        ("encoding", settings.redis.encoding.name().to_owned()),
        ("rows", rows_of(&settings.redis, number)),
        ("sequence", "0".to_owned()),
    ]
}

pub(super) fn as_text(catalog: &Catalog) -> String {
    serde_json::to_string(catalog).unwrap_or_default()
}

pub(super) fn numbers(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}
