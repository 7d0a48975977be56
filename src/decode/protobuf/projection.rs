//! What a mapping reads of a message; other fields are passed over.

use crate::decode::native::{self, Native, Unwritable};
use crate::decode::scratch::Scratch;
use crate::decode::wanted::{Tree, WantedNode};
use crate::decode::{DecodeError, Field, TYPE_FIELD};
use crate::domain::dead_letter::Reason;

use super::schema::{self, Known, MessageId, Schema, Type};
use super::wire::{self, Fields, Flaw, Raw};

/// As in Google's own readers.
const DEPTH_MAX: usize = 100;
/// JSON that one nested value may become.
const JSON_BYTES_MAX: usize = 16 << 20;

/// What is read of one message type.
#[derive(Debug)]
pub struct Plan {
    message: MessageId,
    /// In ascending order of their numbers.
    wanted: Vec<Wanted>,
    /// All slots, this one's and those below.
    all_slots: Vec<usize>,
    type_slots: Vec<usize>,
    /// Of the root: the slots that take all of it, and what it is called in messages.
    whole: Vec<usize>,
    root_name: String,
}

#[derive(Debug)]
struct Wanted {
    field: schema::Field,
    /// Take the value as a whole.
    slots: Vec<usize>,
    path: String,
    parts: Parts,
    below: Vec<usize>,
}

#[derive(Debug)]
enum Parts {
    None,
    Message(Box<Plan>),
    /// Of a map: key, and what is wanted of its value, as parts of the entry.
    Map(Vec<(String, Plan)>),
    /// Parts are wanted of what has none.
    NotAnObject,
}

/// Why a message cannot be read.
#[derive(Debug)]
enum Stop {
    Flaw(Flaw),
    UnknownEnum(String),
    Required(String),
    Unwritable(Unwritable, String),
    TooLong(String),
}

impl From<Flaw> for Stop {
    fn from(flaw: Flaw) -> Stop {
        Stop::Flaw(flaw)
    }
}

impl Plan {
    pub fn new(schema: &Schema, message: MessageId, tree: &Tree) -> Plan {
        let mut plan = Plan::of(schema, message, tree.root());
        plan.whole = tree.root().slots().to_vec();
        plan.root_name = tree.root().path().to_owned();
        plan
    }

    fn of(schema: &Schema, message: MessageId, node: WantedNode<'_>) -> Plan {
        let mut wanted: Vec<Wanted> = node
            .children()
            .filter_map(|(name, child)| {
                let field = schema.messages[message].fields.iter().find(|field| field.name == name)?;
                let parts = match field.ty {
                    _ if !child.has_children() => Parts::None,
                    Type::Message(id) if schema.messages[id].is_map_entry => Parts::Map(
                        child
                            .children()
                            .map(|(key, value)| (key.to_owned(), Plan::of_entry(schema, id, value)))
                            .collect(),
                    ),
                    Type::Message(id) if !field.repeated => {
                        Parts::Message(Box::new(Plan::of(schema, id, child)))
                    }
                    _ => Parts::NotAnObject,
                };
                Some(Wanted {
                    field: field.clone(),
                    slots: child.slots().to_vec(),
                    path: child.path().to_owned(),
                    parts,
                    below: child.below(),
                })
            })
            .collect();
        wanted.sort_by_key(|wanted| wanted.field.number);
        let mut all_slots = node.below();
        all_slots.extend(node.slots());
        let type_slots = node.child(TYPE_FIELD).map(|child| child.slots().to_vec()).unwrap_or_default();
        let (whole, root_name) = (Vec::new(), String::new());
        Plan { message, wanted, all_slots, type_slots, whole, root_name }
    }

    /// `value` is what is wanted of the entry's value.
    fn of_entry(schema: &Schema, entry: MessageId, value: WantedNode<'_>) -> Plan {
        let field = schema.messages[entry].field(2);
        let wanted = field.map(|field| Wanted {
            field: field.clone(),
            slots: value.slots().to_vec(),
            path: value.path().to_owned(),
            parts: match field.ty {
                _ if !value.has_children() => Parts::None,
                Type::Message(id) => Parts::Message(Box::new(Plan::of(schema, id, value))),
                _ => Parts::NotAnObject,
            },
            below: value.below(),
        });
        let mut all_slots = value.below();
        all_slots.extend(value.slots());
        Plan {
            message: entry,
            wanted: wanted.into_iter().collect(),
            all_slots,
            type_slots: Vec::new(),
            whole: Vec::new(),
            root_name: String::new(),
        }
    }

