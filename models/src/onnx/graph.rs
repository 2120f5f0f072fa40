//! A small builder of ONNX graphs. It gives every value a unique name and keeps nodes in topological order.

use super::messages::{
    AttributeProto, DimensionProto, GraphProto, NodeProto, StringStringEntryProto, TensorProto, TensorShapeProto,
    TensorTypeProto, TypeProto, ValueInfoProto, code,
};
use prost::bytes::Bytes;
use std::collections::BTreeSet;

/// One extent of an input or output.
#[derive(Debug, Clone, Copy)]
pub enum Extent<'a> {
    /// Known at export.
    Fixed(usize),
    /// Chosen by the caller of the model; it has a name.
    Dynamic(&'a str),
}

/// The place of a tensor's values in the external data file.
#[derive(Debug, Clone)]
pub struct External<'a> {
    /// Name of the file, in the model's folder.
    pub file: &'a str,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

/// A graph under construction.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    graph: GraphProto,
    tensors: BTreeSet<String>,
    /// Whether tensors of parameters are without values.
    is_outline: bool,
    /// What the names of values begin with.
    prefix: String,
}

impl GraphBuilder {
    /// A builder whose tensors of parameters have a name, a type and a shape, but no values.
    pub fn outline() -> Self {
        Self { is_outline: true, ..Self::default() }
    }

    /// A builder of a part of a graph, whose values have names that begin with `prefix`.
    pub fn part(prefix: &str) -> Self {
        Self { prefix: prefix.to_string(), ..Self::default() }
    }

    /// The part of a graph that was built, without outputs.
    pub fn into_part(self) -> GraphProto {
        self.graph
    }

    /// Declares an input. The name of a field's input must not begin with `/`, as the names of other values do.
    pub fn input(&mut self, name: &str, element: i32, extents: &[Extent], description: &str) {
        self.graph.input.push(value_info(name, element, extents, description));
    }

    /// Adds a float tensor of parameters, unless there is one of this name. Returns the name.
    pub fn floats(&mut self, name: String, dims: &[usize], values: impl Iterator<Item = f32>) -> String {
        let raw_data = (!self.is_outline).then(|| values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>().into());
        self.tensor(name, dims, code::FLOAT, TensorProto { raw_data, ..Default::default() })
    }

    /// Adds a float tensor whose values are in another file, unless there is one of this name. Returns the name.
    pub fn external_floats(&mut self, name: String, dims: &[usize], external: &External) -> String {
        let external_data = vec![
            StringStringEntryProto::new("location", external.file),
            StringStringEntryProto::new("offset", external.offset.to_string()),
            StringStringEntryProto::new("length", external.length.to_string()),
        ];
        let tensor = TensorProto { external_data, data_location: Some(code::EXTERNAL), ..Default::default() };
        self.tensor(name, dims, code::FLOAT, tensor)
    }

    /// Adds an integer constant, unless there is one of this value: int64 `[1]`, or int32 `[]` for comparisons. Returns
    /// its name.
    pub fn integer(&mut self, value: i64, element: i32) -> String {
        let (kind, dims, raw) = match element {
            code::INT32 => ("int32", &[][..], Bytes::copy_from_slice(&(value as i32).to_le_bytes())),
            _ => ("int64", &[1][..], Bytes::copy_from_slice(&value.to_le_bytes())),
        };
        let name = format!("{}/constant/{kind}/{value}", self.prefix);
        self.tensor(name, dims, element, TensorProto { raw_data: Some(raw), ..Default::default() })
    }

    /// Adds a float constant `[1]`, unless there is one of this value. Returns its name.
    pub fn float(&mut self, value: f32) -> String {
        let raw_data = Some(Bytes::copy_from_slice(&value.to_le_bytes()));
        let name = format!("{}/constant/float/{value:e}", self.prefix);
        self.tensor(name, &[1], code::FLOAT, TensorProto { raw_data, ..Default::default() })
    }

    /// Adds a float tensor of constants, unless there is one of this name. Returns the name.
    pub fn constants(&mut self, name: String, dims: &[usize], values: impl Iterator<Item = f32>) -> String {
        let raw_data = Some(values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>().into());
        self.tensor(name, dims, code::FLOAT, TensorProto { raw_data, ..Default::default() })
    }

