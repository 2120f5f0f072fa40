//! A serialiser that keeps the numbers it is given, and where they stand.

use serde::ser::{
    Impossible, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};
use std::fmt::Display;

/// A number of a configuration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Found {
    /// An integer of any width.
    Whole(i128),
    /// A float of any width.
    Real(f64),
}

impl Found {
    /// The number; a large integer loses its last digits.
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Whole(n) => n as f64,
            Self::Real(x) => x,
        }
    }
}

impl Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(n) => n.fmt(f),
            Self::Real(x) => write!(f, "{x:?}"),
        }
    }
}

/// All numbers of a value with the names around them, from the outermost on; the elements of a list have its name.
///
/// What cannot be serialised ends the walk, and is a number that is in no range.
pub fn numbers(value: &impl Serialize) -> Vec<(Vec<String>, Found)> {
    let mut walk = Walk { path: Vec::new(), found: Vec::new() };
    if value.serialize(&mut walk).is_err() {
        walk.found.push((vec!["a value that cannot be serialised".into()], Found::Real(f64::NAN)));
    }
    walk.found
}

struct Walk {
    path: Vec<String>,
    found: Vec<(Vec<String>, Found)>,
}

impl Walk {
    fn keep(&mut self, number: Found) -> Result<(), Stopped> {
        self.found.push((self.path.clone(), number));
        Ok(())
    }

    fn within(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<(), Stopped> {
        self.path.push(name.to_string());
        let walked = value.serialize(&mut *self);
        self.path.pop();
        walked
    }
}

/// A value said that it cannot be serialised.
#[derive(Debug)]
struct Stopped;

impl Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value cannot be serialised")
    }
}

impl std::error::Error for Stopped {}

impl serde::ser::Error for Stopped {
    fn custom<T: Display>(_: T) -> Self {
        Self
    }
}

/// Numbers of one kind.
macro_rules! keep {
    ($($method:ident: $kind:ty => $found:ident as $wide:ty),* $(,)?) => {
        $(fn $method(self, n: $kind) -> Result<(), Stopped> {
            self.keep(Found::$found(n as $wide))
        })*
    };
}

impl<'a> Serializer for &'a mut Walk {
    type Ok = ();
    type Error = Stopped;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Within<'a>;
    type SerializeMap = Entries<'a>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Within<'a>;

    keep! {
        serialize_i8: i8 => Whole as i128,
        serialize_i16: i16 => Whole as i128,
        serialize_i32: i32 => Whole as i128,
        serialize_i64: i64 => Whole as i128,
        serialize_i128: i128 => Whole as i128,
        serialize_u8: u8 => Whole as i128,
        serialize_u16: u16 => Whole as i128,
        serialize_u32: u32 => Whole as i128,
        serialize_u64: u64 => Whole as i128,
        serialize_f64: f64 => Real as f64,
    }

    fn serialize_f32(self, x: f32) -> Result<(), Stopped> {
        // By way of its shortest text: 0.1 is 0.1 and not 0.10000000149.
        self.keep(Found::Real(x.to_string().parse().unwrap_or(f64::from(x))))
    }

