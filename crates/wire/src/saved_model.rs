//! What a SavedModel offers: the signatures of its meta graphs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use servable_core::servable::Description;
use servable_core::{DataType, Endpoint, Limits, Signature, Slot, Status, Tensor};

use crate::fields::Fields;
use crate::messages::tensorflow::serving::SignatureDefMap;
use crate::messages::tensorflow::{MetaGraphDef, SavedModel, SignatureDef, TensorInfo, tensor_info::Encoding};
use crate::reflect;
use crate::span::{Pieces, Span};
use crate::tensor::{TensorView, delimited, start};

/// The number of `MetaGraphDef.signature_def`, a map.
const META_GRAPH_SIGNATURES: u32 = 5;
/// The number of `SignatureDefMap.signature_def`, the same map.
const SIGNATURE_MAP_SIGNATURES: u32 = 1;

/// Reads the signatures of a serialised `MetaGraphDef`; `endpoint` says where in the session a tensor is.
pub fn signatures(
    meta_graph: &[u8],
    endpoint: impl FnMut(&str) -> Result<Endpoint, Status>,
) -> Result<Vec<Signature>, Status> {
    signatures_of(MetaGraphDef::decode(meta_graph).map_err(|error| unreadable(&error))?, endpoint)
}

/// The signatures that a `saved_model.pb` has for the graph with exactly these tags. Good for reading requests and for
/// nothing else: there is no session that they belong to.
pub fn unloaded_signatures(saved_model: &[u8], tags: &[String]) -> Result<Vec<Signature>, Status> {
    let saved_model = SavedModel::decode(saved_model).map_err(|error| unreadable(&error))?;
    let wanted: HashSet<&String> = tags.iter().collect();
    let has_tags = |graph: &MetaGraphDef| {
        let info = graph.meta_info_def.as_ref();
        info.map_or(&[][..], |info| &info.tags).iter().collect::<HashSet<_>>() == wanted
    };
    let meta_graph = saved_model.meta_graphs.into_iter().find(has_tags).ok_or_else(|| {
        Status::not_found(format!("the SavedModel has no graph with the tags {{ {} }}", tags.join(", ")))
    })?;
    signatures_of(meta_graph, |_| Ok(Endpoint(0)))
}

fn signatures_of(
    meta_graph: MetaGraphDef,
    mut endpoint: impl FnMut(&str) -> Result<Endpoint, Status>,
) -> Result<Vec<Signature>, Status> {
    let mut signatures = Vec::with_capacity(meta_graph.signature_def.len());
    for (name, signature) in meta_graph.signature_def {
        let mut slots = |infos: HashMap<String, TensorInfo>| -> Vec<Slot> {
            let slot = |(name, info): (String, TensorInfo)| {
                let tensor_name = match info.encoding {
                    Some(Encoding::Name(name)) => name,
                    _ => String::new(), // sparse and composite tensors have several; they cannot be fed by name
                };
                Slot {
                    endpoint: endpoint(&tensor_name),
                    name,
                    tensor_name,
                    dtype: DataType::from_number(info.dtype),
                    default: None,
                }
            };
            infos.into_iter().map(slot).collect()
        };
        let SignatureDef { inputs, outputs, method_name, defaults } = signature;
        let (mut inputs, outputs) = (slots(inputs), slots(outputs));
        for slot in &mut inputs {
            slot.default = defaults.get(&slot.name).map(|value| default_tensor(&slot.name, value)).transpose()?;
        }
        signatures.push(Signature::new(name, method_name, inputs, outputs));
    }
    Ok(signatures)
}

fn default_tensor(name: &str, value: &crate::messages::tensorflow::TensorProto) -> Result<Tensor, Status> {
    let message = Arc::new(Pieces::from(value.encode_to_vec()));
    let mut view = TensorView::default();
    view.merge(Span::of(&message))?;
    view.to_tensor(name, &Limits::default())
}

/// What a serialised `MetaGraphDef` says to those who ask for metadata: its signatures, not a bit changed.
pub fn description(meta_graph: Bytes) -> Result<Description, Status> {
    let mut signature_map = Vec::new();
    for field in Fields::of(Span::of(&Arc::new(Pieces::from(meta_graph)))) {
        if let (META_GRAPH_SIGNATURES, value) = field? {
            let entry = value.bytes()?;
            signature_map.reserve(delimited(SIGNATURE_MAP_SIGNATURES, entry.len()));
            start(SIGNATURE_MAP_SIGNATURES, entry.len(), &mut signature_map);
            entry.chunks().for_each(|chunk| signature_map.extend_from_slice(chunk));
        }
    }
    let json = reflect::decode_in_full("tensorflow.serving.SignatureDefMap", &signature_map)
        .map_err(|error| Status::internal(format!("the signatures cannot be written as JSON: {error:?}")))?;
    Ok(Description { signature_map: Bytes::from(signature_map), json })
}

/// What a `saved_model.pb` offers, as JSON: see `read_saved_model` of the Python module.
pub fn summary(saved_model: &[u8]) -> Result<serde_json::Value, Status> {
    let saved_model = SavedModel::decode(saved_model).map_err(|error| unreadable(&error))?;
    let meta_graphs: Vec<_> = saved_model.meta_graphs.into_iter().map(meta_graph_summary).collect();
    Ok(serde_json::json!({ "meta_graphs": meta_graphs }))
}

fn meta_graph_summary(meta_graph: MetaGraphDef) -> serde_json::Value {
    let info = meta_graph.meta_info_def.unwrap_or_default();
    let signatures = summaries(meta_graph.signature_def);
    serde_json::json!({ "tags": info.tags, "tensorflow_version": info.tensorflow_version, "signatures": signatures })
}

/// The signatures of a serialised `SignatureDefMap`, as [`summary`] has them.
pub fn signature_summaries(signature_map: &[u8]) -> Result<serde_json::Value, Status> {
    let map = SignatureDefMap::decode(signature_map).map_err(|error| unreadable(&error))?;
    Ok(summaries(map.signature_def))
}

fn summaries(signatures: HashMap<String, SignatureDef>) -> serde_json::Value {
    signatures.into_iter().map(|(name, signature)| (name, signature_summary(signature))).collect()
}

fn signature_summary(signature: SignatureDef) -> serde_json::Value {
    let SignatureDef { inputs, outputs, method_name, defaults } = signature;
    let slots = |infos: HashMap<String, TensorInfo>| -> serde_json::Map<String, serde_json::Value> {
        infos
            .into_iter()
            .map(|(name, info)| {
                let has_default = defaults.contains_key(&name);
                (name, slot_summary(info, has_default))
            })
            .collect()
    };
    let (inputs, outputs) = (slots(inputs), slots(outputs));
    serde_json::json!({ "method_name": method_name, "inputs": inputs, "outputs": outputs })
}

fn slot_summary(info: TensorInfo, has_default: bool) -> serde_json::Value {
    let shape: Option<Vec<i64>> = info
        .tensor_shape
        .filter(|shape| !shape.unknown_rank)
        .map(|shape| shape.dim.into_iter().map(|dim| dim.size).collect());
    let tensor = match info.encoding {
        Some(Encoding::Name(name)) => name,
        _ => String::new(),
    };
    let dtype = DataType::from_number(info.dtype).map_or("DT_INVALID", DataType::proto_name);
    serde_json::json!({ "dtype": dtype, "shape": shape, "tensor": tensor, "has_default": has_default })
}

fn unreadable(error: &prost::DecodeError) -> Status {
    Status::new(servable_core::Code::DataLoss, format!("the SavedModel does not parse: {error}"))
}
