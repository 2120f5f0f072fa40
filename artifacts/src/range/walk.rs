//! A serialiser that collects all numbers of a value, each with its path.

use serde::ser::{
    Impossible, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};
use std::fmt::Display;

/// A number of a configuration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// An integer of any width.
    Whole(i128),
    /// A float of any width.
    Real(f64),
}

impl Number {
    /// The number as a float. A large integer loses its last digits.
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Whole(n) => n as f64,
            Self::Real(x) => x,
        }
    }
}

impl Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(n) => n.fmt(f),
            Self::Real(x) => write!(f, "{x:?}"),
        }
    }
}

/// All numbers of a value, each with its path: the names around it, the outermost first. Elements of a list have the
/// path of the list.
///
/// A value that cannot be serialised ends the walk with NaN, which no range contains.
pub fn numbers(value: &impl Serialize) -> Vec<(Vec<String>, Number)> {
    let mut walk = Walk { path: Vec::new(), found: Vec::new() };
    if value.serialize(&mut walk).is_err() {
        walk.found.push((vec!["a value that cannot be serialised".into()], Number::Real(f64::NAN)));
    }
    walk.found
}

struct Walk {
    path: Vec<String>,
    found: Vec<(Vec<String>, Number)>,
}

impl Walk {
    fn keep(&mut self, number: Number) -> Result<(), Unserialisable> {
        self.found.push((self.path.clone(), number));
        Ok(())
    }

    fn within(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<(), Unserialisable> {
        self.path.push(name.to_string());
        let walked = value.serialize(&mut *self);
        self.path.pop();
        walked
    }
}

/// The error of a value that cannot be serialised.
#[derive(Debug)]
struct Unserialisable;

impl Display for Unserialisable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value cannot be serialised")
    }
}

impl std::error::Error for Unserialisable {}

impl serde::ser::Error for Unserialisable {
    fn custom<T: Display>(_: T) -> Self {
        Self
    }
}

/// Methods that keep numbers.
macro_rules! keep {
    ($($method:ident: $kind:ty => $found:ident as $wide:ty),* $(,)?) => {
        $(fn $method(self, n: $kind) -> Result<(), Unserialisable> {
            self.keep(Number::$found(n as $wide))
        })*
    };
}

impl<'a> Serializer for &'a mut Walk {
    type Ok = ();
    type Error = Unserialisable;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = VariantFields<'a>;
    type SerializeMap = Entries<'a>;
    type SerializeStruct = Self;
    type SerializeStructVariant = VariantFields<'a>;

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

    fn serialize_f32(self, x: f32) -> Result<(), Unserialisable> {
        // The shortest text of the number is parsed again, so that 0.1 stays 0.1 and does not become 0.10000000149.
        self.keep(Number::Real(x.to_string().parse().unwrap_or(f64::from(x))))
    }

