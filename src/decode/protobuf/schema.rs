//! Protobuf schemas: `.proto` text or descriptor sets in, messages whose types are resolved out.

use std::collections::HashMap;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type as ProtoType};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
};

/// Imports that need not be given: written here as far as they matter.
const KNOWN_FILES: &[(&str, &str)] = &[
    ("google/protobuf/timestamp.proto", include_str!("known/timestamp.proto")),
    ("google/protobuf/duration.proto", include_str!("known/duration.proto")),
    ("google/protobuf/wrappers.proto", include_str!("known/wrappers.proto")),
    ("google/protobuf/struct.proto", include_str!("known/struct.proto")),
    ("google/protobuf/any.proto", include_str!("known/any.proto")),
    ("google/protobuf/empty.proto", include_str!("known/empty.proto")),
    ("google/protobuf/field_mask.proto", include_str!("known/field_mask.proto")),
    ("google/type/date.proto", include_str!("known/date.proto")),
    ("google/type/timeofday.proto", include_str!("known/timeofday.proto")),
    ("confluent/type/decimal.proto", include_str!("known/decimal.proto")),
];

pub type MessageId = usize;

#[derive(Debug, Default)]
pub struct Schema {
    pub messages: Vec<Message>,
    pub enums: Vec<Enum>,
    /// Messages of the file itself, nested ones below their parents.
    tops: Vec<MessageId>,
}

#[derive(Debug)]
pub struct Message {
    /// With its package, without a dot in front.
    pub name: String,
    pub fields: Vec<Field>,
    pub known: Option<Known>,
    pub is_map_entry: bool,
    pub has_oneof: bool,
    /// Places in `fields`.
    by_number: HashMap<u32, usize>,
    nested: Vec<MessageId>,
}

#[derive(Debug)]
pub struct Enum {
    /// Names by number; of several names for one number the first.
    pub names: HashMap<i32, String>,
    /// What a field that is not there stands for.
    pub first: i32,
}

#[derive(Debug, Clone)]
pub struct Field {
    pub number: u32,
    pub name: String,
    pub ty: Type,
    pub repeated: bool,
    /// Whether not being there differs from having the default value.
    pub presence: bool,
    pub required: bool,
    /// Index of the `oneof` that it belongs to.
    pub oneof: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Double,
    Float,
    Int64,
    Uint64,
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    String,
    Bytes,
    Uint32,
    Sfixed32,
    Sfixed64,
    Sint32,
    Sint64,
    Group,
    Enum(usize),
    Message(MessageId),
}

/// Messages that stand for a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    Timestamp,
    Duration,
    /// `google.protobuf.Int64Value` and the like.
    Wrapper,
    Struct,
    Value,
    List,
    Date,
    TimeOfDay,
    Decimal,
}

fn known(name: &str) -> Option<Known> {
    Some(match name {
        "google.protobuf.Timestamp" => Known::Timestamp,
        "google.protobuf.Duration" => Known::Duration,
        "google.protobuf.DoubleValue"
        | "google.protobuf.FloatValue"
        | "google.protobuf.Int64Value"
        | "google.protobuf.UInt64Value"
        | "google.protobuf.Int32Value"
        | "google.protobuf.UInt32Value"
        | "google.protobuf.BoolValue"
        | "google.protobuf.StringValue"
        | "google.protobuf.BytesValue" => Known::Wrapper,
        "google.protobuf.Struct" => Known::Struct,
        "google.protobuf.Value" => Known::Value,
        "google.protobuf.ListValue" => Known::List,
        "google.type.Date" => Known::Date,
        "google.type.TimeOfDay" => Known::TimeOfDay,
        "confluent.type.Decimal" => Known::Decimal,
        _ => return None,
    })
}

/// Reads a `.proto` file and those that it imports, by the names it imports them with.
pub fn parse(text: &str, imports: &[(&str, &str)]) -> Result<Schema, String> {
    let main = parse_file("schema.proto", text)?;
    let mut files: Vec<FileDescriptorProto> = Vec::new();
    let mut todo = main.dependency.clone();
    let mut seen: Vec<String> = Vec::new();
    while let Some(name) = todo.pop() {
        if seen.contains(&name) {
            continue;
        }
        let given = imports.iter().find(|(known, _)| *known == name);
        let known = KNOWN_FILES.iter().find(|(known, _)| *known == name);
        // A file that is only imported for its options is not missed.
        if let Some((_, text)) = given.or(known) {
            let file = parse_file(&name, text)?;
            todo.extend(file.dependency.iter().cloned());
            files.push(file);
        }
        seen.push(name);
    }
    link(&main, &files)
}

