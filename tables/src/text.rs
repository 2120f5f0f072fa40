//! Columns of bytes made columns of text: the one place that says what is no text.

use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{Array, ArrayRef, DictionaryArray, FixedSizeListArray, ListArray, StringArray};
use arrow_schema::{ArrowError, DataType, Field};
use std::sync::Arc;

/// Bytes of a bad value that a message shows.
const SHOWN: usize = 16;

/// Makes text of columns, whose dictionaries are checked once each.
#[derive(Debug, Default)]
pub struct TextMaker {
    /// Entries of a dictionary as bytes, and as text.
    known: Option<(ArrayRef, ArrayRef)>,
}

impl TextMaker {
    /// The column with text in place of bytes, as `Utf8` or dictionaries or lists of it; other columns as they are.
    ///
    /// # Errors
    /// Bytes that are not UTF-8, in a row or in the dictionary.
    pub fn text(&mut self, column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        let element =
            |field: &Field, values: &ArrayRef| Arc::new(field.clone().with_data_type(values.data_type().clone()));
        Ok(match column.data_type() {
            DataType::Binary => Arc::new(StringArray::try_from_binary(column.as_binary::<i32>().clone())?),
            DataType::Dictionary(_, values) if **values == DataType::Binary => {
                let dictionary = column.as_dictionary::<Int32Type>();
                let bytes = dictionary.values();
                let text = match &self.known {
                    Some((known, text)) if known.to_data().ptr_eq(&bytes.to_data()) => text.clone(),
                    _ => {
                        let text = self.text(bytes)?;
                        self.known = Some((bytes.clone(), text.clone()));
                        text
                    }
                };
                Arc::new(DictionaryArray::<Int32Type>::try_new(dictionary.keys().clone(), text)?)
            }
            DataType::List(field) => {
                let list = column.as_list::<i32>();
                let values = self.text(list.values())?;
                let field = element(field, &values);
                Arc::new(ListArray::try_new(field, list.offsets().clone(), values, list.nulls().cloned())?)
            }
            DataType::FixedSizeList(field, width) => {
                let list = column.as_fixed_size_list();
                let values = self.text(list.values())?;
                let field = element(field, &values);
                Arc::new(FixedSizeListArray::try_new(field, *width, values, list.nulls().cloned())?)
            }
            _ => column.clone(),
        })
    }
}

/// The first row of a column of bytes that is no text, and the first of its bytes.
pub fn first_bad(column: &ArrayRef) -> Option<(usize, String)> {
    (0..column.len()).find_map(|row| Some((row, bad_bytes(column, row)?)))
}

/// The first bytes of a row that is no text.
fn bad_bytes(column: &ArrayRef, row: usize) -> Option<String> {
    if column.is_null(row) {
        return None;
    }
    match column.data_type() {
        DataType::Binary => {
            let bytes = column.as_binary::<i32>().value(row);
            std::str::from_utf8(bytes).is_err().then(|| shown(bytes))
        }
        DataType::Dictionary(..) => {
            let dictionary = column.as_dictionary::<Int32Type>();
            bad_bytes(dictionary.values(), dictionary.key(row)?)
        }
        DataType::List(_) => first_bad(&column.as_list::<i32>().value(row)).map(|(_, bytes)| bytes),
        DataType::FixedSizeList(..) => first_bad(&column.as_fixed_size_list().value(row)).map(|(_, bytes)| bytes),
        _ => None,
    }
}

fn shown(bytes: &[u8]) -> String {
    let hex: Vec<String> = bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
    let more = if bytes.len() > SHOWN { " …" } else { "" };
    format!("{}{more}", hex.join(" "))
}
