//! What a registry knows of the schema that a record names: its id and its version.

use super::{Field, Native, SCHEMA_FIELD};

/// The slots that take it.
#[derive(Debug, Default)]
pub struct Facts {
    id: Vec<usize>,
    version: Vec<usize>,
    /// A schema may be registered under several subjects; this is the topic's.
    subject: String,
}

impl Facts {
    /// `paths[slot]` is the path of that slot from the root.
    pub fn of(paths: &[Vec<String>], subject: String) -> Facts {
        let slots = |fact: &str| {
            let wanted =
                |path: &[String]| matches!(path, [root, name] if root == SCHEMA_FIELD && name == fact);
            (0..paths.len()).filter(|&slot| wanted(&paths[slot])).collect()
        };
        Facts { id: slots("id"), version: slots("version"), subject }
    }

    /// The version under the topic's subject, or the only one there is.
    pub fn version_of(&self, versions: &[(String, i64)]) -> Option<i64> {
        let own = versions.iter().find(|(subject, _)| *subject == self.subject);
        let only = || (versions.len() == 1).then(|| &versions[0]);
        own.or_else(only).map(|(_, version)| *version)
    }

    pub fn fill(&self, id: u32, version: Option<i64>, fields: &mut [Field<'_>]) {
        for &slot in &self.id {
            fields[slot] = Field::Native(Native::Integer(id.into()));
        }
        for &slot in &self.version {
            fields[slot] = version.map_or(Field::Absent, |version| Field::Native(Native::Integer(version)));
        }
    }
}