/// Reads the file at `path` as a descriptor set or as text, and finds the message.
pub fn parse_file_bytes(bytes: &[u8], message: &str) -> Result<(Schema, MessageId), String> {
    let schema = match std::str::from_utf8(bytes) {
        Ok(text) if text.contains("message") && !text.starts_with('\n') => parse(text, &[]),
        _ => of_set(bytes),
    }
    .or_else(|error| of_set(bytes).map_err(|_| error))?;
    match schema.find(message) {
        Some(found) => Ok((schema, found)),
        None => Err(format!("has no message {message}")),
    }
}

fn of_set(bytes: &[u8]) -> Result<Schema, String> {
    let set = FileDescriptorSet::decode(bytes)
        .map_err(|_| "is neither a .proto file nor a descriptor set".to_owned())?;
    match set.file.split_last() {
        // Files come after those that they import.
        Some((main, others)) => link(main, others),
        None => Err("is an empty descriptor set".to_owned()),
    }
}

fn parse_file(name: &str, text: &str) -> Result<FileDescriptorProto, String> {
    protox_parse::parse(name, text).map_err(|error| format!("{name} cannot be read: {error}"))
}

fn link(main: &FileDescriptorProto, others: &[FileDescriptorProto]) -> Result<Schema, String> {
    let mut linker = Linker::default();
    let tops = linker.declare_file(main);
    for file in others {
        linker.declare_file(file);
    }
    for file in std::iter::once(main).chain(others) {
        linker.define_file(file)?;
    }
    linker.schema.tops = tops;
    Ok(linker.schema)
}

impl Message {
    pub fn field(&self, number: u32) -> Option<&Field> {
        self.by_number.get(&number).and_then(|at| self.fields.get(*at))
    }
}

impl Schema {
    pub fn find(&self, name: &str) -> Option<MessageId> {
        self.messages.iter().position(|message| message.name == name && !message.is_map_entry)
    }

    /// By the indexes that the header of a record has. Entries of maps do not count, as nobody wrote
    /// them as messages.
    pub fn by_indexes(&self, indexes: &[usize]) -> Option<MessageId> {
        let mut list = &self.tops;
        let mut found = None;
        for index in indexes {
            let mut written = list.iter().filter(|message| !self.messages[**message].is_map_entry);
            let message = *written.nth(*index)?;
            found = Some(message);
            list = &self.messages[message].nested;
        }
        found
    }
}

#[derive(Default)]
struct Linker {
    schema: Schema,
    types: HashMap<String, Type>,
}

impl Linker {
    fn declare_file(&mut self, file: &FileDescriptorProto) -> Vec<MessageId> {
        for each in &file.enum_type {
            self.declare_enum(each, file.package());
        }
        file.message_type.iter().map(|message| self.declare_message(message, file.package())).collect()
    }

    fn declare_message(&mut self, message: &DescriptorProto, scope: &str) -> MessageId {
        let name = full(scope, message.name());
        let id = self.schema.messages.len();
        let is_map_entry = message.options.as_ref().is_some_and(|options| options.map_entry());
        self.schema.messages.push(Message {
            known: known(&name),
            name: name.clone(),
            fields: Vec::new(),
            is_map_entry,
            has_oneof: false,
            by_number: HashMap::new(),
            nested: Vec::new(),
        });
        self.types.insert(name.clone(), Type::Message(id));
        for each in &message.enum_type {
            self.declare_enum(each, &name);
        }
        let nested = message.nested_type.iter().map(|nested| self.declare_message(nested, &name)).collect();
        self.schema.messages[id].nested = nested;
        id
    }

