//! Classification and regression over examples: serialised `tensorflow.Example`s in, labels and numbers out.
//!
//! The examples are never looked into: the model has an op of its own that parses them.

use std::ops::Range;

use crate::dtype::DataType;
use crate::predict::Call;
use crate::servable::Answer;
use crate::signature::{Signature, Slot};
use crate::status::Status;
use crate::tensor::{Shape, Tensor};
use crate::usage::Api;

const INPUTS: &str = "inputs";
const CLASSES: &str = "classes";
const SCORES: &str = "scores";
const OUTPUTS: &str = "outputs";

/// What to compute for every example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Classify,
    Regress,
}

impl Task {
    const ALL: [Self; 2] = [Self::Classify, Self::Regress];

    /// The method name that signatures made for this carry.
    pub fn method_name(self) -> &'static str {
        match self {
            Self::Classify => "tensorflow/serving/classify",
            Self::Regress => "tensorflow/serving/regress",
        }
    }

    pub fn from_method_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|task| task.method_name() == name)
    }

    /// The RPC that asks for it alone.
    pub fn api(self) -> Api {
        match self {
            Self::Classify => Api::Classify,
            Self::Regress => Api::Regress,
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Self::Classify => "classification",
            Self::Regress => "regression",
        }
    }

    /// Whether a signature has what this task needs; its method name counts only if `check_method_name` says so.
    pub fn check(self, signature: &Signature, check_method_name: bool) -> Result<(), Status> {
        let (noun, method) = (self.noun(), self.method_name());
        if check_method_name && signature.method_name != method {
            let given = &signature.method_name;
            return Err(Status::invalid_argument(format!(
                "Expected {noun} signature method_name to be {method}. Was: {given}"
            )));
        }
        let outputs = signature.outputs.len();
        if signature.inputs.len() != 1 {
            return Err(Status::invalid_argument("Expected one input Tensor."));
        }
        if self == Self::Classify && outputs != 1 && outputs != 2 {
            return Err(Status::invalid_argument(format!("Expected one or two output Tensors, found {outputs}")));
        }
        if self == Self::Regress && outputs != 1 {
            return Err(Status::invalid_argument("Expected one output Tensor."));
        }
        if signature.input(INPUTS).is_none() {
            return Err(Status::invalid_argument(format!(
                "No {noun} inputs found in SignatureDef: {}",
                described(signature)
            )));
        }
        if self.fetched(signature).is_empty() {
            let text = match self {
                Self::Classify => {
                    "Expected classification signature outputs to contain at least one of \"classes\" or \"scores\". \
                     Signature was: "
                }
                Self::Regress => "No regression outputs found in SignatureDef: ",
            };
            return Err(Status::invalid_argument(format!("{text}{}", described(signature))));
        }
        Ok(())
    }

    /// The outputs that are of use, by position.
    fn fetched(self, signature: &Signature) -> Vec<usize> {
        let names: &[&str] = match self {
            Self::Classify => &[CLASSES, SCORES],
            Self::Regress => &[OUTPUTS],
        };
        names.iter().filter_map(|name| signature.output(name)).collect()
    }
}

/// A signature's names and types: enough to see what is wrong with it.
fn described(signature: &Signature) -> String {
    let list = |slots: &[Slot]| {
        let slots = slots.iter().map(|slot| format!("{} {}", slot.name, slot.dtype.map_or("invalid", DataType::name)));
        slots.collect::<Vec<_>>().join(", ")
    };
    let Signature { name, inputs, outputs, .. } = signature;
    format!("{name} has inputs ({}) and outputs ({})", list(inputs), list(outputs))
}

/// A label, of which nobody promises that it is UTF-8, and how sure the model is.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    pub label: Vec<u8>,
    pub score: f32,
}

/// What a task computed, one item per example.
#[derive(Clone, Debug, PartialEq)]
pub enum Computed {
    Classes(Vec<Vec<Class>>),
    Values(Vec<f32>),
}

