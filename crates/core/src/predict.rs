//! Matching a request against a signature: names in, endpoints and tensors out.

use std::collections::BTreeSet;

use crate::signature::{Endpoint, Signature, Slot};
use crate::status::Status;
use crate::tensor::Tensor;

/// Method names that Predict takes where method names are checked.
const PREDICT_METHODS: [&str; 3] =
    ["tensorflow/serving/predict", "tensorflow/serving/classify", "tensorflow/serving/regress"];

/// A request that fits its signature, ready to run.
#[derive(Debug)]
pub struct Call {
    /// Where in its servable the signature is.
    pub(crate) signature: usize,
    pub feeds: Vec<(Endpoint, Tensor)>,
    pub fetches: Vec<Endpoint>,
    /// Which outputs of the signature the fetches are, in the same order.
    pub outputs: Vec<usize>,
    pub input_bytes: usize,
    /// Bytes of memory that its tensors take.
    pub memory_bytes: usize,
}

/// Tensors and operations of a graph, by their names in it: `dense/BiasAdd:0` and `init`.
#[derive(Debug, Default)]
pub struct NamedRun {
    pub feeds: Vec<(String, Tensor)>,
    /// One tensor comes back for each, in order.
    pub fetches: Vec<String>,
    /// Operations to run for what they do.
    pub targets: Vec<String>,
}

impl NamedRun {
    /// Takes the names of feeds and fetches for those of a signature's inputs and outputs, and puts in those of the graph.
    pub fn resolve_aliases(&mut self, signature: &Signature) -> Result<(), Status> {
        for (name, _) in &mut self.feeds {
            resolve_alias(name, &signature.inputs, "input", signature)?;
        }
        for name in &mut self.fetches {
            resolve_alias(name, &signature.outputs, "output", signature)?;
        }
        Ok(())
    }
}

fn resolve_alias(name: &mut String, slots: &[Slot], what: &str, signature: &Signature) -> Result<(), Status> {
    let Some(slot) = slots.iter().find(|slot| slot.name == *name) else {
        return Err(Status::invalid_argument(format!(
            "{name} is no {what} of signature {}; these are: {}",
            signature.name,
            sorted(slot_names(slots))
        )));
    };
    name.clone_from(&slot.tensor_name);
    Ok(())
}

/// Whether a signature may be used for Predict when `--enable_signature_method_name_check` is on.
pub fn check_method_name(signature: &Signature) -> Result<(), Status> {
    if PREDICT_METHODS.contains(&signature.method_name.as_str()) {
        return Ok(());
    }
    Err(Status::internal(format!(
        "Expected prediction signature method_name to be one of {{{}}}. Was: {}",
        PREDICT_METHODS.join(", "),
        signature.method_name
    )))
}

/// Matches inputs and wanted outputs against a signature, in the order of checks that clients know.
///
/// `read` turns what the wire brought into a tensor; it is called once for each input that the signature has.
/// An empty `output_filter` means all outputs.
pub fn bind<N: AsRef<str>, V>(
    signature: &Signature,
    inputs: Vec<(N, V)>,
    output_filter: &[N],
    mut read: impl FnMut(&Slot, V) -> Result<Tensor, Status>,
) -> Result<Call, Status> {
    let given = inputs.len();
    if given > signature.inputs.len() || (given < signature.inputs.len() && !signature.has_defaults()) {
        return Err(wrong_count(signature, &inputs));
    }
    let mut values: Vec<Option<V>> = signature.inputs.iter().map(|_| None).collect();
    let mut unknown = Vec::new();
    let mut names: Vec<N> = Vec::with_capacity(given);
    for (name, value) in inputs {
        match signature.input(name.as_ref()) {
            Some(position) => values[position] = Some(value),
            None => unknown.push(names.len()),
        }
        names.push(name);
    }
    let mut tensors = Vec::with_capacity(signature.inputs.len());
    for (slot, value) in signature.inputs.iter().zip(values) {
        let tensor = match (value, &slot.default) {
            (Some(value), _) => read(slot, value)?,
            (None, Some(default)) => default.clone(),
            (None, None) => return Err(missing_input(signature, slot, &names)),
        };
        tensors.push(tensor);
    }
    if !unknown.is_empty() {
        let used =
            names.iter().enumerate().filter(|(index, _)| !unknown.contains(index)).map(|(_, name)| name.as_ref());
        return Err(Status::invalid_argument(format!(
            "Inputs contains invalid name. Used request inputs: {}, request input: {}",
            sorted(used),
            sorted(names.iter().map(AsRef::as_ref))
        )));
    }
    let outputs = chosen_outputs(signature, output_filter)?;
    let input_bytes = tensors.iter().map(Tensor::value_bytes).sum();
    let memory_bytes = tensors.iter().map(Tensor::memory_bytes).sum();
    let mut feeds = Vec::with_capacity(tensors.len());
    for (slot, tensor) in signature.inputs.iter().zip(tensors) {
        feeds.push((slot.endpoint.clone()?, tensor));
    }
    let mut fetches = Vec::with_capacity(outputs.len());
    for output in &outputs {
        fetches.push(signature.outputs[*output].endpoint.clone()?);
    }
    Ok(Call { signature: signature.index, feeds, fetches, outputs, input_bytes, memory_bytes })
}

fn chosen_outputs<N: AsRef<str>>(signature: &Signature, filter: &[N]) -> Result<Vec<usize>, Status> {
    if filter.is_empty() {
        return Ok((0..signature.outputs.len()).collect());
    }
    let mut chosen = Vec::with_capacity(filter.len().min(signature.outputs.len()));
    for name in filter {
        let name = name.as_ref();
        let Some(position) = signature.output(name) else {
            return Err(Status::invalid_argument(format!(
                "output tensor alias not found in signature: {name} Outputs expected to be in the set {{{}}}.",
                sorted(slot_names(&signature.outputs))
            )));
        };
        if chosen.contains(&position) {
            return Err(Status::invalid_argument(format!("duplicate output tensor alias: {name}")));
        }
        chosen.push(position);
    }
    Ok(chosen)
}

fn wrong_count<N: AsRef<str>, V>(signature: &Signature, inputs: &[(N, V)]) -> Status {
    let given: BTreeSet<&str> = inputs.iter().map(|(name, _)| name.as_ref()).collect();
    let wanted: BTreeSet<&str> = slot_names(&signature.inputs).collect();
    Status::invalid_argument(format!(
        "input size does not match signature: {}!={} len({{{}}}) != len({{{}}}). Sent extra: {{{}}}. Missing but required: {{{}}}.",
        given.len(),
        wanted.len(),
        sorted(given.iter().copied()),
        sorted(wanted.iter().copied()),
        sorted(given.difference(&wanted).copied()),
        sorted(wanted.difference(&given).copied()),
    ))
}

fn missing_input<N: AsRef<str>>(signature: &Signature, slot: &Slot, given: &[N]) -> Status {
    let defaults = signature.inputs.iter().filter(|input| input.default.is_some());
    Status::invalid_argument(format!(
        "Signature input alias: {}(feed name: {}) not found in request and no default value provided. \
         Inputs expected to be in the request {{{}}}, or default input alias set: {}",
        slot.name,
        slot.tensor_name,
        sorted(given.iter().map(AsRef::as_ref)),
        sorted(defaults.map(|input| input.name.as_str())),
    ))
}

fn slot_names(slots: &[Slot]) -> impl Iterator<Item = &str> {
    slots.iter().map(|slot| slot.name.as_str())
}

/// Names as messages list them: sorted, with commas and no blanks.
fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.join(",")
}
