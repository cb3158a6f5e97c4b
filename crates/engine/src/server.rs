//! The server and the calls it has for the control plane, as Python objects.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use servable_core::routes::{ModelRoutes as CoreModelRoutes, Routes, State, VersionStatus};
use servable_core::{Code, Limits, Status};
use servable_net::{
    AccessLogSettings, AccessSpec as NetAccessSpec, GrpcSettings, Lifetime, Server as NetServer, Settings,
    TraceProtocol,
};
use servable_wire::json::Dialect;

use crate::error::raised;
use crate::runtime::Servable;
use crate::security::{AccessSpec, TlsSpecs};

/// `servable.types.LimitSpec`.
#[derive(FromPyObject)]
struct LimitSpec {
    max_message_bytes: Option<usize>,
    max_body_bytes: Option<usize>,
    max_decompressed_bytes: Option<usize>,
    max_json_depth: Option<usize>,
    max_tensor_elements: Option<usize>,
    max_repeated_bytes: Option<usize>,
    max_output_bytes: Option<usize>,
    max_connections: Option<usize>,
    max_connections_per_client: Option<usize>,
    max_requests_per_client: Option<usize>,
    max_requests_per_model: Option<usize>,
    connection_idle_timeout_seconds: Option<f64>,
    header_timeout_seconds: Option<f64>,
    max_requests_in_flight: Option<usize>,
    max_bytes_in_flight: Option<usize>,
}

/// `servable.types.GrpcSpec`.
#[derive(FromPyObject)]
struct GrpcSpec {
    keepalive_time_ms: Option<u64>,
    keepalive_timeout_ms: Option<u64>,
    max_concurrent_streams: Option<u32>,
    max_metadata_bytes: Option<u32>,
    max_age_ms: Option<u64>,
    max_age_grace_ms: Option<u64>,
    max_idle_ms: Option<u64>,
}

/// `servable.types.ServerSpec`.
#[derive(FromPyObject)]
struct ServerSpec {
    grpc_address: Option<String>,
    grpc_socket_path: Option<String>,
    grpc_socket_mode: Option<u32>,
    rest_address: Option<String>,
    admin_address: Option<String>,
    monitoring_address: Option<String>,
    rest_timeout_ms: Option<u64>,
    cors: bool,
    check_method_names: bool,
    tensor_content: bool,
    health_service: bool,
    profiler: bool,
    session_service: bool,
    allow_labels: bool,
    strict_json: bool,
    compress_answers: bool,
    metrics_path: Option<String>,
    metrics_unasked: bool,
    access_log: Option<String>,
    access_log_json: bool,
    traces: Option<String>,
    max_threads: Option<usize>,
    limits: LimitSpec,
    grpc: GrpcSpec,
}

impl From<ServerSpec> for Settings {
    fn from(spec: ServerSpec) -> Self {
        let (given, default) = (spec.limits, Limits::default());
        let limits = Limits {
            max_message_bytes: given.max_message_bytes.unwrap_or(default.max_message_bytes),
            max_body_bytes: given.max_body_bytes.unwrap_or(default.max_body_bytes),
            max_decompressed_bytes: given.max_decompressed_bytes.unwrap_or(default.max_decompressed_bytes),
            max_json_depth: given.max_json_depth.unwrap_or(default.max_json_depth),
            max_tensor_elements: given.max_tensor_elements.unwrap_or(default.max_tensor_elements),
            max_repeated_bytes: given.max_repeated_bytes.unwrap_or(default.max_repeated_bytes),
            max_output_bytes: given.max_output_bytes.unwrap_or(default.max_output_bytes),
        };
        Self {
            grpc_address: spec.grpc_address,
            grpc_socket_path: spec.grpc_socket_path,
            grpc_socket_mode: spec.grpc_socket_mode,
            rest_address: spec.rest_address,
            admin_address: spec.admin_address,
            monitoring_address: spec.monitoring_address,
            rest_timeout: spec.rest_timeout_ms.map(Duration::from_millis),
            cors: spec.cors,
            check_method_names: spec.check_method_names,
            tensor_content: spec.tensor_content,
            health_service: spec.health_service,
            profiler: spec.profiler,
            session_service: spec.session_service,
            refuses_labels: !spec.allow_labels,
            dialect: if spec.strict_json { Dialect::Strict } else { Dialect::Original },
            compress_answers: spec.compress_answers,
            metrics_path: spec.metrics_path,
            metrics_unasked: spec.metrics_unasked,
            traces: spec.traces.map(|protocol| match protocol.as_str() {
                "grpc" => TraceProtocol::Grpc,
                _ => TraceProtocol::HttpProtobuf,
            }),
            access_log: spec.access_log.map(|path| AccessLogSettings { path, json: spec.access_log_json }),
            max_threads: spec.max_threads,
            max_connections: given.max_connections,
            max_connections_per_client: given.max_connections_per_client.filter(|most| *most > 0),
            max_requests_per_client: given.max_requests_per_client.filter(|most| *most > 0),
            max_requests_per_model: given.max_requests_per_model.filter(|most| *most > 0),
            connection_idle_timeout: given.connection_idle_timeout_seconds.and_then(duration),
            header_timeout: given.header_timeout_seconds.and_then(duration),
            max_requests_in_flight: given.max_requests_in_flight,
            max_bytes_in_flight: given.max_bytes_in_flight,
            limits,
            grpc: GrpcSettings {
                keepalive_time: spec.grpc.keepalive_time_ms.map(Duration::from_millis),
                keepalive_timeout: spec.grpc.keepalive_timeout_ms.map(Duration::from_millis),
                max_concurrent_streams: spec.grpc.max_concurrent_streams,
                max_metadata_bytes: spec.grpc.max_metadata_bytes,
                lifetime: Lifetime {
                    age: spec.grpc.max_age_ms.map(Duration::from_millis),
                    grace: spec.grpc.max_age_grace_ms.map(Duration::from_millis),
                    idle: spec.grpc.max_idle_ms.map(Duration::from_millis),
                },
            },
        }
    }
}