/// What becomes of the tensors of a call that computes tasks.
#[derive(Clone, Debug)]
pub struct Plan {
    examples: usize,
    tasks: Vec<(Task, Vec<Role>, Range<usize>)>,
}

/// What a fetched tensor means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Classes,
    Scores,
    Values,
}

/// Puts tasks over the same examples into one call. The signatures must have passed [`Task::check`].
///
/// `INVALID_ARGUMENT` if there are no examples.
pub fn plan(tasks: &[(Task, &Signature)], examples: &Tensor) -> Result<(Call, Plan), Status> {
    let count = examples.shape().elements();
    if count == 0 {
        return Err(Status::invalid_argument("Input is empty."));
    }
    let mut call = Call {
        signature: tasks.first().map_or(0, |(_, signature)| signature.index),
        feeds: Vec::new(),
        fetches: Vec::new(),
        outputs: Vec::new(),
        input_bytes: examples.value_bytes(),
        memory_bytes: examples.memory_bytes(),
    };
    let mut plan = Plan { examples: count, tasks: Vec::with_capacity(tasks.len()) };
    for (task, signature) in tasks {
        for slot in &signature.inputs {
            let endpoint = slot.endpoint.clone()?;
            if call.feeds.iter().all(|(fed, _)| *fed != endpoint) {
                call.feeds.push((endpoint, examples.clone()));
            }
        }
        let (first, mut roles) = (call.fetches.len(), Vec::with_capacity(2));
        for output in task.fetched(signature) {
            let slot = &signature.outputs[output];
            call.fetches.push(slot.endpoint.clone()?);
            roles.push(match slot.name.as_str() {
                CLASSES => Role::Classes,
                SCORES => Role::Scores,
                _ => Role::Values,
            });
        }
        plan.tasks.push((*task, roles, first..call.fetches.len()));
    }
    Ok((call, plan))
}

impl Plan {
    /// What the tasks computed, in their order. `INVALID_ARGUMENT` if an output is not what its task promises.
    pub fn computed(&self, answer: &Answer) -> Result<Vec<Computed>, Status> {
        let compute = |(task, roles, range): &(Task, Vec<Role>, Range<usize>)| {
            let tensors = answer.tensors().get(range.clone()).unwrap_or_default();
            let tensor = |role| roles.iter().zip(tensors).find(|(own, _)| **own == role).map(|(_, tensor)| tensor);
            match task {
                Task::Classify => {
                    classified(tensor(Role::Classes), tensor(Role::Scores), self.examples).map(Computed::Classes)
                }
                Task::Regress => regressed(tensor(Role::Values), self.examples).map(Computed::Values),
            }
        };
        self.tasks.iter().map(compute).collect()
    }
}

fn classified(classes: Option<&Tensor>, scores: Option<&Tensor>, examples: usize) -> Result<Vec<Vec<Class>>, Status> {
    for (name, tensor, wanted) in [(CLASSES, classes, DataType::String), (SCORES, scores, DataType::Float)] {
        let Some(tensor) = tensor else { continue };
        let &[rows, _] = tensor.shape().sizes() else {
            let shape = tensor.shape();
            return Err(Status::invalid_argument(format!(
                "Expected Tensor shape: [batch_size num_classes] but got {shape}"
            )));
        };
        if tensor.dtype() != wanted {
            return Err(Status::invalid_argument(format!(
                "Expected {name} Tensor of {}. Got: {}",
                wanted.proto_name(),
                tensor.dtype().proto_name()
            )));
        }
        if rows as usize != examples {
            return Err(Status::invalid_argument(format!(
                "Expected {name} output batch size of {examples}. Got: {rows}"
            )));
        }
    }
    let width = |tensor: &Tensor| tensor.shape().sizes().get(1).copied().unwrap_or(0) as usize;
    if let (Some(classes), Some(scores)) = (classes, scores)
        && width(classes) != width(scores)
    {
        return Err(Status::invalid_argument(format!(
            "Tensors class and score should match in dim_size(1). Got {} vs. {}",
            width(classes),
            width(scores)
        )));
    }
    let width = classes.or(scores).map_or(0, width);
    let labels = classes.and_then(Tensor::string_values);
    let scores = scores.map(floats);
    let class = |index: usize| Class {
        label: labels.map_or_else(Vec::new, |labels| labels.get(index).to_vec()),
        score: scores.as_ref().map_or(0.0, |scores| scores[index]),
    };
    Ok((0..examples).map(|row| (row * width..(row + 1) * width).map(class).collect()).collect())
}

