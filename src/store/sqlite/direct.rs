//! Whole rows that were put aside, bound as they lie there, and several with one run of a statement.
//!
//! While a first copy is built this is most of the store's work. Running a statement costs about as much
//! as the row that it writes, and a text that is bound in the usual way is copied first. Both are saved
//! here; everything else of a statement is as ever.

use std::ffi::c_int;
use std::marker::PhantomData;

use rusqlite::{Connection, ffi};

use crate::domain::packed::{PackedRow, PackedValue};
use crate::store::StoreError;

/// Rows that are written together. With the most columns that a table may have (2,000) they stay below
/// the 32,766 parameters of a statement: <https://www.sqlite.org/limits.html>.
pub(super) const TOGETHER: usize = 16;

/// A prepared statement whose parameters are the columns and the version of one row, or of several.
pub(super) struct Direct<'c> {
    statement: *mut ffi::sqlite3_stmt,
    parameters: c_int,
    /// Outlives the statement.
    conn: PhantomData<&'c Connection>,
}

impl<'c> Direct<'c> {
    pub fn prepare(conn: &'c Connection, sql: &str) -> Result<Direct<'c>, StoreError> {
        let mut statement = std::ptr::null_mut();
        let length = c_int::try_from(sql.len()).map_err(|_| rusqlite::Error::InvalidQuery)?;
        // SAFETY: the connection is open as long as it is borrowed, and used by this thread only; the text
        // has so many bytes; the statement is finalized when it is dropped.
        unsafe {
            let db = conn.handle();
            let text = sql.as_ptr().cast();
            let code = ffi::sqlite3_prepare_v2(db, text, length, &mut statement, std::ptr::null_mut());
            if code != ffi::SQLITE_OK || statement.is_null() {
                return Err(failure(db, code));
            }
            let parameters = ffi::sqlite3_bind_parameter_count(statement);
            Ok(Direct { statement, parameters, conn: PhantomData })
        }
    }

    /// Runs it with these rows. Returns how many rows of the table it changed.
    pub fn run(&mut self, rows: &[PackedRow<'_>]) -> Result<usize, StoreError> {
        // SAFETY: what is bound is borrowed until the statement was reset; afterwards every parameter is
        // bound again before it runs again, or it does not run.
        unsafe {
            let db = ffi::sqlite3_db_handle(self.statement);
            let mut place = 0;
            for row in rows {
                for value in row.values() {
                    place += 1;
                    check(db, bind(self.statement, place, value))?;
                }
                place += 1;
                check(db, bind(self.statement, place, PackedValue::Blob(row.version_bytes())))?;
            }
            if place != self.parameters {
                return Err(
                    rusqlite::Error::InvalidParameterCount(place as usize, self.parameters as usize).into()
                );
            }
            let code = ffi::sqlite3_step(self.statement);
            let result = match code {
                ffi::SQLITE_DONE => Ok(usize::try_from(ffi::sqlite3_changes64(db)).unwrap_or(0)),
                code => Err(failure(db, code)),
            };
            ffi::sqlite3_reset(self.statement);
            result
        }
    }
}

impl Drop for Direct<'_> {
    fn drop(&mut self) {
        // SAFETY: prepared, and finalized once.
        unsafe {
            ffi::sqlite3_finalize(self.statement);
        }
    }
}

/// # Safety
///
/// The value has to stay where it is until the statement was reset.
unsafe fn bind(statement: *mut ffi::sqlite3_stmt, place: c_int, value: PackedValue<'_>) -> c_int {
    unsafe {
        match value {
            PackedValue::Null => ffi::sqlite3_bind_null(statement, place),
            PackedValue::Integer(number) => ffi::sqlite3_bind_int64(statement, place, number),
            PackedValue::Real(number) => ffi::sqlite3_bind_double(statement, place, number),
            PackedValue::Text(text) => {
                let (bytes, length) = (text.as_ptr().cast(), text.len() as u64);
                let encoding = ffi::SQLITE_UTF8 as u8;
                ffi::sqlite3_bind_text64(statement, place, bytes, length, ffi::SQLITE_STATIC(), encoding)
            }
            // A pointer of an empty slice is no null, which would be bound as NULL.
            PackedValue::Blob(bytes) => {
                let length = bytes.len() as u64;
                ffi::sqlite3_bind_blob64(
                    statement,
                    place,
                    bytes.as_ptr().cast(),
                    length,
                    ffi::SQLITE_STATIC(),
                )
            }
        }
    }
}

fn check(db: *mut ffi::sqlite3, code: c_int) -> Result<(), StoreError> {
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(failure(db, code)) }
}

