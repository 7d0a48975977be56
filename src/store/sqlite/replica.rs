//! The file as a whole: whose it is, what is in it, and the generations in it.
//!
//! A process opens the file once, as a [`SqliteReplica`], and its generations from that: at most
//! the live one and the next. Both have a connection and a thread of their own; the lock file and
//! the order in which they write are shared.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, FileControl, MAIN_DB, OpenFlags, OptionalExtension, params};

use super::error::{at, damaged, foreign};
use super::layout::{self, APPLICATION_ID, FIRST, LAYOUT};
use super::owner::{self, Lock};
use super::{Role, Settings, SqliteStore, adapt, generations, open, room};
use crate::domain::catalog::Catalog;
use crate::store::turns::{Turn, Turns};
use crate::store::{Live, Next, Rebuild, Replica, Store, StoreError, Survey};

/// How long a statement waits for a lock of another program before the batch is retried.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_millis(200);

/// A replica's file, held by this process. See [`SqliteStore`] for its generations.
#[derive(Debug, Clone)]
pub struct SqliteReplica {
    pub(super) home: Arc<Home>,
    pub(super) settings: Settings,
}

/// What the generations of one file share.
#[derive(Debug)]
pub(super) struct Home {
    pub path: PathBuf,
    lock: Mutex<Lock>,
    pub turns: Turns,
}

impl Home {
    pub fn lock(&self) -> MutexGuard<'_, Lock> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn among the writers of this process.
    pub fn turn(&self, role: Role) -> Turn<'_> {
        match role {
            Role::Live => self.turns.first(),
            Role::Next { .. } => self.turns.second(),
        }
    }
}

impl SqliteReplica {
    /// Takes the file at `path`, which need not exist. Refuses (`Stop`) a file of another program,
    /// of another replica or of another layout, without having touched it, and one that another
    /// process writes.
    pub fn open(path: &Path, settings: Settings) -> Result<SqliteReplica, StoreError> {
        let open = || {
            owner::inspect(path)?;
            let lock = Mutex::new(Lock::acquire(path)?);
            let home = Home { path: path.to_owned(), lock, turns: Turns::default() };
            let replica = SqliteReplica { home: Arc::new(home), settings };
            let conn = replica.connect()?;
            if !is_empty(&conn)? {
                replica.identify(&conn)?;
            }
            Ok(replica)
        };
        at(path, open())
    }