    fn serialize_bool(self, _: bool) -> Result<(), Unserialisable> {
        Ok(())
    }
    fn serialize_char(self, _: char) -> Result<(), Unserialisable> {
        Ok(())
    }
    fn serialize_str(self, _: &str) -> Result<(), Unserialisable> {
        Ok(())
    }
    fn serialize_bytes(self, _: &[u8]) -> Result<(), Unserialisable> {
        Ok(())
    }
    fn serialize_none(self) -> Result<(), Unserialisable> {
        Ok(())
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Unserialisable> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<(), Unserialisable> {
        Ok(())
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Unserialisable> {
        Ok(())
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Unserialisable> {
        Ok(())
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Unserialisable> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Unserialisable> {
        self.within(variant, value)
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Unserialisable> {
        Ok(self)
    }
    fn serialize_tuple(self, _: usize) -> Result<Self, Unserialisable> {
        Ok(self)
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Unserialisable> {
        Ok(self)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<VariantFields<'a>, Unserialisable> {
        Ok(VariantFields::new(self, variant))
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Entries<'a>, Unserialisable> {
        Ok(Entries { walk: self, key: String::new() })
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Unserialisable> {
        Ok(self)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<VariantFields<'a>, Unserialisable> {
        Ok(VariantFields::new(self, variant))
    }
}

/// Elements of a list, whose path is that of the list.
macro_rules! elements {
    ($($kind:ident $method:ident),* $(,)?) => {
        $(impl $kind for &mut Walk {
            type Ok = ();
            type Error = Unserialisable;
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unserialisable> {
                value.serialize(&mut **self)
            }
            fn end(self) -> Result<(), Unserialisable> {
                Ok(())
            }
        })*
    };
}

elements!(SerializeSeq serialize_element, SerializeTuple serialize_element, SerializeTupleStruct serialize_field);

impl SerializeStruct for &mut Walk {
    type Ok = ();
    type Error = Unserialisable;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Unserialisable> {
        self.within(name, value)
    }
    fn end(self) -> Result<(), Unserialisable> {
        Ok(())
    }
}

/// Serialises the fields of an enum's variant; the variant's name is part of their paths.
struct VariantFields<'a>(&'a mut Walk);

impl<'a> VariantFields<'a> {
    fn new(walk: &'a mut Walk, variant: &str) -> Self {
        walk.path.push(variant.to_string());
        Self(walk)
    }
}

impl SerializeTupleVariant for VariantFields<'_> {
    type Ok = ();
    type Error = Unserialisable;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unserialisable> {
        value.serialize(&mut *self.0)
    }
    fn end(self) -> Result<(), Unserialisable> {
        self.0.path.pop();
        Ok(())
    }
}

impl SerializeStructVariant for VariantFields<'_> {
    type Ok = ();
    type Error = Unserialisable;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Unserialisable> {
        self.0.within(name, value)
    }
    fn end(self) -> Result<(), Unserialisable> {
        self.0.path.pop();
        Ok(())
    }
}

/// Serialises the entries of a map.
struct Entries<'a> {
    walk: &'a mut Walk,
    key: String,
}

impl SerializeMap for Entries<'_> {
    type Ok = ();
    type Error = Unserialisable;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unserialisable> {
        self.key = key.serialize(Key)?;
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unserialisable> {
        let key = std::mem::take(&mut self.key);
        self.walk.within(&key, value)
    }
    fn end(self) -> Result<(), Unserialisable> {
        Ok(())
    }
}

/// Serialises the key of a map, which has to be text.
struct Key;

/// Methods that refuse keys of another kind than text, which no configuration has.
macro_rules! no_key {
    ($($method:ident($($argument:ty),*)),* $(,)?) => {
        $(fn $method(self, $(_: $argument),*) -> Result<String, Unserialisable> {
            Err(Unserialisable)
        })*
    };
}

impl Serializer for Key {
    type Ok = String;
    type Error = Unserialisable;
    type SerializeSeq = Impossible<String, Unserialisable>;
    type SerializeTuple = Impossible<String, Unserialisable>;
    type SerializeTupleStruct = Impossible<String, Unserialisable>;
    type SerializeTupleVariant = Impossible<String, Unserialisable>;
    type SerializeMap = Impossible<String, Unserialisable>;
    type SerializeStruct = Impossible<String, Unserialisable>;
    type SerializeStructVariant = Impossible<String, Unserialisable>;

    fn serialize_str(self, key: &str) -> Result<String, Unserialisable> {
        Ok(key.to_string())
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<String, Unserialisable> {
        Ok(variant.to_string())
    }

    no_key! {
        serialize_bool(bool), serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64),
        serialize_u8(u8), serialize_u16(u16), serialize_u32(u32), serialize_u64(u64), serialize_f32(f32),
        serialize_f64(f64), serialize_char(char), serialize_bytes(&[u8]), serialize_none(), serialize_unit(),
        serialize_unit_struct(&'static str),
    }

    fn serialize_some<T: Serialize + ?Sized>(self, key: &T) -> Result<String, Unserialisable> {
        key.serialize(self)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        key: &T,
    ) -> Result<String, Unserialisable> {
        key.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<String, Unserialisable> {
        Err(Unserialisable)
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Unserialisable> {
        Err(Unserialisable)
    }
    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Unserialisable> {
        Err(Unserialisable)
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Unserialisable> {
        Err(Unserialisable)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Unserialisable> {
        Err(Unserialisable)
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Unserialisable> {
        Err(Unserialisable)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Unserialisable> {
        Err(Unserialisable)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Unserialisable> {
        Err(Unserialisable)
    }
}