fn duration(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

/// `servable.types.VersionRoute`.
#[derive(FromPyObject)]
struct VersionRoute<'py> {
    version: i64,
    state: String,
    error_code: String,
    error_message: String,
    servable: Option<Bound<'py, Servable>>,
    on_demand: bool,
    memory_bytes: u64,
    remark: String,
}

/// `servable.types.ModelRoutes`.
#[derive(FromPyObject)]
struct ModelRoutes<'py> {
    versions: Vec<VersionRoute<'py>>,
    labels: HashMap<String, i64>,
    configured: bool,
}

impl VersionRoute<'_> {
    fn status(&self) -> PyResult<VersionStatus> {
        let state = State::from_name(&self.state)
            .ok_or_else(|| PyValueError::new_err(format!("{:?} is no state of a version", self.state)))?;
        let error = match code_named(&self.error_code)? {
            Code::Ok => None,
            code => Some(Status::new(code, self.error_message.clone())),
        };
        let servable = match &self.servable {
            None => None,
            Some(servable) => Some(servable.get().share().ok_or_else(|| {
                PyValueError::new_err(format!("version {} is unloaded and cannot be published", self.version))
            })?),
        };
        Ok(VersionStatus {
            state,
            error,
            servable,
            on_demand: self.on_demand,
            memory_bytes: self.memory_bytes,
            remark: self.remark.clone(),
        })
    }
}

fn code_named(name: &str) -> PyResult<Code> {
    (0..=16)
        .map(Code::from_number)
        .find(|code| code.name() == name)
        .ok_or_else(|| PyValueError::new_err(format!("{name:?} is no canonical code")))
}

#[pyfunction]
pub(crate) fn log_panics(json: bool) {
    servable_net::log_panics(json);
}

#[pyclass(frozen, module = "servable._engine")]
pub(crate) struct Server {
    server: NetServer,
}

#[pymethods]
impl Server {
    #[new]
    fn new(spec: ServerSpec) -> PyResult<Self> {
        Ok(Self { server: NetServer::new(spec.into()).map_err(raised)? })
    }

    fn publish(&self, python: Python<'_>, models: HashMap<String, ModelRoutes<'_>>) -> PyResult<()> {
        let mut table = HashMap::with_capacity(models.len());
        for (name, model) in models {
            let versions: PyResult<BTreeMap<_, _>> =
                model.versions.iter().map(|version| Ok((version.version, version.status()?))).collect();
            let routes = CoreModelRoutes { versions: versions?, labels: model.labels, configured: model.configured };
            table.insert(name, routes);
        }
        python.detach(|| self.server.publish(Routes::new(table)));
        Ok(())
    }

    fn open(&self, python: Python<'_>) -> PyResult<()> {
        python.detach(|| self.server.open()).map(|_| ()).map_err(raised)
    }

    fn set_tls(&self, python: Python<'_>, specs: TlsSpecs) -> PyResult<()> {
        let specs = specs.into();
        python.detach(|| self.server.set_tls(&specs)).map_err(raised)
    }