    /// Reads only.
    pub fn survey(&self, catalog: &Catalog) -> Result<Survey, StoreError> {
        let survey = || {
            let conn = self.connect()?;
            if is_empty(&conn)? {
                return Ok(Survey { live: Live::Same, next: None });
            }
            let live = live_generation(&conn)?;
            let (fingerprint, complete): (String, bool) = conn.query_row(
                "SELECT fingerprint, complete FROM _readside_meta_generations WHERE generation = ?1",
                [live],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            let tables = differing_tables(&conn, catalog, live)?;
            let same = fingerprint == catalog.fingerprint && tables.is_empty();
            let live = if same { Live::Same } else { Live::Changed { tables, complete, needs_log: true } };
            Ok(Survey { live, next: next_of(&conn, catalog)? })
        };
        self.at(survey())
    }

    /// The mapping under which the live generation was built; `None` while there is none.
    pub fn live_catalog(&self) -> Result<Option<Catalog>, StoreError> {
        let read = || {
            let conn = self.connect()?;
            if is_empty(&conn)? {
                return Ok(None);
            }
            generations::catalog_of(&conn, live_generation(&conn)?).map(Some)
        };
        self.at(read())
    }

    /// Brings a whole copy under this mapping without the log, if that is possible: columns that are
    /// left out or in another order, tables that are left out. In one transaction; false, and
    /// nothing has changed, where the log has to be read.
    pub fn adapt(&self, catalog: &Catalog) -> Result<bool, StoreError> {
        self.at(self.writing().and_then(|conn| adapt::adapt(&conn, catalog)))
    }

    /// Opens the live generation, or makes the first one. The mapping must be the one it was built
    /// under ([`Live::Same`]); otherwise this refuses (`Stop`) without having touched it.
    pub fn open_live(&self, catalog: Arc<Catalog>) -> Result<SqliteStore, StoreError> {
        let open = || {
            if let Live::Changed { tables, .. } = self.survey(&catalog)?.live {
                return Err(another_mapping(&tables));
            }
            let conn = self.connect()?;
            if is_empty(&conn)? {
                generations::create_first(&conn, &catalog, &self.settings)?;
            }
            let live = live_generation(&conn)?;
            open::generation(self, conn, catalog, live, Role::Live)
        };
        self.at(open())
    }

    /// Puts a first copy that nobody has seen yet out of use, to begin another under this mapping.
    pub fn start_over(&self, catalog: Arc<Catalog>) -> Result<SqliteStore, StoreError> {
        let open = || {
            let conn = self.writing()?;
            let live = generations::replace_unfinished(&conn, &catalog)?;
            open::generation(self, conn, catalog, live, Role::Live)
        };
        self.at(open())
    }

    /// Begins to build a generation beside the live one. A half-built one is put out of use.
    /// Refuses (`Refused` inside) when the volume has no room for a second copy.
    pub fn begin(
        &self,
        catalog: Arc<Catalog>,
        rebuild: &Rebuild,
    ) -> Result<Result<SqliteStore, String>, StoreError> {
        let begin = || {
            let conn = self.writing()?;
            if let Err(lack) = room::check(&conn, &self.home.path, self.settings.min_free_bytes)? {
                return Ok(Err(lack));
            }
            let _turn = self.home.turns.second();
            let next = generations::create_next(&conn, &catalog, rebuild)?;
            drop(_turn);
            let role = Role::Next { carries_live: rebuild.live_is_frozen };
            open::generation(self, conn, catalog, next, role).map(Ok)
        };
        self.at(begin())
    }

    /// Whether less of the volume is free than a rebuild has to leave.
    pub fn lacks_room(&self) -> Result<Option<String>, StoreError> {
        let lack = "the volume has less room left than rebuild.min_free";
        self.at(room::free(&self.home.path)
            .map(|free| (free < self.settings.min_free_bytes).then(|| lack.to_owned())))
    }

    /// Goes on with a generation that an earlier process began under this mapping.
    pub fn resume(&self, catalog: Arc<Catalog>) -> Result<SqliteStore, StoreError> {
        let resume = || {
            let conn = self.writing()?;
            let (next, carries_live) = conn.query_row(
                "SELECT generation, carries_live FROM _readside_meta_generations WHERE role = 'next'",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            open::generation(self, conn, catalog, next, Role::Next { carries_live })
        };
        self.at(resume())
    }

    /// Puts a half-built generation out of use; what it holds is dropped later.
    pub fn abandon(&self) -> Result<(), StoreError> {
        let abandon = || {
            let conn = self.writing()?;
            let _turn = self.home.turns.second();
            generations::abandon_next(&conn)
        };
        self.home.turns.let_go();
        self.at(abandon())
    }

    /// What is left of the live generation is served as it is. `stopped` says why, for readers;
    /// `None`: because the next one is being built.
    pub fn freeze(&self, stopped: Option<&str>) -> Result<(), StoreError> {
        let freeze = || {
            let conn = self.writing()?;
            let _turn = self.home.turns.first();
            conn.execute(
                "UPDATE _readside_meta_generations SET stopped = ?1 WHERE role = 'live'",
                params![stopped],
            )?;
            Ok(())
        };
        self.at(freeze())
    }

    /// A connection that has not written anything yet: a file that turns out to be foreign must
    /// not even be tidied up on closing.
    fn connect(&self) -> Result<Connection, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&self.home.path, flags)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        conn.file_control(Some(MAIN_DB), FileControl::PersistWal(&mut 1))?;
        conn.busy_timeout(BUSY_TIMEOUT)?;
        owner::refuse_read_only(&conn)?;
        Ok(conn)
    }

    /// A connection to a file that is known to be ours.
    fn writing(&self) -> Result<Connection, StoreError> {
        let conn = self.connect()?;
        conn.pragma_update(None, "journal_mode", "WAL")?;
        Ok(conn)
    }

    /// Reads only.
    fn identify(&self, conn: &Connection) -> Result<(), StoreError> {
        let pragma = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        if pragma("application_id")? != APPLICATION_ID {
            return Err(foreign(
                "the file is the database of another program; choose another replica.sqlite.path".into(),
            ));
        }
        let layout = pragma("user_version")?;
        if layout != LAYOUT {
            return Err(foreign(format!(
                "the file has layout {layout} and this readside knows layout {LAYOUT}: use the version of \
                 readside that wrote it, or delete the file to build it anew"
            )));
        }
        let name: String =
            conn.query_row("SELECT name FROM _readside_meta_replica WHERE id = 1", [], |row| row.get(0))?;
        if name != self.settings.replica_name {
            return Err(foreign(format!(
                "the file belongs to replica {name:?}, and replica.name is {:?}: correct one of them or choose \
                 another replica.sqlite.path",
                self.settings.replica_name
            )));
        }
        Ok(())
    }

    fn at<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        at(&self.home.path, result)
    }
}