fn regressed(values: Option<&Tensor>, examples: usize) -> Result<Vec<f32>, Status> {
    let values = values.ok_or_else(|| Status::internal("a regression without output: this is a bug"))?;
    let shape: &Shape = values.shape();
    let ([rows] | [rows, 1]) = *shape.sizes() else {
        return Err(Status::invalid_argument(format!(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {shape}"
        )));
    };
    if rows as usize != examples {
        return Err(Status::invalid_argument(format!(
            "Input batch size did not match output batch size: {examples} vs. {rows}"
        )));
    }
    if values.dtype() != DataType::Float {
        let got = values.dtype().proto_name();
        // The blanks are the original's; clients match on the text.
        return Err(Status::invalid_argument(format!("Expected output Tensor of DT_FLOAT.  Got: {got}")));
    }
    Ok(floats(values))
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    let (values, _) = tensor.bytes().as_chunks::<4>();
    values.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;

    fn float_tensor(sizes: &[i64], values: &[f32]) -> Tensor {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = Shape::new(sizes.iter().copied()).expect("valid");
        Tensor::fixed(DataType::Float, shape, Arc::new(bytes)).expect("sizes agree")
    }

    fn labels(sizes: &[i64], labels: &[&'static str]) -> Tensor {
        let labels: Vec<Bytes> = labels.iter().map(|label| Bytes::from_static(label.as_bytes())).collect();
        Tensor::strings(Shape::new(sizes.iter().copied()).expect("valid"), Arc::new(labels)).expect("counts agree")
    }

    #[test]
    fn classes_come_in_the_order_of_the_tensors() {
        let class = |label: &str, score| Class { label: label.into(), score };
        let (names, scores) = (labels(&[1, 2], &["a", "b"]), float_tensor(&[1, 2], &[0.25, 0.75]));
        assert_eq!(classified(Some(&names), Some(&scores), 1), Ok(vec![vec![class("a", 0.25), class("b", 0.75)]]));
        assert_eq!(classified(None, Some(&scores), 1), Ok(vec![vec![class("", 0.25), class("", 0.75)]]));
        assert_eq!(classified(Some(&names), None, 1), Ok(vec![vec![class("a", 0.0), class("b", 0.0)]]));
        assert_eq!(classified(None, Some(&float_tensor(&[2, 0], &[])), 2), Ok(vec![vec![], vec![]]));
    }

    #[test]
    fn outputs_that_break_the_promise_are_named() {
        let text = |outcome: Result<_, Status>| outcome.expect_err("broken").message.into_owned();
        let two = float_tensor(&[2, 1], &[1.0, 2.0]);
        assert_eq!(text(classified(None, Some(&two), 3)), "Expected scores output batch size of 3. Got: 2");
        assert_eq!(
            text(classified(None, Some(&float_tensor(&[2], &[1.0, 2.0])), 2)),
            "Expected Tensor shape: [batch_size num_classes] but got [2]"
        );
        assert_eq!(text(classified(Some(&two), None, 2)), "Expected classes Tensor of DT_STRING. Got: DT_FLOAT");
        let text = |outcome: Result<Vec<f32>, Status>| outcome.expect_err("broken").message.into_owned();
        assert_eq!(text(regressed(Some(&two), 3)), "Input batch size did not match output batch size: 3 vs. 2");
        assert_eq!(regressed(Some(&two), 2), Ok(vec![1.0, 2.0]));
    }
}
