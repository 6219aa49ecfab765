//! The tables, and how a file of an earlier version becomes one of today's.

use rusqlite::{Connection, Transaction};

use super::Failed;
use crate::error::{Error, Result};

/// What the file's header says of whose file it is: "tapr".
const APPLICATION: i32 = 0x7461_7072;

/// The steps from nothing to today's tables; the file's `user_version` is how many of them it has taken.
const MIGRATIONS: [&str; 3] = [
    "
    CREATE TABLE model (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        name TEXT NOT NULL,
        dim INTEGER NOT NULL,
        probe BLOB NOT NULL
    ) STRICT;
    CREATE TABLE sources (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL,
        hash BLOB NOT NULL,
        passages INTEGER NOT NULL,
        done INTEGER NOT NULL,
        added TEXT NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX sources_name ON sources (name, hash);
    CREATE TABLE records (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        source INTEGER NOT NULL REFERENCES sources (id) ON DELETE CASCADE,
        begins INTEGER NOT NULL,
        ends INTEGER NOT NULL,
        text TEXT NOT NULL,
        digest BLOB NOT NULL
    ) STRICT;
    CREATE INDEX records_source ON records (source, begins);
    CREATE TABLE vectors (
        id INTEGER PRIMARY KEY REFERENCES records (id) ON DELETE CASCADE,
        vector BLOB NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE removals (one INTEGER PRIMARY KEY CHECK (one = 1), count INTEGER NOT NULL) STRICT;
    INSERT INTO removals VALUES (1, 0);
",
    "
    CREATE TABLE search (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        recall REAL NOT NULL,
        memory INTEGER,
        sha256 TEXT,
        count INTEGER NOT NULL,
        last INTEGER NOT NULL,
        removals INTEGER NOT NULL
    ) STRICT;
    INSERT INTO search VALUES (1, 0.98, NULL, NULL, 0, 0, 0);
",
    "
    CREATE TABLE cut (one INTEGER PRIMARY KEY CHECK (one = 1), tokens INTEGER NOT NULL) STRICT;
    INSERT INTO cut VALUES (1, 200);
",
];

/// Makes the tables of a new file, or brings those of an old one up to date.
///
/// # Errors
/// When it is another program's file, or of a newer taper.
pub(super) fn migrate(db: &mut Connection, failed: &Failed) -> Result<()> {
    if is_current(db, failed)? {
        return Ok(());
    }
    let change =
        db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(|e| failed.to("open", e))?;
    let version = version(&change, failed)?;
    for step in MIGRATIONS.iter().skip(version) {
        change.execute_batch(step).map_err(|e| failed.to("bring up to date", e))?;
    }
    let done = |change: &Transaction| {
        change.pragma_update(None, "application_id", APPLICATION)?;
        change.pragma_update(None, "user_version", MIGRATIONS.len() as i64)
    };
    done(&change).and_then(|()| change.commit()).map_err(|e| failed.to("bring up to date", e))
}

/// Whether the tables are today's. Asks for no lock, so that a memory that cannot be written can be read.
///
/// # Errors
/// As [`migrate`].
pub(super) fn is_current(db: &Connection, failed: &Failed) -> Result<bool> {
    Ok(version(db, failed)? == MIGRATIONS.len())
}

/// How many migrations a file has taken.
fn version(db: &Connection, failed: &Failed) -> Result<usize> {
    let number = |pragma: &str| db.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let (application, version) = number("application_id")
        .and_then(|application| Ok((application, number("user_version")?)))
        .map_err(|e| failed.to("open", e))?;
    let tables: i64 =
        db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(|e| failed.to("open", e))?;
    if application != i64::from(APPLICATION) && tables > 0 {
        return Err(Error::runtime("a database, but no memory of taper's").in_file(&failed.path));
    }
    match usize::try_from(version) {
        Ok(version) if version <= MIGRATIONS.len() => Ok(version),
        _ => Err(Error::runtime(format!(
            "the memory's form is number {version}, and this taper knows those up to {}",
            MIGRATIONS.len()
        ))
        .in_file(&failed.path)
        .help("a newer taper made it: take that one")),
    }
}
