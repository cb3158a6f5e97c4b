//! One line for each request that is done with, written by a thread of its own. A disk that cannot keep up costs lines,
//! never requests.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use servable_core::usage::STAGES;
use servable_core::{Code, Status};

use crate::edge::cut;
use crate::exchange::Exchange;

/// Lines that may wait for the disk.
const WAITING_LINES: usize = 16 << 10;
/// A longer target or method is cut: clients choose it.
const LONGEST_TARGET: usize = 1 << 10;
/// A longer name of a caller is cut: whoever issues tokens chooses it.
const LONGEST_CALLER: usize = 256;
/// Of a file that is made: who asks for what is not everybody's business. The umask may take more away.
const MODE: u32 = 0o640;
/// How long a line may wait in a buffer, and how often it is seen whether the file has been moved away.
const CHECK: Duration = Duration::from_secs(1);

/// How and where lines are written.
#[derive(Clone, Debug)]
pub struct AccessLogSettings {
    /// A file, or `-` for the standard output.
    pub path: String,
    /// An object of JSON per line, rather than names and values.
    pub json: bool,
}

pub(crate) struct AccessLog {
    json: bool,
    /// Gone once it is closed.
    lines: Mutex<Option<SyncSender<String>>>,
    dropped: Arc<AtomicU64>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl AccessLog {
    /// `UNAVAILABLE` if the file cannot be written.
    pub(crate) fn open(settings: &AccessLogSettings) -> Result<Self, Status> {
        let failed = |error: io::Error| {
            Status::new(Code::Unavailable, format!("the access log {} cannot be written: {error}", settings.path))
        };
        let output = Output::open(&settings.path).map_err(failed)?;
        let (lines, waiting) = sync_channel(WAITING_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        let writer = thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write_all(output, &waiting, &lost))
            .map_err(failed)?;
        Ok(Self { json: settings.json, lines: Mutex::new(Some(lines)), dropped, writer: Mutex::new(Some(writer)) })
    }

    /// Writes the line of a request.
    pub(crate) fn note(&self, exchange: &Exchange) {
        let line = if self.json { json_line(exchange) } else { text_line(exchange) };
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.as_ref().is_none_or(|lines| lines.try_send(line).is_err()) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that could not be written.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Writes what waits, as far as that takes no longer than a moment.
    pub(crate) fn close(&self) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).take();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let end = Instant::now() + CHECK;
        while writer.as_ref().is_some_and(|writer| !writer.is_finished()) && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Where lines go.
enum Output {
    Standard(BufWriter<io::Stdout>),
    File { path: PathBuf, file: BufWriter<File>, inode: u64 },
}

impl Output {
    fn open(path: &str) -> io::Result<Self> {
        if path == "-" {
            return Ok(Self::Standard(BufWriter::new(io::stdout())));
        }
        let file = OpenOptions::new().create(true).append(true).mode(MODE).open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self::File { path: PathBuf::from(path), file: BufWriter::new(file), inode })
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Standard(output) => output,
            Self::File { file, .. } => file,
        }
    }

    /// Whoever rotates logs moves the file away and expects another one.
    fn reopen_if_moved(&mut self) {
        let Self::File { path, inode, .. } = self else { return };
        let is_same = std::fs::metadata(&*path).is_ok_and(|metadata| metadata.ino() == *inode);
        if !is_same && let Some(Ok(output)) = path.to_str().map(Self::open) {
            *self = output;
        }
    }
}