    fn declare_enum(&mut self, each: &EnumDescriptorProto, scope: &str) {
        let mut names = HashMap::new();
        for value in &each.value {
            names.entry(value.number()).or_insert_with(|| value.name().to_owned());
        }
        let first = each.value.first().map_or(0, |value| value.number());
        self.types.insert(full(scope, each.name()), Type::Enum(self.schema.enums.len()));
        self.schema.enums.push(Enum { names, first });
    }

    fn define_file(&mut self, file: &FileDescriptorProto) -> Result<(), String> {
        let proto3 = match file.syntax() {
            "proto3" => true,
            "" | "proto2" => false,
            _ => return Err(format!("{} is written in an edition, which is not supported", file.name())),
        };
        file.message_type.iter().try_for_each(|message| self.define(message, file.package(), proto3))
    }

    fn define(&mut self, message: &DescriptorProto, scope: &str, proto3: bool) -> Result<(), String> {
        let name = full(scope, message.name());
        let fields: Result<Vec<Field>, String> =
            message.field.iter().map(|field| self.field(field, &name, proto3)).collect();
        let fields = fields?;
        if let Some(Type::Message(id)) = self.types.get(&name)
            && let Some(found) = self.schema.messages.get_mut(*id)
        {
            found.has_oneof = fields.iter().any(|field| field.oneof.is_some());
            found.by_number = fields.iter().enumerate().map(|(at, field)| (field.number, at)).collect();
            found.fields = fields;
        }
        message.nested_type.iter().try_for_each(|nested| self.define(nested, &name, proto3))
    }

    fn field(&self, field: &FieldDescriptorProto, scope: &str, proto3: bool) -> Result<Field, String> {
        let label = Label::try_from(field.label.unwrap_or(Label::Optional as i32)).unwrap_or(Label::Optional);
        let is_group = field.r#type == Some(ProtoType::Group as i32);
        let ty = match field.type_name.as_deref() {
            _ if is_group => Type::Group,
            Some(name) => self
                .resolve(name, scope)
                .ok_or_else(|| format!("the type {name} of {scope}.{} is not there", field.name()))?,
            None => scalar(field.r#type()).ok_or_else(|| format!("{scope}.{} has no type", field.name()))?,
        };
        let real_oneof = field.oneof_index.filter(|_| !field.proto3_optional());
        let repeated = label == Label::Repeated;
        let presence = !repeated
            && (!proto3
                || field.proto3_optional()
                || real_oneof.is_some()
                || matches!(ty, Type::Message(_) | Type::Group));
        Ok(Field {
            number: u32::try_from(field.number())
                .map_err(|_| format!("{scope}.{} has no number", field.name()))?,
            name: field.name().to_owned(),
            ty,
            repeated,
            presence,
            required: label == Label::Required,
            oneof: real_oneof,
        })
    }

    /// From the innermost scope outwards.
    fn resolve(&self, name: &str, scope: &str) -> Option<Type> {
        if let Some(absolute) = name.strip_prefix('.') {
            return self.types.get(absolute).copied();
        }
        let mut scope = scope;
        loop {
            if let Some(found) = self.types.get(&full(scope, name)) {
                return Some(*found);
            }
            if scope.is_empty() {
                return None;
            }
            scope = scope.rsplit_once('.').map_or("", |(outer, _)| outer);
        }
    }
}

fn full(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
}

fn scalar(ty: ProtoType) -> Option<Type> {
    Some(match ty {
        ProtoType::Double => Type::Double,
        ProtoType::Float => Type::Float,
        ProtoType::Int64 => Type::Int64,
        ProtoType::Uint64 => Type::Uint64,
        ProtoType::Int32 => Type::Int32,
        ProtoType::Fixed64 => Type::Fixed64,
        ProtoType::Fixed32 => Type::Fixed32,
        ProtoType::Bool => Type::Bool,
        ProtoType::String => Type::String,
        ProtoType::Bytes => Type::Bytes,
        ProtoType::Uint32 => Type::Uint32,
        ProtoType::Sfixed32 => Type::Sfixed32,
        ProtoType::Sfixed64 => Type::Sfixed64,
        ProtoType::Sint32 => Type::Sint32,
        ProtoType::Sint64 => Type::Sint64,
        ProtoType::Group | ProtoType::Message | ProtoType::Enum => return None,
    })
}
