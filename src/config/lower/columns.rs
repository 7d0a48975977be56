//! Columns: their types, and whether an expression can fill them.

use crate::config::expression::{ExpressionError, parse, parse_condition};
use crate::config::fields::{Fields, Given, entries, scalar, scalar_text};
use crate::config::model::{Column, Condition, Encoding, Expression, Personal};
use crate::config::problem::{Place, Problem, Report};
use crate::config::scalar::{Wrong, column_name, count, word};
use crate::config::sections::COLUMN;
use crate::config::tree::{Content, Node};
use crate::config::words::{Word as _, words};
use crate::domain::value::ColumnType;

use super::personal::{Declared, looks_personal};

/// Far below what SQLite can do (2,000), which must also hold what readside keeps of each row.
const COLUMNS_MAX: usize = 500;

/// The columns of one table, as far as they could be read.
#[derive(Default)]
pub(super) struct Columns {
    list: Vec<Draft>,
    /// False after a problem: then names that are not in the list may be right.
    complete: bool,
}

struct Draft {
    name: String,
    /// `None`: reported as wrong.
    ty: Option<Type>,
    from: Option<Expression>,
    encoding: Option<Encoding>,
    personal: Option<Given<Personal>>,
    show_last: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Type {
    ty: ColumnType,
    nullable: bool,
}

impl Columns {
    pub fn lower(report: &mut Report, node: &Node, personal: &mut Declared) -> Columns {
        let Some(entries) = entries(report, node, "`columns`") else {
            return Columns::default();
        };
        if entries.is_empty() {
            report.error(&node.place, "a table needs at least one column");
            return Columns::default();
        }
        if entries.len() > COLUMNS_MAX {
            report.error(&node.place, format!("a table cannot have more than {COLUMNS_MAX} columns"));
            return Columns::default();
        }
        let mut columns = Columns { list: Vec::new(), complete: true };
        for entry in entries {
            if let Err(wrong) = column_name(&entry.key) {
                report.push(Problem::new(&entry.key_place, wrong.message).about(&entry.key));
            }
            // SQLite compares names without regard to the case of ASCII letters.
            if columns.list.iter().any(|column| column.name.eq_ignore_ascii_case(&entry.key)) {
                let message = "another column has this name, apart from upper and lower case";
                report.push(Problem::new(&entry.key_place, message).about(&entry.key));
            }
            let draft = Draft::lower(report, &entry.key, &entry.value);
            match &draft.personal {
                Some(given) => personal.add(given.value, &given.place),
                None if looks_personal(&entry.key) => {
                    let message = "looks personal and is copied in clear; say `personal: hash`, `mask` or `drop`, or, if it is meant, `clear` or `no`";
                    report.push_warning(Problem::new(&entry.key_place, message).about(&entry.key));
                }
                None => {}
            }
            columns.list.push(draft);
        }
        columns
    }

    /// The index of a column; reported if there is none.
    pub fn find(&self, report: &mut Report, name: &str, place: &Place) -> Option<usize> {
        let found = self.list.iter().position(|column| column.name == name);
        if found.is_none() && self.complete {
            let names = self.list.iter().map(|column| column.name.as_str());
            report.push(Problem::new(place, "the table has no such column").about(name).suggest(name, names));
        }
        found
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn name(&self, column: usize) -> &str {
        self.list.get(column).map_or("", |column| &column.name)
    }

    pub fn ty(&self, column: usize) -> Option<ColumnType> {
        Some(self.list.get(column)?.ty?.ty)
    }

    pub fn from(&self, column: usize) -> Option<&Expression> {
        self.list.get(column)?.from.as_ref()
    }

    pub fn personal(&self, column: usize) -> Option<Personal> {
        Some(self.list.get(column)?.personal.as_ref()?.value)
    }

    /// A column whose type could not be read counts as nullable: that was reported.
    pub fn is_nullable(&self, column: usize) -> bool {
        self.list.get(column).and_then(|column| column.ty).is_none_or(|ty| ty.nullable)
    }

    /// Reads an expression that is to fill a column.
    pub fn expression(&self, report: &mut Report, column: usize, node: &Node) -> Option<Expression> {
        let draft = self.list.get(column)?;
        expression(report, node, draft)
    }

    pub fn finish(self) -> Option<Vec<Column>> {
        let mut columns = Vec::with_capacity(self.list.len());
        for Draft { name, ty, from, encoding, personal, show_last } in self.list {
            let Type { ty, nullable } = ty?;
            let personal = personal.map(|given| given.value);
            columns.push(Column { name, ty, nullable, from, encoding, personal, show_last });
        }
        self.complete.then_some(columns)
    }
}

impl Draft {
    fn lower(report: &mut Report, name: &str, node: &Node) -> Draft {
        let name = name.to_owned();
        let mut draft = Draft { name, ty: None, from: None, encoding: None, personal: None, show_last: 0 };
        if !matches!(node.content, Content::Mapping(_)) {
            draft.ty = scalar(report, node, column_type).map(|given| given.value);
            return draft;
        }
        let Some(fields) = Fields::open(report, node, &COLUMN) else {
            return draft;
        };
        draft.ty = fields.value(report, "type", column_type).map(|given| given.value);
        draft.encoding = fields
            .value(report, "encoding", word::<Encoding>)
            .and_then(|given| encoding(report, given, draft.ty?.ty));
        if let Some(from) = fields.get("from") {
            draft.from = expression(report, from, &draft);
        }
        draft.personal = fields.value(report, "personal", word::<Personal>);
        draft.check_personal(report, &fields);
        draft
    }

