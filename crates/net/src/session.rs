//! `SessionRun`: any part of a graph, by the names of its tensors. Only for those who may do anything with a model.

use std::sync::Arc;

use bytes::Bytes;
use servable_core::predict::NamedRun;
use servable_core::progress::Mark;
use servable_core::servable::{Caller, Servable};
use servable_core::{Status, Tensor};
use servable_wire::predict::{PredictWriter, Reply};
use servable_wire::session::SessionRunView;
use servable_wire::tensor::Form;

use crate::access::Right;
use crate::app::{App, COPYING};
use crate::exchange::Exchange;
use crate::framing::framed;
use crate::grpc::{Received, missing_spec, signature_named};

/// A run that is ready, and what its answer is called.
struct Prepared {
    servable: Arc<Servable>,
    /// Empty unless names were those of a signature.
    signature: String,
    /// What the tensors were asked for by.
    names: Vec<String>,
    run: NamedRun,
}

/// Answers `SessionRun`.
pub(crate) async fn run(app: Arc<App>, received: Received) -> Result<Bytes, Status> {
    let Received { message, share, terms, exchange } = received;
    let (length, shared, progress) = (message.len(), Arc::clone(&app), Arc::clone(&exchange.progress));
    let prepared = app
        .work(length / COPYING, terms.deadline, move || prepare(&shared, &exchange, SessionRunView::read(&message)?))
        .await??;
    let Prepared { servable, signature, names, run } = prepared;
    share.hold(run.feeds.iter().map(|(_, tensor)| tensor.memory_bytes()).sum())?;
    progress.reach(Mark::Decoded);
    let tensors = Arc::clone(&servable)
        .run_named(run, Caller::waiting(terms, Arc::clone(&share) as _, progress), &app.threads()?.runs)
        .await?;
    let bytes = tensors.iter().map(Tensor::value_bytes).sum();
    app.check_output(bytes)?;
    let form = if app.settings.tensor_content { Form::Content } else { Form::Typed };
    let write = move || {
        let outputs = names.iter().map(String::as_str).zip(&tensors);
        let writer =
            PredictWriter::new(Reply::SessionRun, outputs, form, servable.name(), servable.version(), &signature);
        share.hold(writer.len())?;
        framed(writer.len(), |buffer| writer.write(buffer))
    };
    app.work(bytes / COPYING, None, write).await?
}

fn prepare(app: &App, exchange: &Exchange, request: SessionRunView<'_>) -> Result<Prepared, Status> {
    request.check_names()?;
    let spec = request.spec.ok_or_else(missing_spec)?;
    let servable = app.resolve(exchange, Right::Predict, &spec.name, &spec.choice)?;
    let names: Vec<String> = request.fetches.into_iter().map(String::from).collect();
    let mut run = NamedRun {
        feeds: Vec::with_capacity(request.feeds.len()),
        fetches: names.clone(),
        targets: request.targets.into_iter().map(String::from).collect(),
    };
    let mut made = exchange.made();
    for (name, tensor) in request.feeds {
        let tensor = tensor.to_tensor_within(&name, &app.settings.limits, &mut |bytes| made.add(bytes))?;
        run.feeds.push((name.into_owned(), tensor));
    }
    let mut signature = String::new();
    if request.is_alias {
        let named = signature_named(&servable, &spec.signature_name)?;
        exchange.means(named.index());
        run.resolve_aliases(named)?;
        signature.clone_from(&named.name);
    }
    Ok(Prepared { servable, signature, names, run })
}
