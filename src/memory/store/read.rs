//! What a memory holds: records by identity, lists, vectors, hashes.

use std::collections::HashMap;

use rusqlite::OptionalExtension;
use sha2::{Digest, Sha256};

use super::{Store, checksum, digest, is_unit, numbers};
use crate::error::{Error, Result};
use crate::memory::hex;

/// A passage that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub id: i64,
    pub source: String,
    /// Bytes of the source.
    pub begins: usize,
    pub ends: usize,
    pub text: String,
    /// When its source was added, RFC 3339.
    pub added: String,
}

/// A source as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub records: usize,
    /// Passages that are still to be added: it was interrupted.
    pub missing: usize,
    pub added: String,
    /// Its first record.
    pub first: Option<i64>,
}

/// A version of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub id: i64,
    pub name: String,
    /// Of its content.
    pub hash: Vec<u8>,
}

/// A record that is not what was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The vector is not the one that was written; the text is.
    Vector(i64),
    /// The text, its source or its offsets are not.
    Text(i64),
}

impl Problem {
    /// The record.
    pub fn id(self) -> i64 {
        match self {
            Self::Vector(id) | Self::Text(id) => id,
        }
    }
}

const RECORD: &str =
    "SELECT records.id, name, begins, ends, text, added FROM records JOIN sources ON sources.id = source";

impl Store {
    /// How many records there are.
    ///
    /// # Errors
    /// When they cannot be read, or the memory was removed.
    pub fn count(&self) -> Result<usize> {
        self.identity.check(&self.failed)?;
        let count = self.db.query_row("SELECT count(*) FROM records", [], |row| row.get::<_, i64>(0));
        count.map(|n| n as usize).map_err(|e| self.failed.to("read", e))
    }

    /// Changes when another process or this one has removed or replaced something; what was read before is stale then.
    ///
    /// # Errors
    /// As [`Store::count`].
    pub fn removals(&self) -> Result<i64> {
        self.identity.check(&self.failed)?;
        let count = self.db.query_row("SELECT count FROM removals", [], |row| row.get(0));
        count.map_err(|e| self.failed.to("read", e))
    }

    /// The record of that identity.
    pub fn record(&self, id: i64) -> Result<Option<Record>> {
        let found = self.db.prepare(&format!("{RECORD} WHERE records.id = ?"));
        let found = found.and_then(|mut sql| sql.query_row([id], record).optional());
        found.map_err(|e| self.failed.to("read", e))
    }

    /// The sources, in the order of their names. A version that is being replaced counts with the one that replaces it.
    pub fn sources(&self) -> Result<Vec<Listed>> {
        let sql = "SELECT name, sum((SELECT count(*) FROM records WHERE source = sources.id)), sum(passages - done), \
                   max(added), min((SELECT min(id) FROM records WHERE source = sources.id)) \
                   FROM sources GROUP BY name ORDER BY name";
        self.rows(sql, [], |row| {
            Ok(Listed {
                name: row.get(0)?,
                records: row.get::<_, i64>(1)? as usize,
                missing: row.get::<_, i64>(2)? as usize,
                added: row.get(3)?,
                first: row.get(4)?,
            })
        })
    }

    /// All versions of all sources, in the order in which they were begun.
    pub fn versions(&self) -> Result<Vec<Version>> {
        let row = |row: &rusqlite::Row| Ok(Version { id: row.get(0)?, name: row.get(1)?, hash: row.get(2)? });
        self.rows("SELECT id, name, hash FROM sources ORDER BY id", [], row)
    }

    /// The records of one version of a source, in the order of the source.
    pub fn records_of(&self, version: i64) -> Result<Vec<Record>> {
        self.rows(&format!("{RECORD} WHERE source = ? ORDER BY begins, records.id"), [version], record)
    }

    /// The records of a source's versions, by the SHA-256 of their texts.
    pub fn texts_of(&self, name: &str) -> Result<HashMap<Vec<u8>, i64>> {
        let sql = "SELECT text, records.id FROM sources JOIN records ON source = sources.id WHERE name = ?";
        let row = |row: &rusqlite::Row| Ok((Sha256::digest(row.get_ref(0)?.as_str()?).to_vec(), row.get(1)?));
        Ok(self.rows(sql, [name], row)?.into_iter().collect())
    }

    /// Identities of all records, ascending.
    pub fn ids(&self) -> Result<Vec<i64>> {
        // By way of an index, which is small: the table would be read with all its texts.
        let mut ids: Vec<i64> = self.rows("SELECT id FROM records INDEXED BY records_source", [], |row| row.get(0))?;
        ids.sort_unstable();
        Ok(ids)
    }

