//! What a SavedModel says of itself. It comes from disk rather than from the network, but not always from a friend.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use servable_core::signature::Endpoint;
use servable_wire::messages::tensorflow::{MetaGraphDef, SavedModel};
use servable_wire::saved_model as reader;

/// Reads signatures: what a folder shows and what a loaded model offers are the same.
pub fn saved_model(data: &[u8]) {
    let Ok(summary) = reader::summary(data) else {
        return;
    };
    let model = SavedModel::decode(data).expect("it was read before");
    for (index, meta_graph) in model.meta_graphs.iter().enumerate() {
        let shown = summary["meta_graphs"][index]["signatures"].as_object().expect("an object");
        check_meta_graph(meta_graph, &shown.keys().map(String::as_str).collect());
    }
}

fn check_meta_graph(meta_graph: &MetaGraphDef, shown: &BTreeSet<&str>) {
    let bytes = Bytes::from(meta_graph.encode_to_vec());
    let offered = reader::signatures(&bytes, |_| Ok(Endpoint(0)));
    if let Ok(offered) = &offered {
        assert_eq!(offered.iter().map(|signature| signature.name.as_str()).collect::<BTreeSet<_>>(), *shown);
    }
    if let Ok(description) = reader::description(bytes) {
        match serde_json::from_str::<serde_json::Value>(&description.json) {
            Ok(json) => {
                let described = json["signature_def"].as_object().expect("an object");
                assert_eq!(described.keys().map(String::as_str).collect::<BTreeSet<_>>(), *shown);
            }
            Err(error) => assert!(error.to_string().starts_with("recursion limit"), "{error}"),
        }
    }
}
