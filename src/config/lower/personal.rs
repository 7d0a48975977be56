//! Personal data: what columns do with it, and columns whose names look like it.

use crate::config::fields::Fields;
use crate::config::model::{DeadLetters, Keep, Personal, PersonalData};
use crate::config::problem::{Place, Report};
use crate::config::scalar::file;

pub(super) fn lower(report: &mut Report, fields: &Fields) -> Option<PersonalData> {
    let mut broken = false;
    let hash_key_file = fields.get("hash_key_file").and_then(|_| {
        let given = fields.value(report, "hash_key_file", file);
        broken |= given.is_none();
        given
    });
    (!broken).then(|| PersonalData { hash_key_file: hash_key_file.map(|given| given.value) })
}

/// Where columns say `personal`.
#[derive(Default)]
pub(super) struct Declared {
    /// A column that is hashed.
    pub hashed: Vec<Place>,
    /// Whether any column is not in clear.
    pub protected: bool,
}

impl Declared {
    pub fn add(&mut self, personal: Personal, place: &Place) {
        if personal == Personal::Hash {
            self.hashed.push(place.clone());
        }
        self.protected |= matches!(personal, Personal::Hash | Personal::Mask | Personal::Drop);
    }

    /// What the rest of the configuration has to say for it.
    pub fn check(
        &self,
        report: &mut Report,
        section: &Place,
        data: &PersonalData,
        letters: (&DeadLetters, &Place),
    ) {
        if data.hash_key_file.is_none() {
            for place in &self.hashed {
                report.error(
                    place,
                    "`hash` needs a key: give `personal: { hash_key_file: … }` at the top level",
                );
            }
        } else if self.hashed.is_empty() {
            report.warn(section, "`hash_key_file` has no effect: no column says `personal: hash`");
        }
        let (letters, place) = letters;
        if letters.topic.is_some() && self.protected {
            let message = "`dead_letters.topic` gets records as they came, with the personal data that columns hash, mask or drop";
            report.warn(place, message);
        }
        if letters.keep == Keep::Bytes && self.protected {
            let message = "`dead_letters.keep: bytes` keeps records as they came, with the personal data that columns hash, mask or drop";
            report.warn(place, message);
        }
    }
}

/// Words in names of columns that hold data of a person. `name` alone is more often that of a thing.
const WORDS: [&str; 38] = [
    "address",
    "birth",
    "birthdate",
    "birthday",
    "birthplace",
    "cvc",
    "cvv",
    "dob",
    "email",
    "ethnicity",
    "fax",
    "firstname",
    "forename",
    "fullname",
    "gender",
    "iban",
    "ip",
    "lastname",
    "mail",
    "middlename",
    "mobile",
    "msisdn",
    "nationality",
    "passport",
    "password",
    "pesel",
    "phone",
    "postcode",
    "religion",
    "salary",
    "ssn",
    "street",
    "surname",
    "telephone",
    "token",
    "username",
    "zip",
    "zipcode",
];

/// Pairs of words that do so only together.
const PAIRS: [(&str, &str); 23] = [
    ("card", "number"),
    ("contact", "name"),
    ("credit", "card"),
    ("customer", "name"),
    ("driving", "licence"),
    ("driving", "license"),
    ("employee", "name"),
    ("family", "name"),
    ("first", "name"),
    ("full", "name"),
    ("given", "name"),
    ("holder", "name"),
    ("last", "name"),
    ("maiden", "name"),
    ("middle", "name"),
    ("national", "id"),
    ("owner", "name"),
    ("person", "name"),
    ("postal", "code"),
    ("recipient", "name"),
    ("social", "security"),
    ("tax", "id"),
    ("user", "name"),
];

/// Whether a column's name looks as if it held data of a person.
pub(super) fn looks_personal(name: &str) -> bool {
    let words = words(name);
    words.iter().any(|word| WORDS.contains(&word.as_str()))
        || words.windows(2).any(|pair| PAIRS.contains(&(pair[0].as_str(), pair[1].as_str())))
}

/// `customerEmail_2` is `customer`, `email`, `2`.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut before = None;
    for char in name.chars() {
        let begins = match before {
            None => true,
            Some(before) => {
                let before: char = before;
                char.is_uppercase() && before.is_lowercase() || char.is_numeric() != before.is_numeric()
            }
        };
        if !char.is_alphanumeric() {
            before = None;
            continue;
        }
        if begins {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.extend(char.to_lowercase());
        }
        before = Some(char);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_look_personal() {
        for name in [
            "email",
            "customerEmail",
            "e-mail",
            "EMAIL",
            "contact_email_2",
            "phone",
            "firstName",
            "last_name",
            "ip_address",
            "Birthday",
            "tax id",
            "creditCardNumber",
            "username",
            "customer_name",
        ] {
            assert!(looks_personal(name), "{name}");
        }
        for name in [
            "id",
            "name",
            "product_name",
            "title",
            "emailed",
            "mailing_count",
            "status",
            "zipped",
            "description",
            "ipsum",
            "first",
            "card",
            "tokens_left",
            "addressee_count",
            "gendered",
            "is_birthdays",
        ] {
            assert!(!looks_personal(name), "{name}");
        }
    }
}
