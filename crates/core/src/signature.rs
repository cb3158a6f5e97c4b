//! A signature: the named inputs and outputs that a request is matched against. Resolved once, when a version loads.

use crate::dtype::DataType;
use crate::status::Status;
use crate::tensor::Tensor;

/// The signature of a request that names none.
pub const DEFAULT_SIGNATURE: &str = "serving_default";

/// Where a session feeds or fetches a tensor: an index into the session's own table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint(pub u32);

/// One input or output of a signature.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The name that requests use.
    pub name: String,
    /// The tensor's name in the graph, such as `serving_default_x:0`; empty where the encoding has none (sparse).
    pub tensor_name: String,
    /// `None` where the model names a type that this server does not know.
    pub dtype: Option<DataType>,
    /// Where to find it, or what to answer: a signature may name tensors that the graph lacks.
    pub endpoint: Result<Endpoint, Status>,
    /// What an input is worth when a request leaves it out.
    pub default: Option<Tensor>,
}

/// A named set of inputs and outputs. Both lists are sorted by name.
#[derive(Clone, Debug)]
pub struct Signature {
    pub name: String,
    pub method_name: String,
    pub inputs: Vec<Slot>,
    pub outputs: Vec<Slot>,
    /// Its place among the signatures of its servable, which sets it.
    pub(crate) index: usize,
}

impl Signature {
    /// Sorts the slots, which lookups rely on.
    pub fn new(name: String, method_name: String, mut inputs: Vec<Slot>, mut outputs: Vec<Slot>) -> Self {
        inputs.sort_by(|a, b| a.name.cmp(&b.name));
        outputs.sort_by(|a, b| a.name.cmp(&b.name));
        Self { name, method_name, inputs, outputs, index: 0 }
    }

    /// Its place among those of its servable.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Position of the input with this name.
    pub fn input(&self, name: &str) -> Option<usize> {
        position(&self.inputs, name)
    }

    /// Position of the output with this name.
    pub fn output(&self, name: &str) -> Option<usize> {
        position(&self.outputs, name)
    }

    pub fn has_defaults(&self) -> bool {
        self.inputs.iter().any(|input| input.default.is_some())
    }
}

fn position(slots: &[Slot], name: &str) -> Option<usize> {
    if let [only] = slots {
        return (only.name == name).then_some(0);
    }
    slots.binary_search_by(|slot| slot.name.as_str().cmp(name)).ok()
}