impl Replica for SqliteReplica {
    fn survey(&self, catalog: &Catalog) -> Result<Survey, StoreError> {
        self.survey(catalog)
    }

    fn live_catalog(&self) -> Result<Option<Catalog>, StoreError> {
        self.live_catalog()
    }

    fn adapt(&self, catalog: &Catalog) -> Result<bool, StoreError> {
        self.adapt(catalog)
    }

    fn open_live(&self, catalog: Arc<Catalog>) -> Result<Box<dyn Store>, StoreError> {
        Ok(Box::new(self.open_live(catalog)?))
    }

    fn start_over(&self, catalog: Arc<Catalog>) -> Result<Box<dyn Store>, StoreError> {
        Ok(Box::new(self.start_over(catalog)?))
    }

    fn begin(
        &self,
        catalog: Arc<Catalog>,
        rebuild: &Rebuild,
    ) -> Result<Result<Box<dyn Store>, String>, StoreError> {
        Ok(self.begin(catalog, rebuild)?.map(|store| Box::new(store) as Box<dyn Store>))
    }

    fn resume(&self, catalog: Arc<Catalog>) -> Result<Box<dyn Store>, StoreError> {
        Ok(Box::new(self.resume(catalog)?))
    }

    fn abandon(&self) -> Result<(), StoreError> {
        self.abandon()
    }

    fn freeze(&self, stopped: Option<&str>) -> Result<(), StoreError> {
        self.freeze(stopped)
    }

    fn lacks_room(&self) -> Result<Option<String>, StoreError> {
        self.lacks_room()
    }

    /// The lock of the file is held for life.
    fn keep(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// A file loses nothing while it is open, so it is never opened again.
    fn let_go(&self) {}
}

/// For a replica that is not to be rebuilt.
pub(super) fn another_mapping(tables: &[String]) -> StoreError {
    let which = if tables.is_empty() { String::new() } else { format!(" of {}", tables.join(", ")) };
    foreign(format!(
        "the file was built under another mapping{which}: restore the mapping, or delete the file to build it \
         anew"
    ))
}

fn is_empty(conn: &Connection) -> Result<bool, StoreError> {
    let tables: i64 = conn.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(tables == 0)
}

pub(super) fn live_generation(conn: &Connection) -> Result<i64, StoreError> {
    Ok(conn.query_row("SELECT live FROM _readside_meta_replica", [], |row| row.get(0))?)
}

fn next_of(conn: &Connection, catalog: &Catalog) -> Result<Option<Next>, StoreError> {
    let found = conn
        .query_row(
            "SELECT generation, fingerprint, reason, may_go_back, carries_live FROM _readside_meta_generations \
             WHERE role = 'next'",
            [],
            |row| {
                let reason: Option<String> = row.get(2)?;
                Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, reason, row.get(3)?, row.get(4)?))
            },
        )
        .optional()?;
    let Some((generation, fingerprint, reason, may_go_back, live_is_frozen)) = found else { return Ok(None) };
    let same = fingerprint == catalog.fingerprint && differing_tables(conn, catalog, generation)?.is_empty();
    let number = u32::try_from(generation)
        .map_err(|_| damaged("the number of a generation", "_readside_meta_generations"))?;
    Ok(Some(Next {
        generation: number,
        same,
        reason: reason.unwrap_or_default(),
        may_go_back,
        live_is_frozen,
    }))
}

/// Names of tables that are not there, or not as the catalog has them, and of those that are too many.
fn differing_tables(
    conn: &Connection,
    catalog: &Catalog,
    generation: i64,
) -> Result<Vec<String>, StoreError> {
    debug_assert!(generation >= FIRST);
    let mut stored = conn
        .prepare("SELECT table_name, fingerprint FROM _readside_meta_tables WHERE generation = ?1")?
        .query_map([generation], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?
        .collect::<Result<Vec<_>, _>>()?;
    let mut differing = Vec::new();
    for table in &catalog.tables {
        let known = stored.iter().position(|(name, _)| *name == table.name).map(|at| stored.swap_remove(at));
        let columns = conn
            .prepare_cached("SELECT name, type, \"notnull\", pk > 0 FROM pragma_table_info(?1)")?
            .query_map([layout::main_table(generation, &table.name)], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?
            .collect::<Result<BTreeSet<_>, _>>()?;
        if known.is_none_or(|(_, fingerprint)| fingerprint != table.fingerprint)
            || columns != layout::expected_columns(table)
        {
            differing.push(table.name.clone());
        }
    }
    differing.extend(stored.into_iter().map(|(name, _)| name));
    Ok(differing)
}