fn failure(db: *mut ffi::sqlite3, code: c_int) -> StoreError {
    // SAFETY: of an open connection that nobody else uses; the text is copied at once.
    let (code, message) = unsafe {
        let extended = ffi::sqlite3_extended_errcode(db);
        let message = std::ffi::CStr::from_ptr(ffi::sqlite3_errmsg(db)).to_string_lossy().into_owned();
        (if extended & 0xFF == code & 0xFF { extended } else { code }, message)
    };
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(message)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::packed::pack;
    use crate::domain::value::Value;
    use crate::domain::version::{Coordinates, Version, VersionKind};

    fn packed(values: &[Value]) -> Vec<u8> {
        let at = Coordinates { topic: 0, partition: 0, offset: 1 };
        let version = Version::new(VersionKind::Integer, &[1], at).unwrap();
        let mut bytes = Vec::new();
        pack(values, &version, &mut bytes);
        bytes
    }

    #[test]
    fn every_class_of_value_arrives_as_it_was_and_also_when_it_is_empty() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE t (a, b, c, d, e, f, v)").unwrap();
        let mut direct = Direct::prepare(
            &conn,
            "INSERT INTO t VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7), (?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        )
        .unwrap();
        let full = [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Real(-0.5),
            Value::Text("Größe\0x".into()),
            Value::Blob(vec![0, 255]),
            Value::Integer(7),
        ];
        let empty = [
            Value::Null,
            Value::Integer(0),
            Value::Real(0.0),
            Value::Text(String::new()),
            Value::Blob(Vec::new()),
            Value::Null,
        ];
        let (one, other) = (packed(&full), packed(&empty));
        let rows = [PackedRow::read(&one).unwrap(), PackedRow::read(&other).unwrap()];
        assert_eq!(direct.run(&rows).unwrap(), 2);
        assert_eq!(direct.run(&rows).unwrap(), 2, "again, with what is bound anew");
        let mut statement = conn.prepare("SELECT * FROM t LIMIT 2").unwrap();
        let mut found = statement.query([]).unwrap();
        for row in rows {
            let read = found.next().unwrap().unwrap();
            for (column, value) in row.values().enumerate() {
                use rusqlite::types::ValueRef;
                let expected = match value {
                    PackedValue::Null => ValueRef::Null,
                    PackedValue::Integer(number) => ValueRef::Integer(number),
                    PackedValue::Real(number) => ValueRef::Real(number),
                    PackedValue::Text(text) => ValueRef::Text(text),
                    PackedValue::Blob(bytes) => ValueRef::Blob(bytes),
                };
                assert_eq!(read.get_ref(column).unwrap(), expected);
            }
            assert_eq!(read.get_ref(6).unwrap().as_blob().unwrap(), row.version_bytes());
        }
    }

    #[test]
    fn rows_that_do_not_fit_and_statements_that_fail_are_errors_of_the_store() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, v)").unwrap();
        assert!(Direct::prepare(&conn, "INSERT INTO nowhere VALUES (?1)").is_err());
        let mut direct = Direct::prepare(&conn, "INSERT INTO t VALUES (?1, ?2)").unwrap();
        let (one, wide) = (packed(&[Value::Integer(1)]), packed(&[Value::Integer(1), Value::Null]));
        let (one, wide) = (PackedRow::read(&one).unwrap(), PackedRow::read(&wide).unwrap());
        assert!(direct.run(&[wide]).is_err());
        assert!(direct.run(&[]).is_err());
        assert_eq!(direct.run(&[one]).unwrap(), 1);
        let error = direct.run(&[one]).unwrap_err().to_string();
        assert!(error.contains("UNIQUE"), "{error}");
    }
}
