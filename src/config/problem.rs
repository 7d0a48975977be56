//! Problems: what is wrong with a configuration, and where.

use std::fmt;
use std::sync::Arc;

/// Longer offending text is cut: a message is for a person.
const TEXT_MAX: usize = 80;

/// Where a value of the configuration was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The file as a whole.
    File(Arc<str>),
    /// Line and column count characters from 1.
    Position { file: Arc<str>, line: usize, column: usize },
    /// An environment variable, by its name.
    Variable(Arc<str>),
}

impl Place {
    /// The line in the file, if there is one.
    pub fn line(&self) -> Option<usize> {
        match self {
            Place::Position { line, .. } => Some(*line),
            _ => None,
        }
    }

    pub fn column(&self) -> Option<usize> {
        match self {
            Place::Position { column, .. } => Some(*column),
            _ => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(file) => f.write_str(file),
            Place::Position { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Place::Variable(name) => f.write_str(name),
        }
    }
}

/// One problem, or one warning. Displayed on one line:
/// ``readside.yaml:2:3: `brokres`: unknown key in `kafka`; did you mean `brokers`?``
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    pub message: String,
    /// The offending text; never that of a secret.
    pub text: Option<String>,
    /// The nearest valid name.
    pub suggestion: Option<String>,
}

impl Problem {
    pub(super) fn new(place: &Place, message: impl Into<String>) -> Problem {
        Problem { place: place.clone(), message: message.into(), text: None, suggestion: None }
    }

    pub(super) fn about(mut self, text: &str) -> Problem {
        self.text = Some(printable(text));
        self
    }

    /// Names the valid name that is nearest to `wrong`, if one is near.
    pub(super) fn suggest<'a>(mut self, wrong: &str, valid: impl IntoIterator<Item = &'a str>) -> Problem {
        self.suggestion = nearest(wrong, valid).map(str::to_owned);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(text) = &self.text {
            write!(f, "`{text}`: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; did you mean `{suggestion}`?")?;
        }
        Ok(())
    }
}

/// Everything that is wrong, in the order of the file; never empty.
#[derive(Debug, Clone, thiserror::Error)]
pub struct ConfigErrors {
    pub problems: Vec<Problem>,
    /// Warnings found on the way.
    pub warnings: Vec<Problem>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// Collects what is found, so that everything can be said at once.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// More are counted, not listed: a file of another kind would otherwise fill the screen.
const PROBLEMS_MAX: usize = 100;

impl Report {
    pub fn push(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    pub fn error(&mut self, place: &Place, message: impl Into<String>) {
        self.push(Problem::new(place, message));
    }

    pub fn push_warning(&mut self, problem: Problem) {
        self.warnings.push(problem);
    }

    pub fn warn(&mut self, place: &Place, message: impl Into<String>) {
        self.push_warning(Problem::new(place, message));
    }

    /// Gives the warnings, or all errors with them.
    pub fn finish<T>(mut self, value: Option<T>) -> Result<(T, Vec<Problem>), ConfigErrors> {
        self.warnings.sort_by(|a, b| a.place.cmp(&b.place));
        self.problems.sort_by(|a, b| a.place.cmp(&b.place));
        if let (true, Some(value)) = (self.problems.is_empty(), value) {
            return Ok((value, self.warnings));
        }
        let more = self.problems.len().saturating_sub(PROBLEMS_MAX);
        if let (1.., Some(last)) = (more, self.problems.get(PROBLEMS_MAX)) {
            let rest = Problem::new(&last.place, format!("and {more} more problems from here on"));
            self.problems.truncate(PROBLEMS_MAX);
            self.problems.push(rest);
        }
        Err(ConfigErrors { problems: self.problems, warnings: self.warnings })
    }
}

/// Text for a message: one line, of bounded length, without control characters.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == TEXT_MAX {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// The valid name nearest to a wrong one, if it is near enough to be what was meant.
pub(super) fn nearest<'a>(wrong: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if wrong.len() > TEXT_MAX {
        return None;
    }
    let wrong = wrong.to_lowercase();
    let mut best: Option<(f64, &str)> = None;
    for name in valid {
        let lower = name.to_lowercase();
        let likeness = strsim::normalized_damerau_levenshtein(&wrong, &lower);
        if likeness >= 0.6 && best.is_none_or(|(most, _)| likeness > most) {
            best = Some((likeness, name));
        }
    }
    best.map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        assert_eq!(nearest("brokres", ["brokers", "properties"]), Some("brokers"));
        assert_eq!(nearest("Integer", ["integer", "real"]), Some("integer"));
        assert_eq!(nearest("zzz", ["brokers", "properties"]), None);
    }

    #[test]
    fn offending_text_is_cut_and_cannot_break_the_line() {
        assert_eq!(printable("a\nb\u{1b}[2J"), "a\\nb\\u{1b}[2J");
        assert_eq!(printable(&"x".repeat(1000)).chars().count(), TEXT_MAX + 1);
    }

    #[test]
    fn problems_come_in_the_order_of_the_file() {
        let file: Arc<str> = "a.yaml".into();
        let at = |line| Place::Position { file: file.clone(), line, column: 1 };
        let mut report = Report::default();
        report.error(&Place::Variable("READSIDE__X".into()), "third");
        report.error(&at(10), "second");
        report.error(&at(9), "first");
        let errors = report.finish::<()>(None).unwrap_err();
        assert_eq!(errors.to_string(), "a.yaml:9:1: first\na.yaml:10:1: second\nREADSIDE__X: third");
    }
}
