//! Rows as `COPY … (FORMAT binary)` takes them.
//! (<https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-BINARY-FORMAT>)

use crate::SinkError;
use bytes::{BufMut, BytesMut};
use tokio_postgres::types::Type;
use twotower_artifacts::neighbours_file::NeighbourTable;
use twotower_artifacts::{Id, IdKind};

/// What a copy begins with.
pub const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What it ends with.
pub const TRAILER: &[u8] = b"\xff\xff";

/// Rows that are laid out.
pub struct Rows<'a>(pub &'a mut BytesMut);

impl Rows<'_> {
    /// Adds a user with his list, and with inner products where cosines are scaled to these.
    ///
    /// # Errors
    /// [`SinkError::Data`] for an id with the character NUL, which PostgreSQL's text cannot hold.
    pub fn add(&mut self, lists: &NeighbourTable, user: usize, scale: Option<f32>) -> Result<(), SinkError> {
        let pairs = lists.offsets[user]..lists.offsets[user + 1];
        self.0.put_i16(4);
        self.id(lists.users.get(user))?;
        let of = match lists.items.kind() {
            IdKind::Int => Type::INT8,
            IdKind::Text => Type::TEXT,
        };
        self.array(&of, pairs.len(), |rows| pairs.clone().try_for_each(|pair| rows.id(lists.items.get(pair))))?;
        let scores = &lists.scores[pairs];
        self.floats(scores.iter().copied())?;
        match scale {
            Some(scale) => self.floats(scores.iter().map(|cosine| scale * cosine)),
            None => {
                self.0.put_i32(-1);
                Ok(())
            }
        }
    }

    fn id(&mut self, id: Id<'_>) -> Result<(), SinkError> {
        match id {
            Id::Int(number) => {
                self.0.put_i32(8);
                self.0.put_i64(number);
            }
            Id::Text(text) if text.contains('\0') => {
                return Err(SinkError::Data(format!(
                    "the id {} has the character NUL, which text of PostgreSQL cannot hold; exclude it, or export to Redis",
                    id.quoted()
                )));
            }
            Id::Text(text) => {
                self.0.put_i32(text.len() as i32);
                self.0.put_slice(text.as_bytes());
            }
        }
        Ok(())
    }

    fn floats(&mut self, floats: impl ExactSizeIterator<Item = f32>) -> Result<(), SinkError> {
        self.array(&Type::FLOAT4, floats.len(), |rows| {
            floats.for_each(|float| {
                rows.0.put_i32(4);
                rows.0.put_f32(float);
            });
            Ok(())
        })
    }

    /// An array of one dimension that counts from 1, without NULL; of none where it is empty.
    fn array(
        &mut self,
        of: &Type,
        length: usize,
        elements: impl FnOnce(&mut Self) -> Result<(), SinkError>,
    ) -> Result<(), SinkError> {
        let at = self.0.len();
        self.0.put_i32(0);
        self.0.put_i32(i32::from(length > 0));
        self.0.put_i32(0);
        self.0.put_u32(of.oid());
        if length > 0 {
            self.0.put_i32(length as i32);
            self.0.put_i32(1);
        }
        elements(self)?;
        let bytes = (self.0.len() - at - 4) as i32;
        self.0[at..at + 4].copy_from_slice(&bytes.to_be_bytes());
        Ok(())
    }
}