    fn set_access(&self, python: Python<'_>, spec: AccessSpec) -> PyResult<()> {
        let spec = NetAccessSpec::try_from(spec)?;
        python.detach(|| self.server.set_access(&spec)).map_err(raised)
    }

    fn start(&self, python: Python<'_>) -> PyResult<()> {
        python.detach(|| self.server.start()).map(|_| ()).map_err(raised)
    }

    #[getter]
    fn grpc_port(&self) -> Option<u16> {
        self.server.ports().grpc
    }

    #[getter]
    fn rest_port(&self) -> Option<u16> {
        self.server.ports().rest
    }

    #[getter]
    fn admin_port(&self) -> Option<u16> {
        self.server.ports().admin
    }

    #[getter]
    fn monitoring_port(&self) -> Option<u16> {
        self.server.ports().monitoring
    }

    fn snapshot(&self) -> HashMap<&'static str, u64> {
        let counters: [(&'static str, u64); 3] = self.server.snapshot().into();
        counters.into()
    }

    fn metrics_page(&self, python: Python<'_>) -> String {
        python.detach(|| self.server.metrics_page())
    }

    fn count_warmup(&self, path: &str, code: &str, records: u64, took_s: f64) -> PyResult<()> {
        let took = Duration::try_from_secs_f64(took_s).unwrap_or_default();
        self.server.count_warmup(path, code_named(code)?, records, took);
        Ok(())
    }

    fn capture<'py>(
        &self,
        python: Python<'py>,
        model: &str,
        count: usize,
        max_bytes: usize,
        timeout_s: f64,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let timeout = Duration::try_from_secs_f64(timeout_s).unwrap_or_default();
        let records = python.detach(|| self.server.capture(model, count, max_bytes, timeout)).map_err(raised)?;
        Ok(records.iter().map(|record| PyBytes::new(python, record)).collect())
    }

    fn log_requests(&self, rates: HashMap<String, f64>) {
        self.server.log_requests(rates);
    }

    fn next_log_records<'py>(&self, python: Python<'py>, timeout_s: f64) -> Vec<(String, Bound<'py, PyBytes>)> {
        let timeout = Duration::try_from_secs_f64(timeout_s).unwrap_or_default();
        let records = python.detach(|| self.server.next_log_records(timeout));
        records.into_iter().map(|logged| (logged.model, PyBytes::new(python, &logged.record))).collect()
    }

    fn count_logged(&self, model: &str, code: &str, records: u64) -> PyResult<()> {
        self.server.count_logged(model, code_named(code)?, records);
        Ok(())
    }

    fn count_log_dropped(&self, model: &str, reason: &str, records: u64) {
        self.server.count_log_dropped(model, reason, records);
    }

    fn next_call(&self, python: Python<'_>, timeout_s: f64) -> Option<ControlCall> {
        let timeout = Duration::try_from_secs_f64(timeout_s).unwrap_or_default();
        let call = python.detach(|| self.server.next_call(timeout))?;
        Some(ControlCall { method: call.method.clone(), request: call.request.to_vec(), call: Mutex::new(Some(call)) })
    }

    fn leave(&self) {
        self.server.leave();
    }

    fn stop(&self, python: Python<'_>, deadline_s: f64) -> bool {
        let deadline = Duration::try_from_secs_f64(deadline_s.max(0.0)).unwrap_or(Duration::MAX);
        python.detach(|| self.server.stop(deadline))
    }
}

#[pyclass(frozen, module = "servable._engine")]
pub(crate) struct ControlCall {
    method: String,
    request: Vec<u8>,
    /// Gone once answered.
    call: Mutex<Option<servable_net::ControlCall>>,
}

impl ControlCall {
    fn take(&self) -> PyResult<servable_net::ControlCall> {
        let call = self.call.lock().unwrap_or_else(PoisonError::into_inner).take();
        call.ok_or_else(|| PyValueError::new_err("this call has been answered before"))
    }
}

#[pymethods]
impl ControlCall {
    #[getter]
    fn method(&self) -> &str {
        &self.method
    }

    #[getter]
    fn request(&self) -> &[u8] {
        &self.request
    }

    fn reply(&self, response: Vec<u8>) -> PyResult<()> {
        self.take()?.answer(Ok(response.into()));
        Ok(())
    }

    fn fail(&self, code: &str, message: String) -> PyResult<()> {
        let code = code_named(code)?;
        self.take()?.answer(Err(Status::new(code, message)));
        Ok(())
    }
}