    fn check_personal(&mut self, report: &mut Report, fields: &Fields) {
        let is = |personal: Personal| self.personal.as_ref().is_some_and(|given| given.value == personal);
        if let Some(given) = fields.value(report, "show_last", count) {
            match (given.value, is(Personal::Mask)) {
                (last @ 1..=8, true) => self.show_last = last as usize,
                (_, true) => report.error(&given.place, "`show_last` is between 1 and 8"),
                (_, false) => report.error(&given.place, "`show_last` is about `personal: mask`"),
            }
        }
        let (Some(given), Some(Type { ty, nullable })) = (&self.personal, self.ty) else { return };
        let wrong = match given.value {
            Personal::Hash if !matches!(ty, ColumnType::Text | ColumnType::Blob) => {
                format!("a hash is a `text` or a `blob`, not {ty}")
            }
            Personal::Hash if self.encoding.is_some() => {
                "a hash is made of what is sent: take `encoding` away".to_owned()
            }
            Personal::Mask if ty != ColumnType::Text => format!("a mask is for `text`, not for {ty}"),
            Personal::Drop if !nullable => "a column that is dropped is null: give its type a `?`".to_owned(),
            _ => return,
        };
        report.push(Problem::new(&given.place, wrong).about(given.value.word()));
    }
}

/// `text` or `text?`.
fn column_type(text: &str) -> Result<Type, Wrong> {
    let (name, nullable) = match text.strip_suffix('?') {
        Some(name) => (name.trim_end(), true),
        None => (text, false),
    };
    match word::<ColumnType>(name) {
        Ok(ty) => Ok(Type { ty, nullable }),
        Err(_) => {
            if let Some(ours) = also_known_as(name) {
                return Err(format!("unknown column type; it is called `{ours}` here").into());
            }
            let valid = words::<ColumnType>();
            let message = format!(
                "unknown column type; the types are {}, with `?` behind them for columns that may be null",
                valid.join(", ")
            );
            Err(Wrong { message, valid })
        }
    }
}

/// What other systems call our types, where the names are not alike.
fn also_known_as(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_lowercase().as_str() {
        "int" | "bigint" | "smallint" | "int64" | "int32" | "long" => "integer",
        "float" | "double" | "number" => "real",
        "string" | "varchar" | "char" => "text",
        "bool" => "boolean",
        "bytes" | "bytea" | "binary" => "blob",
        "numeric" => "decimal",
        "datetime" | "timestamptz" => "timestamp",
        "jsonb" | "object" | "array" => "json",
        _ => return None,
    })
}

fn encoding(report: &mut Report, given: Given<Encoding>, ty: ColumnType) -> Option<Encoding> {
    let possible = Encoding::of(ty);
    if possible.contains(&given.value) {
        return Some(given.value);
    }
    let message = if possible.is_empty() {
        format!("a column of type {ty} has no encoding")
    } else {
        let list: Vec<String> = possible.iter().map(|encoding| format!("`{}`", encoding.word())).collect();
        format!("a column of type {ty} is encoded as one of {}", list.join(", "))
    };
    report.push(Problem::new(&given.place, message).about(given.value.word()));
    None
}

/// Reads a condition.
pub(super) fn condition(report: &mut Report, node: &Node) -> Option<Given<Condition>> {
    let text = scalar_text(report, node)?;
    match parse_condition(text) {
        Ok(value) => Some(Given { value, place: node.place.clone() }),
        Err(error) => {
            report.push(wrong_expression(node, text, &error));
            None
        }
    }
}

/// The problem of a text that is no expression.
pub(super) fn wrong_expression(node: &Node, text: &str, error: &ExpressionError) -> Problem {
    let problem = Problem::new(&node.place, error.to_string());
    if *error == ExpressionError::Empty {
        return problem;
    }
    let (found, valid) = error.suggestion(text);
    problem.about(text).suggest(found, valid)
}

fn expression(report: &mut Report, node: &Node, column: &Draft) -> Option<Expression> {
    let Content::Scalar { text, .. } = &node.content else {
        report.error(&node.place, ExpressionError::NotText.to_string());
        return None;
    };
    let expression = match text.as_str() {
        "~" => Err(ExpressionError::Empty),
        text => parse(text),
    };
    match expression {
        Ok(Expression::Literal(literal)) => {
            if let Some(message) =
                column.ty.and_then(|ty| misfit(&column.name, &literal, ty, column.encoding))
            {
                report.push(Problem::new(&node.place, message).about(&literal));
                return None;
            }
            Some(Expression::Literal(literal))
        }
        Ok(other) => Some(other),
        Err(error) => {
            report.push(wrong_expression(node, text, &error));
            None
        }
    }
}

/// Why a literal can never be a value of this column.
///
/// Texts of dates, numbers and the like are left to the conversion of values, which knows them.
fn misfit(
    column: &str,
    literal: &str,
    Type { ty, nullable }: Type,
    encoding: Option<Encoding>,
) -> Option<String> {
    use ColumnType::*;
    let fits = match literal.as_bytes().first() {
        Some(b'n') if nullable => return None,
        Some(b'n') => return Some(format!("the column `{column}` may not be null")),
        Some(b't' | b'f') => matches!(ty, Boolean | Json),
        Some(b'"') => !matches!(ty, Integer | Real | Boolean),
        _ => match ty {
            Integer => literal.parse::<i64>().is_ok(),
            Real => literal.parse::<f64>().is_ok_and(f64::is_finite),
            Decimal | Json => true,
            Date | Time | Timestamp => encoding.is_some() && literal.parse::<i64>().is_ok(),
            Text | Boolean | Blob | Uuid => false,
        },
    };
    if fits { None } else { Some(format!("this constant does not fit the column `{column}` of type {ty}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_fit_their_column_or_are_refused() {
        use ColumnType::*;
        let fits = |literal, ty| misfit("c", literal, Type { ty, nullable: false }, None).is_none();
        for (literal, ty) in [
            ("42", Integer),
            ("-1", Integer),
            ("1.5", Real),
            ("1", Real),
            ("1.10", Decimal),
            ("\"1.10\"", Decimal),
            ("true", Boolean),
            ("\"a\"", Text),
            ("\"a\"", Json),
            ("{", Json),
            ("\"2020-01-01\"", Date),
        ] {
            assert!(fits(literal, ty), "{literal} {ty}");
        }
        for (literal, ty) in [
            ("1.5", Integer),
            ("9223372036854775808", Integer),
            ("\"42\"", Integer),
            ("1e999", Real),
            ("true", Integer),
            ("0", Boolean),
            ("\"true\"", Boolean),
            ("42", Text),
            ("5", Timestamp),
            ("null", Text),
        ] {
            assert!(!fits(literal, ty), "{literal} {ty}");
        }
        assert_eq!(misfit("c", "5", Type { ty: Timestamp, nullable: false }, Some(Encoding::Millis)), None);
        assert_eq!(misfit("c", "null", Type { ty: Text, nullable: true }, None), None);
    }

    #[test]
    fn a_type_of_another_system_is_recognised() {
        assert!(column_type("varchar?").unwrap_err().message.ends_with("called `text` here"));
        assert_eq!(column_type("text ?").map(|ty| ty.nullable), Ok(true));
        assert!(column_type("?").is_err());
    }
}
