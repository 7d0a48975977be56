//! The words that stand for the model's enums in a configuration file.

use crate::domain::change::IfMissing;
use crate::domain::value::ColumnType;

use super::model::{
    Encoding, Format, Gate, Keep, KeyFormat, LogFormat, OnConfigChange, OnError, OnGap, Otherwise, Personal,
    RebuildPolicy, RowEncoding, Snapshots, Unknown,
};

/// An enum that is written as one word.
pub trait Word: Sized + Copy + PartialEq + 'static {
    const WORDS: &'static [(&'static str, Self)];
    /// Words of the documented surface that this version does not support.
    const UNSUPPORTED: &'static [&'static str] = &[];

    fn from_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(name, _)| *name == word).map(|(_, value)| *value)
    }

    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }
}

/// The supported words, in the order in which they are documented.
pub(super) fn words<W: Word>() -> Vec<&'static str> {
    W::WORDS.iter().map(|(name, _)| *name).collect()
}

impl Word for Format {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("json", Format::Json),
        ("debezium-json", Format::DebeziumJson),
        ("cloudevents", Format::CloudEvents),
        ("avro", Format::Avro),
        ("debezium-avro", Format::DebeziumAvro),
        ("protobuf", Format::Protobuf),
        ("json-schema", Format::JsonSchema),
        ("raw", Format::Raw),
        ("debezium-flat", Format::DebeziumFlat),
        ("debezium-flat-avro", Format::DebeziumFlatAvro),
        ("maxwell", Format::Maxwell),
        ("canal", Format::Canal),
    ];
    const UNSUPPORTED: &'static [&'static str] = &["debezium-protobuf"];
}

impl Word for Snapshots {
    const WORDS: &'static [(&'static str, Self)] = &[("sweep", Snapshots::Sweep), ("keep", Snapshots::Keep)];
}

impl Format {
    /// As it is written.
    pub fn name(self) -> &'static str {
        self.word()
    }
}

impl Word for KeyFormat {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("text", KeyFormat::Text),
        ("json", KeyFormat::Json),
        ("avro", KeyFormat::Avro),
        ("protobuf", KeyFormat::Protobuf),
        ("json-schema", KeyFormat::JsonSchema),
    ];
}

impl Word for Otherwise {
    const WORDS: &'static [(&'static str, Self)] =
        &[("ignore", Otherwise::Ignore), ("dead_letter", Otherwise::DeadLetter), ("stop", Otherwise::Stop)];
}

impl Word for Unknown {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("dead_letter", Unknown::DeadLetter),
        ("stop", Unknown::Stop),
        ("ignore", Unknown::Ignore),
        ("accept", Unknown::Accept),
    ];
}

impl Word for OnError {
    const WORDS: &'static [(&'static str, Self)] =
        &[("dead_letter", OnError::DeadLetter), ("stop", OnError::Stop), ("skip", OnError::Skip)];
}

impl Word for OnGap {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", OnGap::Auto),
        ("rebuild", OnGap::Rebuild),
        ("stop", OnGap::Stop),
        ("continue", OnGap::Continue),
    ];
}

impl Word for RebuildPolicy {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", RebuildPolicy::Auto), ("always", RebuildPolicy::Always), ("never", RebuildPolicy::Never)];
}

impl Word for IfMissing {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("hold", IfMissing::Hold),
        ("create", IfMissing::Create),
        ("ignore", IfMissing::Ignore),
        ("dead_letter", IfMissing::DeadLetter),
    ];
}

impl Word for Encoding {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("seconds", Encoding::Seconds),
        ("millis", Encoding::Millis),
        ("micros", Encoding::Micros),
        ("nanos", Encoding::Nanos),
        ("days", Encoding::Days),
        ("base64", Encoding::Base64),
        ("hex", Encoding::Hex),
    ];
}

impl Word for Personal {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("no", Personal::No),
        ("clear", Personal::Clear),
        ("hash", Personal::Hash),
        ("mask", Personal::Mask),
        ("drop", Personal::Drop),
    ];
}

impl Word for RowEncoding {
    const WORDS: &'static [(&'static str, Self)] =
        &[("hash", RowEncoding::Hash), ("json", RowEncoding::Json)];
}

impl Word for Gate {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Gate::Auto), ("caught_up", Gate::CaughtUp), ("complete_copy", Gate::CompleteCopy)];
}

impl Word for Keep {
    const WORDS: &'static [(&'static str, Self)] =
        &[("coordinates", Keep::Coordinates), ("bytes", Keep::Bytes)];
}

impl Word for LogFormat {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
}

impl Word for OnConfigChange {
    const WORDS: &'static [(&'static str, Self)] =
        &[("wait", OnConfigChange::Wait), ("restart", OnConfigChange::Restart)];
}

impl Word for ColumnType {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("integer", ColumnType::Integer),
        ("real", ColumnType::Real),
        ("text", ColumnType::Text),
        ("boolean", ColumnType::Boolean),
        ("blob", ColumnType::Blob),
        ("decimal", ColumnType::Decimal),
        ("date", ColumnType::Date),
        ("time", ColumnType::Time),
        ("timestamp", ColumnType::Timestamp),
        ("uuid", ColumnType::Uuid),
        ("json", ColumnType::Json),
    ];
}

impl Encoding {
    /// The encodings that mean something for a column of this type.
    pub(super) fn of(ty: ColumnType) -> &'static [Encoding] {
        match ty {
            ColumnType::Timestamp | ColumnType::Time => {
                &[Encoding::Seconds, Encoding::Millis, Encoding::Micros, Encoding::Nanos]
            }
            ColumnType::Date => &[Encoding::Days],
            ColumnType::Blob => &[Encoding::Base64, Encoding::Hex],
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_types_are_called_the_same_everywhere() {
        let expected: Vec<&str> = ColumnType::ALL.into_iter().map(ColumnType::name).collect();
        assert_eq!(words::<ColumnType>(), expected);
        for (word, ty) in ColumnType::WORDS {
            assert_eq!(ty.name(), *word);
        }
    }
}