    fn serialize_bool(self, _: bool) -> Result<(), Stopped> {
        Ok(())
    }
    fn serialize_char(self, _: char) -> Result<(), Stopped> {
        Ok(())
    }
    fn serialize_str(self, _: &str) -> Result<(), Stopped> {
        Ok(())
    }
    fn serialize_bytes(self, _: &[u8]) -> Result<(), Stopped> {
        Ok(())
    }
    fn serialize_none(self) -> Result<(), Stopped> {
        Ok(())
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Stopped> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<(), Stopped> {
        Ok(())
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Stopped> {
        Ok(())
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Stopped> {
        Ok(())
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Stopped> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Stopped> {
        self.within(variant, value)
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Stopped> {
        Ok(self)
    }
    fn serialize_tuple(self, _: usize) -> Result<Self, Stopped> {
        Ok(self)
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Stopped> {
        Ok(self)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Within<'a>, Stopped> {
        Ok(Within::new(self, variant))
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Entries<'a>, Stopped> {
        Ok(Entries { walk: self, key: String::new() })
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Stopped> {
        Ok(self)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Within<'a>, Stopped> {
        Ok(Within::new(self, variant))
    }
}

/// Elements, which have the name of their list.
macro_rules! elements {
    ($($kind:ident $method:ident),* $(,)?) => {
        $(impl $kind for &mut Walk {
            type Ok = ();
            type Error = Stopped;
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Stopped> {
                value.serialize(&mut **self)
            }
            fn end(self) -> Result<(), Stopped> {
                Ok(())
            }
        })*
    };
}

elements!(SerializeSeq serialize_element, SerializeTuple serialize_element, SerializeTupleStruct serialize_field);

impl SerializeStruct for &mut Walk {
    type Ok = ();
    type Error = Stopped;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Stopped> {
        self.within(name, value)
    }
    fn end(self) -> Result<(), Stopped> {
        Ok(())
    }
}

/// What stands within the name of a variant.
struct Within<'a>(&'a mut Walk);

impl<'a> Within<'a> {
    fn new(walk: &'a mut Walk, variant: &str) -> Self {
        walk.path.push(variant.to_string());
        Self(walk)
    }
}

impl SerializeTupleVariant for Within<'_> {
    type Ok = ();
    type Error = Stopped;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Stopped> {
        value.serialize(&mut *self.0)
    }
    fn end(self) -> Result<(), Stopped> {
        self.0.path.pop();
        Ok(())
    }
}

impl SerializeStructVariant for Within<'_> {
    type Ok = ();
    type Error = Stopped;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Stopped> {
        self.0.within(name, value)
    }
    fn end(self) -> Result<(), Stopped> {
        self.0.path.pop();
        Ok(())
    }
}

/// The entries of a map.
struct Entries<'a> {
    walk: &'a mut Walk,
    key: String,
}

impl SerializeMap for Entries<'_> {
    type Ok = ();
    type Error = Stopped;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Stopped> {
        self.key = key.serialize(Key)?;
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Stopped> {
        let key = std::mem::take(&mut self.key);
        self.walk.within(&key, value)
    }
    fn end(self) -> Result<(), Stopped> {
        Ok(())
    }
}

/// Keys are text.
struct Key;

/// Keys of another kind than text, which no configuration has.
macro_rules! no_key {
    ($($method:ident($($argument:ty),*)),* $(,)?) => {
        $(fn $method(self, $(_: $argument),*) -> Result<String, Stopped> {
            Err(Stopped)
        })*
    };
}

impl Serializer for Key {
    type Ok = String;
    type Error = Stopped;
    type SerializeSeq = Impossible<String, Stopped>;
    type SerializeTuple = Impossible<String, Stopped>;
    type SerializeTupleStruct = Impossible<String, Stopped>;
    type SerializeTupleVariant = Impossible<String, Stopped>;
    type SerializeMap = Impossible<String, Stopped>;
    type SerializeStruct = Impossible<String, Stopped>;
    type SerializeStructVariant = Impossible<String, Stopped>;

    fn serialize_str(self, key: &str) -> Result<String, Stopped> {
        Ok(key.to_string())
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<String, Stopped> {
        Ok(variant.to_string())
    }

    no_key! {
        serialize_bool(bool), serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64),
        serialize_u8(u8), serialize_u16(u16), serialize_u32(u32), serialize_u64(u64), serialize_f32(f32),
        serialize_f64(f64), serialize_char(char), serialize_bytes(&[u8]), serialize_none(), serialize_unit(),
        serialize_unit_struct(&'static str),
    }

    fn serialize_some<T: Serialize + ?Sized>(self, key: &T) -> Result<String, Stopped> {
        key.serialize(self)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, key: &T) -> Result<String, Stopped> {
        key.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<String, Stopped> {
        Err(Stopped)
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Stopped> {
        Err(Stopped)
    }
    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Stopped> {
        Err(Stopped)
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Stopped> {
        Err(Stopped)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Stopped> {
        Err(Stopped)
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Stopped> {
        Err(Stopped)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Stopped> {
        Err(Stopped)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Stopped> {
        Err(Stopped)
    }
}