    /// Adds a constant of any type, given its bytes. Returns its name.
    pub fn constant(&mut self, element: i32, dims: &[usize], raw: Vec<u8>) -> String {
        let name = format!("{}/constant/{}", self.prefix, self.tensors.len());
        self.tensor(name, dims, element, TensorProto { raw_data: Some(raw.into()), ..Default::default() })
    }

    /// Adds an operator and returns the name of its result.
    pub fn node(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        self.node_of(None, op, inputs, attributes)
    }

    /// Adds an operator of another domain than ONNX's own and returns the name of its first result.
    pub fn node_of(
        &mut self,
        domain: Option<&str>,
        op: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let output = format!("{}/{op}/{}", self.prefix, self.graph.node.len());
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![output.clone()],
            name: Some(output.clone()),
            op_type: Some(op.to_string()),
            attribute: attributes,
            domain: domain.map(str::to_string),
        });
        output
    }

    /// Gives the last operator one more result, and returns its name.
    pub fn second_result(&mut self) -> String {
        let Some(node) = self.graph.node.last_mut() else { return String::new() };
        let name = format!("{}/second", node.name.clone().unwrap_or_default());
        node.output.push(name.clone());
        name
    }

    /// Gives `value` a name of its own, declares it as the output, and ends the graph.
    pub fn finish(mut self, name: &str, value: &str, output: &str, extents: &[Extent]) -> GraphProto {
        let rename = |names: &mut Vec<String>| {
            for name in names.iter_mut().filter(|n| *n == value) {
                *name = output.to_string();
            }
        };
        for node in &mut self.graph.node {
            rename(&mut node.input);
            rename(&mut node.output);
        }
        self.graph.output.push(value_info(output, code::FLOAT, extents, "one unit vector per row"));
        self.graph.name = Some(name.to_string());
        self.graph
    }

    fn tensor(&mut self, name: String, dims: &[usize], element: i32, values: TensorProto) -> String {
        if self.tensors.insert(name.clone()) {
            self.graph.initializer.push(TensorProto {
                dims: dims.iter().map(|d| *d as i64).collect(),
                data_type: Some(element),
                name: Some(name.clone()),
                ..values
            });
        }
        name
    }
}

/// An integer attribute.
pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_string()),
        i: Some(value),
        r#type: Some(code::ATTRIBUTE_INT),
        ..Default::default()
    }
}

/// A text attribute.
pub fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_string()),
        s: Some(value.to_string()),
        r#type: Some(code::ATTRIBUTE_STRING),
        ..Default::default()
    }
}

/// An integer list attribute.
pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_string()),
        ints: values.to_vec(),
        r#type: Some(code::ATTRIBUTE_INTS),
        ..Default::default()
    }
}

/// An attribute of texts.
pub fn texts(name: &str, values: Vec<String>) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_string()),
        strings: values,
        r#type: Some(code::ATTRIBUTE_STRINGS),
        ..Default::default()
    }
}

/// An attribute that is a tensor of one dimension, given the bytes of its values.
pub fn tensor(name: &str, element: i32, length: usize, raw: Vec<u8>) -> AttributeProto {
    let t = TensorProto {
        dims: vec![length as i64],
        data_type: Some(element),
        name: Some(name.to_string()),
        raw_data: Some(raw.into()),
        ..Default::default()
    };
    AttributeProto {
        name: Some(name.to_string()),
        t: Some(t),
        r#type: Some(code::ATTRIBUTE_TENSOR),
        ..Default::default()
    }
}

fn value_info(name: &str, element: i32, extents: &[Extent], description: &str) -> ValueInfoProto {
    let dim = extents
        .iter()
        .map(|extent| match extent {
            Extent::Fixed(n) => DimensionProto { dim_value: Some(*n as i64), dim_param: None },
            Extent::Dynamic(name) => DimensionProto { dim_value: None, dim_param: Some(name.to_string()) },
        })
        .collect();
    let tensor_type = TensorTypeProto { elem_type: Some(element), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: Some(name.to_string()),
        r#type: Some(TypeProto { tensor_type: Some(tensor_type) }),
        doc_string: Some(description.to_string()),
    }
}