fn write_all(mut output: Output, lines: &Receiver<String>, dropped: &AtomicU64) {
    let mut looked = Instant::now();
    loop {
        let mut is_written = true;
        match lines.recv_timeout(CHECK) {
            Ok(line) => is_written = output.writer().write_all(line.as_bytes()).is_ok(),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let _ = output.writer().flush(); // there is nobody left to tell
                return;
            }
        }
        if looked.elapsed() >= CHECK {
            looked = Instant::now();
            is_written &= output.writer().flush().is_ok();
            output.reopen_if_moved();
        }
        if !is_written {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A value of a line.
enum Value<'a> {
    Text(&'a str),
    Number(u64),
}

/// Calls with each name and value, in the order in which they are written.
fn each_field(exchange: &Exchange, mut field: impl FnMut(&str, Value<'_>)) {
    let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    field("time", Value::Text(&time));
    field("remote", Value::Text(&exchange.connection.remote.map_or_else(|| "unix".to_owned(), |ip| ip.to_string())));
    if let Some(caller) = exchange.caller() {
        field("caller", Value::Text(&cut(caller, LONGEST_CALLER)));
    }
    field("entrypoint", Value::Text(exchange.entrypoint.name()));
    field("method", Value::Text(&cut(exchange.method.as_str(), LONGEST_TARGET)));
    field("target", Value::Text(&cut(&exchange.target, LONGEST_TARGET)));
    if !exchange.model().is_empty() {
        field("model", Value::Text(exchange.model()));
    }
    if let Some(servable) = exchange.servable() {
        field("version", Value::Text(&servable.version().to_string()));
        let signature = exchange.signature().and_then(|index| servable.signatures().nth(index));
        if let Some(signature) = signature {
            field("signature", Value::Text(&signature.name));
        }
    }
    field("code", Value::Text(exchange.code().name()));
    if let Some(status) = exchange.http_status() {
        field("status", Value::Number(u64::from(status)));
    }
    field("request_bytes", Value::Number(exchange.request_bytes() as u64));
    field("response_bytes", Value::Number(exchange.response_bytes() as u64));
    field("took_us", Value::Number(exchange.progress.begin().elapsed().as_micros() as u64));
    for (stage, from, to) in STAGES {
        if let Some(took) = exchange.progress.between(from, to) {
            field(&format!("{stage}_us"), Value::Number(took.as_micros() as u64));
        }
    }
    if let Some(trace_id) = exchange.trace_id() {
        field("trace_id", Value::Text(trace_id));
    }
    if let Some(batch) = exchange.progress.batch() {
        field("batch_rows", Value::Number(batch.rows as u64));
    }
}

fn json_line(exchange: &Exchange) -> String {
    let mut line = String::with_capacity(512);
    each_field(exchange, |name, value| {
        line.push(if line.is_empty() { '{' } else { ',' });
        let _ = match value {
            Value::Text(text) => write!(line, "\"{name}\":{}", serde_json::Value::from(text)),
            Value::Number(number) => write!(line, "\"{name}\":{number}"),
        };
    });
    line.push_str("}\n");
    line
}

/// Names and values, as `logfmt` has them: values with anything but plain characters stand in quotes.
fn text_line(exchange: &Exchange) -> String {
    let mut line = String::with_capacity(512);
    each_field(exchange, |name, value| {
        if !line.is_empty() {
            line.push(' ');
        }
        let is_plain = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"=\\".contains(&byte))
        };
        let _ = match value {
            Value::Text(text) if is_plain(text) => write!(line, "{name}={text}"),
            Value::Text(text) => write!(line, "{name}={}", serde_json::Value::from(text)),
            Value::Number(number) => write!(line, "{name}={number}"),
        };
    });
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};
    use servable_core::usage::Entrypoint;

    use super::*;
    use crate::access::{Access, AccessSpec};
    use crate::body::Share;
    use crate::exchange::Connection;

    fn exchange(target: &str) -> Exchange {
        let connection = Arc::new(Connection { remote: None, crowd: crate::app::Crowd::Clients, names: Vec::new() });
        let exchange = Exchange::new(connection, Share::none(), Entrypoint::Rest, Method::GET, target.to_owned());
        exchange.received(3);
        exchange.ends(Err(Code::NotFound));
        exchange
    }

    #[test]
    fn what_clients_send_cannot_make_lines_of_its_own() {
        let odd = exchange("/v1/\nmodel=\"x\"");
        odd.names("a b");
        let text = text_line(&odd);
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert!(text.contains(r#" target="/v1/\nmodel=\"x\"" model="a b" code=NOT_FOUND request_bytes=3 "#), "{text}");
        let json: serde_json::Value = serde_json::from_str(&json_line(&odd)).expect("it is JSON");
        assert_eq!(json["target"], "/v1/\nmodel=\"x\"");
        assert_eq!((&json["remote"], &json["request_bytes"]), (&"unix".into(), &3.into()));
    }

    #[test]
    fn callers_are_named_where_they_are_known() {
        let name = format!("a b\n{}", "c".repeat(10_000));
        let certificates = vec![("CN=known".to_owned(), name)];
        let access = Access::new(&AccessSpec { certificates, ..AccessSpec::default() }).expect("it has no rules");
        let line = |certificate: &str| {
            let exchange = exchange("/");
            let identity = access.identify(&HeaderMap::new(), &[certificate.to_owned()]);
            exchange.comes_from(identity.expect("it sends nothing that is wrong"));
            text_line(&exchange)
        };
        assert!(line("CN=known").contains(r#" remote=unix caller="a b\nccc"#), "{}", line("CN=known"));
        assert!(line("CN=known").len() < 1000);
        assert!(line("CN=other").contains(" remote=unix entrypoint=REST "));
    }

    #[test]
    fn long_targets_are_cut() {
        assert!(text_line(&exchange(&"é".repeat(10_000))).len() < 4 * LONGEST_TARGET);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let settings = AccessLogSettings { path: "/no/such/folder/log".to_owned(), json: false };
        let Err(refusal) = AccessLog::open(&settings) else { panic!("there is no such folder") };
        assert!(refusal.message.contains("/no/such/folder/log"), "{refusal}");
    }
}
