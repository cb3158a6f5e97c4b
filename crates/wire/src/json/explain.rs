//! The slow walk: what is wrong with values that do not fit, in the order in which the original would notice.
//!
//! It walks as the original does: first the shape, from first elements alone, then every value against it.

use std::collections::BTreeSet;

use servable_core::dtype::DataType;
use servable_core::signature::{Signature, Slot};
use servable_core::status::Status;
use servable_core::tensor::MAX_RANK;

use crate::json::column::{Leaves, Text, is_convertible, tensor_parsing_error, type_name};
use crate::json::decode::{is_named_inputs, position};
use crate::json::dump::dump;
use crate::json::scan::{Elements, Members, Scanner};
use crate::json::text::{base64_object, readable, shown};
use crate::json::walk::Sizes;

/// Number of values and shape of an element that is fine in itself.
type Measured = (usize, Sizes);

/// What is wrong with a tensor written as one value.
pub(super) fn whole(slot: &Slot, text: &[u8]) -> Status {
    if rank(text) > MAX_RANK {
        return tensor_parsing_error(slot);
    }
    check(slot, text).err().unwrap_or_else(|| nothing_wrong(text))
}

/// What is wrong with `instances` that are the values of one input.
pub(super) fn plain_rows(slot: &Slot, instances: &[u8]) -> Status {
    let mut first = None;
    for (index, element) in Elements::of(instances).enumerate() {
        if is_named_inputs(element) {
            let message = format!("Expecting value/list but got object at item {index} of input list");
            return Status::invalid_argument(message);
        }
        if rank(element) >= MAX_RANK {
            return tensor_parsing_error(slot);
        }
        if let Err(error) = check_row(slot, element, &mut first) {
            return wrapped(&format!("Failed to process element: {index}"), &error);
        }
    }
    nothing_wrong(instances)
}

/// What is wrong with `instances` that are objects with the values of all inputs.
pub(super) fn object_rows(signature: &Signature, instances: &[u8]) -> Status {
    let mut firsts = vec![None; signature.inputs.len()];
    for (index, element) in Elements::of(instances).enumerate() {
        if !is_named_inputs(element) {
            let message = format!("Expecting object but got list at item {index} of input list");
            return Status::invalid_argument(message);
        }
        let mut given = BTreeSet::new();
        for (name, value) in Members::of(element) {
            let Some(position) = position(signature, name) else {
                let name = readable(name);
                let name = shown(&name);
                let inner = Status::invalid_argument(format!("JSON object: does not have named input: {name}"));
                return wrapped(&format!("Failed to process element: {index} key: {name}"), &inner);
            };
            let slot = &signature.inputs[position];
            if !given.insert(position) {
                continue;
            }
            if rank(value) >= MAX_RANK {
                return tensor_parsing_error(slot);
            }
            if let Err(error) = check_row(slot, value, &mut firsts[position]) {
                return wrapped(&format!("Failed to process element: {index} key: {}", slot.name), &error);
            }
        }
        if given.len() < signature.inputs.len() {
            let names: Vec<&str> = signature.inputs.iter().map(|slot| slot.name.as_str()).collect();
            return Status::invalid_argument(format!(
                "Failed to process element: {index} of 'instances' list. JSON object: {} keys must be equal to: {}",
                dump(element),
                names.join(",")
            ));
        }
    }
    nothing_wrong(instances)
}

fn wrapped(what: &str, error: &Status) -> Status {
    Status::invalid_argument(format!("{what} of 'instances' list. Error: {error}"))
}

fn nothing_wrong(text: &[u8]) -> Status {
    Status::internal(format!("JSON Value: {} was refused for no reason; this is a bug", dump(text)))
}

/// One row's value of an input: fine in itself, and like the first row's.
fn check_row(slot: &Slot, text: &[u8], first: &mut Option<Measured>) -> Result<(), Status> {
    let (count, sizes) = check(slot, text)?;
    let (first_count, first_sizes) = first.get_or_insert_with(|| (count, sizes.clone()));
    if *first_count != count {
        return Err(Status::invalid_argument(format!("Expecting tensor size: {first_count} but got: {count}")));
    }
    if *first_sizes != sizes {
        return Err(Status::invalid_argument(format!(
            "Expecting shape {} but got: {}",
            bracketed(first_sizes),
            bracketed(&sizes)
        )));
    }
    Ok(())
}

fn bracketed(sizes: &[i64]) -> String {
    let sizes: Vec<String> = sizes.iter().map(i64::to_string).collect();
    format!("[{}]", sizes.join(","))
}