    pub fn read<'a>(
        &self,
        schema: &Schema,
        bytes: &'a [u8],
        scratch: &'a Scratch,
        fields: &mut [Field<'a>],
    ) -> Result<(), DecodeError> {
        let root_name = self.root_name.as_str();
        let mut walk = Walk { schema, scratch, fields, depth: 0 };
        let mut result = walk.message(self, bytes);
        if result.is_ok() && !self.whole.is_empty() {
            result = walk
                .text(self.message, bytes, root_name)
                .map(|text| walk.fill(&self.whole, Field::Json(text)));
        }
        result.map_err(|stop| match stop {
            Stop::Flaw(flaw) => DecodeError::malformed(root_name, flaw.message()),
            Stop::UnknownEnum(path) => DecodeError {
                path,
                reason: Reason::OutOfRange,
                message: "is an enum value that its schema does not have".to_owned(),
            },
            Stop::Required(path) => DecodeError::malformed(&path, "is required by its schema and is missing"),
            Stop::Unwritable(why, path) => DecodeError {
                path,
                reason: Reason::OutOfRange,
                message: format!("holds a value that {}", why.message()),
            },
            Stop::TooLong(path) => {
                DecodeError::malformed(&path, format!("becomes more than {JSON_BYTES_MAX} bytes of JSON"))
            }
        })
    }
}

impl Wanted {
    /// Whether all that comes of it has to be seen before its value is known.
    fn is_in_pieces(&self) -> bool {
        self.field.repeated || matches!(self.field.ty, Type::Message(_))
    }
}

struct Walk<'p, 'a, 'f> {
    schema: &'p Schema,
    scratch: &'a Scratch,
    fields: &'f mut [Field<'a>],
    depth: usize,
}

impl<'a> Walk<'_, 'a, '_> {
    fn fill(&mut self, slots: &[usize], field: Field<'a>) {
        for &slot in slots {
            self.fields[slot] = field;
        }
    }