    /// Hands over the vectors of all records behind `after`, by ascending identity.
    ///
    /// # Errors
    /// When one of them is not what was written.
    pub fn vectors(&self, after: i64, mut take: impl FnMut(i64, &[f32])) -> Result<()> {
        let read = |e| self.failed.to("read", e);
        let mut sql =
            self.db.prepare("SELECT id, vector, checksum FROM vectors WHERE id > ? ORDER BY id").map_err(read)?;
        let mut rows = sql.query([after]).map_err(read)?;
        let mut vector = Vec::new();
        while let Some(row) = rows.next().map_err(read)? {
            let id = self.vector_of(row, &mut vector)?;
            take(id, &vector);
        }
        Ok(())
    }

    /// What reads the vectors of single records.
    pub fn reader(&self) -> Result<Reader<'_>> {
        let statement = self.db.prepare("SELECT id, vector, checksum FROM vectors WHERE id = ?");
        Ok(Reader { store: self, statement: statement.map_err(|e| self.failed.to("read", e))? })
    }

    fn vector_of(&self, row: &rusqlite::Row, vector: &mut Vec<f32>) -> Result<i64> {
        let read = |e: rusqlite::Error| self.failed.to("read", e);
        let id: i64 = row.get(0).map_err(read)?;
        let bytes = row.get_ref(1).and_then(|value| Ok(value.as_blob()?)).map_err(read)?;
        if row.get::<_, u32>(2).map_err(read)? != checksum(bytes) {
            return Err(Error::runtime(format!("the vector of record {id} is damaged"))
                .in_file(self.path())
                .help("taper memory rebuild makes it again from the text"));
        }
        vector.clear();
        vector.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        Ok(id)
    }

    /// A hash of what the memory holds: equal wherever the same records are, in whatever order they were added.
    pub fn content_hash(&self) -> Result<String> {
        let mut digests: Vec<Vec<u8>> = self.rows("SELECT digest FROM records", [], |row| row.get(0))?;
        digests.sort_unstable();
        let mut hash = Sha256::new_with_prefix(b"taper memory 1\n");
        for digest in &digests {
            hash.update(digest);
        }
        Ok(hex(&hash.finalize()))
    }

    /// Compares every record with its digest, and every vector with its checksum; hands over what differs, and how many records
    /// were read.
    pub fn check(&self, mut found: impl FnMut(Problem)) -> Result<usize> {
        let Some(model) = self.model()? else { return Ok(0) };
        let sql = "SELECT records.id, name, begins, ends, text, digest, vector, checksum FROM records \
                   JOIN sources ON sources.id = source LEFT JOIN vectors ON vectors.id = records.id ORDER BY records.id";
        let read = |e| self.failed.to("read", e);
        let mut statement = self.db.prepare(sql).map_err(read)?;
        let mut rows = statement.query([]).map_err(read)?;
        let mut count = 0;
        while let Some(row) = rows.next().map_err(read)? {
            count += 1;
            let id: i64 = row.get(0).map_err(read)?;
            if !is_text_sound(row, &model.name).unwrap_or(false) {
                found(Problem::Text(id));
            } else if !is_vector_sound(row, model.dim).unwrap_or(false) {
                found(Problem::Vector(id));
            }
        }
        Ok(count)
    }

    fn rows<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        row: impl FnMut(&rusqlite::Row) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let rows = self.db.prepare(sql).and_then(|mut sql| sql.query_map(params, row)?.collect());
        rows.map_err(|e| self.failed.to("read", e))
    }
}

/// Reads vectors by the identities of their records.
pub struct Reader<'a> {
    store: &'a Store,
    statement: rusqlite::Statement<'a>,
}

impl Reader<'_> {
    /// The vector of a record; `false` when it is there no more.
    ///
    /// # Errors
    /// When it is not what was written.
    pub fn vector(&mut self, id: i64, vector: &mut Vec<f32>) -> Result<bool> {
        let read = |e| self.store.failed.to("read", e);
        let mut rows = self.statement.query([id]).map_err(read)?;
        let Some(row) = rows.next().map_err(read)? else { return Ok(false) };
        self.store.vector_of(row, vector)?;
        Ok(true)
    }
}

fn record(row: &rusqlite::Row) -> rusqlite::Result<Record> {
    Ok(Record {
        id: row.get(0)?,
        source: row.get(1)?,
        begins: row.get::<_, i64>(2)? as usize,
        ends: row.get::<_, i64>(3)? as usize,
        text: row.get(4)?,
        added: row.get(5)?,
    })
}

fn is_text_sound(row: &rusqlite::Row, model: &str) -> rusqlite::Result<bool> {
    let (source, text): (String, String) = (row.get(1)?, row.get(4)?);
    let (begins, ends): (i64, i64) = (row.get(2)?, row.get(3)?);
    Ok(digest(model, &source, begins as usize, ends as usize, &text) == row.get::<_, Vec<u8>>(5)?)
}

fn is_vector_sound(row: &rusqlite::Row, dim: usize) -> rusqlite::Result<bool> {
    let bytes = row.get_ref(6)?.as_blob()?;
    Ok(row.get::<_, u32>(7)? == checksum(bytes) && is_unit(&numbers(bytes), dim))
}