/// One value against the shape of its first elements, and each leaf against the type.
fn check(slot: &Slot, text: &[u8]) -> Result<Measured, Status> {
    let list_sizes = list_sizes(text);
    let sizes: Sizes = list_sizes.iter().copied().take(rank(text)).collect();
    let rank = sizes.len();
    let mut scanner = Scanner::new(text);
    let mut lists = list_sizes.into_iter();
    let mut level = 0;
    let mut count = 0;
    let mut scratch = Leaves::new(slot.dtype, 0);
    loop {
        scanner.whitespace();
        match scanner.peek() {
            0 => return Ok((count, sizes)),
            b',' => scanner.advance(1),
            b']' => {
                scanner.advance(1);
                level -= 1;
            }
            b'[' => {
                scanner.advance(1);
                let Some(wanted) = sizes.get(level) else {
                    let message = format!("Encountered list at unexpected level: {level} expected < {rank}");
                    return Err(Status::invalid_argument(message));
                };
                let size = lists.next().unwrap_or(0);
                if size != *wanted {
                    return Err(Status::invalid_argument(format!(
                        "Encountered list at unexpected size: {size} at level: {level} expected size: {wanted}"
                    )));
                }
                level += 1;
            }
            _ => {
                let leaf = next_leaf(&mut scanner);
                if level != rank {
                    return Err(Status::invalid_argument(format!(
                        "JSON Value: {} found at incorrect level: {} in the JSON DOM. Expected at level: {rank}",
                        dump(leaf),
                        level + 1
                    )));
                }
                check_leaf(slot.dtype, leaf, &mut scratch)?;
                count += 1;
            }
        }
    }
}

fn check_leaf(dtype: Option<DataType>, leaf: &[u8], scratch: &mut Leaves) -> Result<(), Status> {
    let Some(known) = dtype.filter(|dtype| is_convertible(*dtype)) else {
        let message = format!("Conversion of JSON Value: {} to type: {}", dump(leaf), type_name(dtype));
        return Err(Status::unimplemented(message));
    };
    scratch.clear();
    if scratch.push(known, Text::Valid, &mut Scanner::new(leaf)) {
        return Ok(());
    }
    let is_object = leaf.first() == Some(&b'{');
    Err(Status::invalid_argument(if known != DataType::String || !is_object {
        format!("JSON Value: {} Type: {} is not of expected type: {known}", dump(leaf), json_type(leaf))
    } else if base64_object(leaf).is_some() {
        "Unable to base64 decode".to_owned()
    } else {
        format!("JSON Value: {} not formatted correctly for base64 data", dump(leaf))
    }))
}

pub(super) fn json_type(value: &[u8]) -> &'static str {
    match value.first() {
        Some(b'n') => "Null",
        Some(b'f') => "False",
        Some(b't') => "True",
        Some(b'{') => "Object",
        Some(b'[') => "Array",
        Some(b'"') => "String",
        _ => "Number",
    }
}

/// How many lists open before anything else comes.
fn rank(text: &[u8]) -> usize {
    let mut scanner = Scanner::new(text);
    let mut rank = 0;
    while scanner.take(b'[') {
        rank += 1;
        scanner.whitespace();
    }
    rank
}

/// The number of elements of every list, in the order in which they open. Counted in one go, since lists may nest deep.
fn list_sizes(text: &[u8]) -> Vec<i64> {
    let mut scanner = Scanner::new(text);
    let mut sizes = Vec::new();
    let mut open = Vec::new();
    loop {
        scanner.whitespace();
        let next = scanner.peek();
        match next {
            0 => return sizes,
            b',' => scanner.advance(1),
            b']' => {
                scanner.advance(1);
                open.pop();
            }
            _ => {
                if let Some(list) = open.last() {
                    sizes[*list] += 1;
                }
                if next == b'[' {
                    scanner.advance(1);
                    open.push(sizes.len());
                    sizes.push(0);
                } else {
                    next_leaf(&mut scanner);
                }
            }
        }
    }
}

/// Reads over what is no list.
fn next_leaf<'a>(scanner: &mut Scanner<'a>) -> &'a [u8] {
    let start = scanner.at();
    if scanner.value(usize::MAX).is_err() {
        // Cannot happen in text that has been scanned; moving on keeps the walk finite.
        scanner.advance(usize::from(scanner.at() == start));
    }
    scanner.since(start)
}