    fn message(&mut self, plan: &Plan, bytes: &'a [u8]) -> Result<(), Stop> {
        if self.depth >= DEPTH_MAX {
            return Err(Flaw::TooDeep.into());
        }
        self.depth += 1;
        self.begin(plan)?;
        // What can come in several pieces, by the index of the wanted field. The pieces of a message are
        // all of it together, one behind the other.
        let mut pieces: Vec<(usize, Raw<'a>)> = Vec::new();
        let mut met = vec![false; plan.wanted.len()];
        let mut chosen = Chosen::default();
        let schema = self.schema;
        let message = &schema.messages[plan.message];
        let mut fields = Fields(bytes);
        while let Some((number, raw)) = fields.next()? {
            chosen.note(message, number);
            let found = plan.wanted.binary_search_by_key(&number, |wanted| wanted.field.number);
            let Ok(index) = found else { continue };
            let wanted = &plan.wanted[index];
            met[index] = true;
            if wanted.is_in_pieces() {
                pieces.push((index, raw));
            } else {
                let field = self.scalar(&wanted.field, raw, &wanted.path)?;
                self.fill(&wanted.slots, Field::Native(field));
                self.fill(&wanted.below, Field::NotAnObject);
            }
        }
        pieces.sort_by_key(|(index, _)| *index);
        for (index, wanted) in plan.wanted.iter().enumerate() {
            if wanted.field.required && !met[index] {
                return Err(Stop::Required(wanted.path.clone()));
            }
            if !chosen.counts(&wanted.field) {
                self.fill(&wanted.slots, Field::Absent);
                self.fill(&wanted.below, Field::Absent);
            } else if wanted.is_in_pieces() {
                let start = pieces.partition_point(|(of, _)| *of < index);
                let own = pieces[start..].iter().take_while(|(of, _)| *of == index);
                let raws: Vec<Raw<'a>> = own.map(|(_, raw)| *raw).collect();
                self.assemble(wanted, &raws)?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// What the fields of a message are before any is read.
    fn begin(&mut self, plan: &Plan) -> Result<(), Stop> {
        self.fill(&plan.all_slots, Field::Absent);
        if !plan.type_slots.is_empty() {
            let name = self.scratch.text(&self.schema.messages[plan.message].name);
            self.fill(&plan.type_slots, Field::Native(Native::Text(name)));
        }
        for wanted in &plan.wanted {
            if !wanted.field.presence && !wanted.field.repeated {
                let default = self.default(&wanted.field, &wanted.path)?;
                self.fill(&wanted.slots, Field::Native(default));
            }
        }
        Ok(())
    }

    /// A repeated field, a map or a message, all of whose pieces are known.
    fn assemble(&mut self, wanted: &Wanted, raws: &[Raw<'a>]) -> Result<(), Stop> {
        if let Parts::NotAnObject = wanted.parts {
            self.fill(&wanted.below, Field::NotAnObject);
        }
        if let Parts::Map(entries) = &wanted.parts {
            for (key, plan) in entries {
                // Of several entries with one key the last one counts.
                for raw in raws {
                    let bytes = bytes_of(*raw)?;
                    if self.entry_key(plan.message, bytes, &wanted.path)? == *key {
                        self.message(plan, bytes)?;
                    }
                }
            }
        }
        if let (Parts::Message(parts), false) = (&wanted.parts, raws.is_empty()) {
            let bytes = self.join(raws)?;
            self.message(parts, bytes)?;
        }
        if wanted.slots.is_empty() || (raws.is_empty() && !wanted.field.repeated) {
            return Ok(());
        }
        let field = match wanted.field.ty {
            Type::Message(id) if !wanted.field.repeated => {
                let bytes = self.join(raws)?;
                match self.known(id, bytes, &wanted.path)? {
                    Some(native) => Field::Native(native),
                    None => Field::Json(self.text(id, bytes, &wanted.path)?),
                }
            }
            _ => {
                let mut out = String::new();
                self.repeated(&wanted.field, raws, &mut out, &wanted.path)?;
                Field::Json(self.scratch.text(&out))
            }
        };
        self.fill(&wanted.slots, field);
        Ok(())
    }

    /// The bytes of a message that came in pieces.
    fn join(&self, raws: &[Raw<'a>]) -> Result<&'a [u8], Flaw> {
        match raws {
            [one] => bytes_of(*one),
            _ => {
                let pieces: Result<Vec<&[u8]>, Flaw> = raws.iter().map(|raw| bytes_of(*raw)).collect();
                Ok(self.scratch.bytes(&pieces?.concat()))
            }
        }
    }

    fn entry_key(&mut self, entry: MessageId, bytes: &'a [u8], path: &str) -> Result<String, Stop> {
        let Some(field) = self.schema.messages[entry].field(1) else {
            return Ok(String::new());
        };
        let mut key = self.default(field, path)?;
        let mut fields = Fields(bytes);
        while let Some((number, raw)) = fields.next()? {
            if number == 1 {
                key = self.scalar(field, raw, path)?;
            }
        }
        Ok(match key {
            Native::Text(text) => text.to_owned(),
            other => {
                let mut text = String::new();
                native::write_json(other, &mut text).map_err(|why| Stop::Unwritable(why, path.to_owned()))?;
                text
            }
        })
    }

    fn default(&self, field: &schema::Field, path: &str) -> Result<Native<'a>, Stop> {
        Ok(match field.ty {
            Type::Double | Type::Float => Native::Real(0.0),
            Type::Bool => Native::Boolean(false),
            Type::String => Native::Text(""),
            Type::Bytes => Native::Bytes(&[]),
            Type::Uint64 | Type::Fixed64 => Native::Unsigned(0),
            Type::Enum(id) => self.symbol(id, self.schema.enums[id].first, path)?,
            _ => Native::Integer(0),
        })
    }

    fn symbol(&self, id: usize, number: i32, path: &str) -> Result<Native<'a>, Stop> {
        match self.schema.enums[id].names.get(&number) {
            Some(name) => Ok(Native::Text(self.scratch.text(name))),
            None => Err(Stop::UnknownEnum(path.to_owned())),
        }
    }

    fn scalar(&self, field: &schema::Field, raw: Raw<'a>, path: &str) -> Result<Native<'a>, Stop> {
        Ok(match (field.ty, raw) {
            (Type::Double, Raw::Fixed64(bytes)) => Native::Real(f64::from_le_bytes(bytes)),
            (Type::Float, Raw::Fixed32(bytes)) => Native::Real(f32::from_le_bytes(bytes).into()),
            (Type::Int64, Raw::Varint(number)) => Native::Integer(number as i64),
            (Type::Uint64, Raw::Varint(number)) => Native::Unsigned(number),
            // A negative one has ten bytes; readers take the lowest 32 bits.
            (Type::Int32, Raw::Varint(number)) => Native::Integer((number as i32).into()),
            (Type::Uint32, Raw::Varint(number)) => Native::Integer((number as u32).into()),
            (Type::Sint32, Raw::Varint(number)) => Native::Integer((wire::zigzag(number) as i32).into()),
            (Type::Sint64, Raw::Varint(number)) => Native::Integer(wire::zigzag(number)),
            (Type::Bool, Raw::Varint(number)) => Native::Boolean(number != 0),
            (Type::Enum(id), Raw::Varint(number)) => self.symbol(id, number as i32, path)?,
            (Type::Fixed64, Raw::Fixed64(bytes)) => Native::Unsigned(u64::from_le_bytes(bytes)),
            (Type::Sfixed64, Raw::Fixed64(bytes)) => Native::Integer(i64::from_le_bytes(bytes)),
            (Type::Fixed32, Raw::Fixed32(bytes)) => Native::Integer(u32::from_le_bytes(bytes).into()),
            (Type::Sfixed32, Raw::Fixed32(bytes)) => Native::Integer(i32::from_le_bytes(bytes).into()),
            (Type::String, Raw::Bytes(bytes)) => {
                Native::Text(std::str::from_utf8(bytes).map_err(|_| Flaw::NotText)?)
            }
            (Type::Bytes, Raw::Bytes(bytes)) => Native::Bytes(bytes),
            (Type::Group, _) => return Err(Flaw::Group.into()),
            _ => return Err(Flaw::Mismatch.into()),
        })
    }

    /// A message that stands for a value; `None` where it has to be read as it is.
    fn known(&mut self, id: MessageId, bytes: &'a [u8], path: &str) -> Result<Option<Native<'a>>, Stop> {
        let message = &self.schema.messages[id];
        let Some(known) = message.known else { return Ok(None) };
        Ok(Some(match known {
            Known::Timestamp => {
                let [seconds, nanos] = self.numbers(message, bytes)?;
                // Nanos outside of a second are nobody's, and mean the same in the seconds.
                let seconds = seconds.checked_add(nanos.div_euclid(1_000_000_000));
                let why = Unwritable::Time("lies outside the years 0001 to 9999");
                let seconds = seconds.ok_or_else(|| Stop::Unwritable(why, path.to_owned()))?;
                Native::Instant { seconds, nanos: nanos.rem_euclid(1_000_000_000) as u32 }
            }
            Known::Duration => {
                let [seconds, nanos] = self.numbers(message, bytes)?;
                Native::Text(self.scratch.text(&duration(seconds, nanos)))
            }
            Known::Date => {
                let [year, month, day] = self.numbers(message, bytes)?;
                let text = format!("{year:04}-{month:02}-{day:02}");
                Native::Text(self.scratch.text(&text))
            }
            Known::TimeOfDay => {
                let [hours, minutes, seconds, nanos] = self.numbers(message, bytes)?;
                let text = format!("{hours:02}:{minutes:02}:{seconds:02}.{nanos:09}");
                Native::Text(self.scratch.text(text.trim_end_matches('0').trim_end_matches('.')))
            }
            Known::Decimal => {
                let [_, _, scale] = self.numbers(message, bytes)?;
                let scale = i32::try_from(scale)
                    .map_err(|_| Stop::Unwritable(Unwritable::TooLong, path.to_owned()))?;
                let mut unscaled: &'a [u8] = &[];
                let mut fields = Fields(bytes);
                while let Some((number, raw)) = fields.next()? {
                    if let (1, Raw::Bytes(bytes)) = (number, raw) {
                        unscaled = bytes;
                    }
                }
                Native::Decimal { unscaled, scale }
            }
            Known::Wrapper => {
                let Some(field) = message.fields.first() else { return Ok(None) };
                let mut value = self.default(field, path)?;
                let mut fields = Fields(bytes);
                while let Some((number, raw)) = fields.next()? {
                    if number == field.number {
                        value = self.scalar(field, raw, path)?;
                    }
                }
                value
            }
            Known::Struct | Known::Value | Known::List => return Ok(None),
        }))
    }

    /// The integers of fields 1 to N; 0 for other fields.
    fn numbers<const N: usize>(&self, message: &schema::Message, bytes: &'a [u8]) -> Result<[i64; N], Stop> {
        let mut numbers = [0; N];
        let mut fields = Fields(bytes);
        while let Some((number, raw)) = fields.next()? {
            // Field numbers begin with 1.
            let slot = numbers.get_mut(number as usize - 1);
            let field = message.field(number);
            if let (Some(slot), Some(field)) = (slot, field)
                && let Native::Integer(value) = self.scalar(field, raw, "")?
            {
                *slot = value;
            }
        }
        Ok(numbers)
    }

    /// A message as JSON.
    fn text(&mut self, id: MessageId, bytes: &'a [u8], path: &str) -> Result<&'a str, Stop> {
        let mut out = String::new();
        self.json(id, bytes, &mut out, path)?;
        Ok(self.scratch.text(&out))
    }

    fn json(&mut self, id: MessageId, bytes: &'a [u8], out: &mut String, path: &str) -> Result<(), Stop> {
        if out.len() > JSON_BYTES_MAX {
            return Err(Stop::TooLong(path.to_owned()));
        }
        if self.depth >= DEPTH_MAX {
            return Err(Flaw::TooDeep.into());
        }
        if let Some(native) = self.known(id, bytes, path)? {
            return native::write_json(native, out).map_err(|why| Stop::Unwritable(why, path.to_owned()));
        }
        self.depth += 1;
        let schema = self.schema;
        let message = &schema.messages[id];
        let mut raws: Vec<(u32, Raw<'a>)> = Vec::new();
        let mut chosen = Chosen::default();
        let mut fields = Fields(bytes);
        while let Some((number, raw)) = fields.next()? {
            chosen.note(message, number);
            raws.push((number, raw));
        }
        raws.retain(|(number, _)| message.field(*number).is_some_and(|field| chosen.counts(field)));
        raws.sort_by_key(|(number, _)| *number);
        match message.known {
            Some(Known::Struct | Known::List) => self.only_field(message, &raws, out, path)?,
            Some(Known::Value) => match raws.last() {
                None | Some((1, _)) => out.push_str("null"),
                Some((number, _)) => match message.field(*number) {
                    Some(field) => self.one(field, &values_of(&raws, *number), out, path)?,
                    None => out.push_str("null"),
                },
            },
            _ => {
                out.push('{');
                let mut first = true;
                for field in &message.fields {
                    let values = values_of(&raws, field.number);
                    if values.is_empty() && field.required {
                        return Err(Stop::Required(path.to_owned()));
                    }
                    if values.is_empty() && field.presence {
                        continue;
                    }
                    if !std::mem::take(&mut first) {
                        out.push(',');
                    }
                    native::write_string(&field.name, out);
                    out.push(':');
                    self.one(field, &values, out, path)?;
                }
                out.push('}');
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// The only field of `Struct` and `ListValue`.
    fn only_field(
        &mut self,
        message: &schema::Message,
        raws: &[(u32, Raw<'a>)],
        out: &mut String,
        path: &str,
    ) -> Result<(), Stop> {
        match message.fields.first() {
            Some(field) if !raws.is_empty() => self.one(field, &values_of(raws, field.number), out, path),
            _ => {
                out.push_str(if message.known == Some(Known::List) { "[]" } else { "{}" });
                Ok(())
            }
        }
    }

    /// All that came of one field.
    fn one(
        &mut self,
        field: &schema::Field,
        raws: &[Raw<'a>],
        out: &mut String,
        path: &str,
    ) -> Result<(), Stop> {
        if field.repeated {
            return self.repeated(field, raws, out, path);
        }
        if let Type::Message(id) = field.ty {
            let bytes = self.join(raws)?;
            return self.json(id, bytes, out, path);
        }
        let native = match raws.last() {
            Some(raw) => self.scalar(field, *raw, path)?,
            None => self.default(field, path)?,
        };
        native::write_json(native, out).map_err(|why| Stop::Unwritable(why, path.to_owned()))
    }

    fn repeated(
        &mut self,
        field: &schema::Field,
        raws: &[Raw<'a>],
        out: &mut String,
        path: &str,
    ) -> Result<(), Stop> {
        if let Type::Message(id) = field.ty
            && self.schema.messages[id].is_map_entry
        {
            return self.map(id, raws, out, path);
        }
        out.push('[');
        let mut first = true;
        for raw in raws {
            if out.len() > JSON_BYTES_MAX {
                return Err(Stop::TooLong(path.to_owned()));
            }
            if let (Type::Message(id), Raw::Bytes(bytes)) = (field.ty, raw) {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                self.json(id, bytes, out, path)?;
                continue;
            }
            let mut packed = Packed::of(field.ty, *raw);
            while let Some(raw) = packed.next()? {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                let native = self.scalar(field, raw, path)?;
                native::write_json(native, out).map_err(|why| Stop::Unwritable(why, path.to_owned()))?;
            }
        }
        out.push(']');
        Ok(())
    }

    fn map(&mut self, entry: MessageId, raws: &[Raw<'a>], out: &mut String, path: &str) -> Result<(), Stop> {
        let schema = self.schema;
        let Some(value) = schema.messages[entry].field(2) else {
            out.push_str("{}");
            return Ok(());
        };
        // Of several entries with one key the last one counts.
        let mut entries: Vec<(String, &'a [u8])> = Vec::with_capacity(raws.len());
        for raw in raws {
            let bytes = bytes_of(*raw)?;
            entries.push((self.entry_key(entry, bytes, path)?, bytes));
        }
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        out.push('{');
        let mut first = true;
        for (index, (key, bytes)) in entries.iter().enumerate() {
            if entries.get(index + 1).is_some_and(|(next, _)| next == key) {
                continue;
            }
            if !std::mem::take(&mut first) {
                out.push(',');
            }
            native::write_string(key, out);
            out.push(':');
            let mut raws = Vec::new();
            let mut fields = Fields(bytes);
            while let Some((number, raw)) = fields.next()? {
                if number == 2 {
                    raws.push(raw);
                }
            }
            self.one(value, &raws, out, path)?;
        }
        out.push('}');
        Ok(())
    }
}

/// Of the fields in ascending order of their numbers those with this one.
fn values_of<'a>(raws: &[(u32, Raw<'a>)], number: u32) -> Vec<Raw<'a>> {
    let start = raws.partition_point(|(of, _)| *of < number);
    raws[start..].iter().take_while(|(of, _)| *of == number).map(|(_, raw)| *raw).collect()
}

/// Of the members of a `oneof` the last one counts.
#[derive(Default)]
struct Chosen(Vec<(i32, u32)>);

impl Chosen {
    fn note(&mut self, message: &schema::Message, number: u32) {
        if !message.has_oneof {
            return;
        }
        let Some(oneof) = message.field(number).and_then(|field| field.oneof) else { return };
        match self.0.iter_mut().find(|(known, _)| *known == oneof) {
            Some((_, last)) => *last = number,
            None => self.0.push((oneof, number)),
        }
    }

    fn counts(&self, field: &schema::Field) -> bool {
        let last = self.0.iter().find(|(oneof, _)| Some(*oneof) == field.oneof);
        last.is_none_or(|(_, number)| *number == field.number)
    }
}

fn bytes_of(raw: Raw<'_>) -> Result<&[u8], Flaw> {
    match raw {
        Raw::Bytes(bytes) => Ok(bytes),
        _ => Err(Flaw::Mismatch),
    }
}

/// As in the JSON form of the type: seconds with as much of a fraction as there is.
fn duration(seconds: i64, nanos: i64) -> String {
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    let text = format!("{sign}{}.{:09}", seconds.unsigned_abs(), nanos.unsigned_abs());
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// The numbers of a repeated field, which come one by one or many in one piece.
enum Packed<'a> {
    One(Option<Raw<'a>>),
    Varints(&'a [u8]),
    Fixed32(&'a [u8]),
    Fixed64(&'a [u8]),
}

impl<'a> Packed<'a> {
    fn of(ty: Type, raw: Raw<'a>) -> Packed<'a> {
        match (ty, raw) {
            (Type::String | Type::Bytes | Type::Message(_) | Type::Group, _) => Packed::One(Some(raw)),
            (Type::Double | Type::Fixed64 | Type::Sfixed64, Raw::Bytes(bytes)) => Packed::Fixed64(bytes),
            (Type::Float | Type::Fixed32 | Type::Sfixed32, Raw::Bytes(bytes)) => Packed::Fixed32(bytes),
            (_, Raw::Bytes(bytes)) => Packed::Varints(bytes),
            _ => Packed::One(Some(raw)),
        }
    }

    fn next(&mut self) -> Result<Option<Raw<'a>>, Flaw> {
        Ok(match self {
            Packed::One(raw) => raw.take(),
            Packed::Varints([]) | Packed::Fixed32([]) | Packed::Fixed64([]) => None,
            Packed::Varints(bytes) => Some(Raw::Varint(wire::varint(bytes)?)),
            Packed::Fixed32(bytes) => Some(Raw::Fixed32(wire::array(bytes)?)),
            Packed::Fixed64(bytes) => Some(Raw::Fixed64(wire::array(bytes)?)),
        })
    }
}
