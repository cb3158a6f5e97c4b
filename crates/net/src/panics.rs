//! Panics as lines of the log, in the form that the control plane logs in.

use std::panic::{self, PanicHookInfo};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use servable_wire::json::quote;

const LOGGER: &str = "servable.engine";

/// Lets panics be one line each on standard error.
pub fn log_panics(json: bool) {
    panic::set_hook(Box::new(move |panic| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let thread = std::thread::current();
        let message = message(panic, thread.name().unwrap_or("without a name"));
        eprintln!("{}", if json { json_line(now, &message) } else { text_line(now, &message) });
    }));
}

fn message(panic: &PanicHookInfo<'_>, thread: &str) -> String {
    let payload = panic.payload();
    let literal = payload.downcast_ref::<&str>().copied();
    let reason =
        literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason is known");
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    format!("Thread {thread} panicked at {place}: {reason}; this is a bug")
}

fn json_line(now: Duration, message: &str) -> String {
    let mut line =
        format!("{{\"time\": \"{}\", \"level\": \"ERROR\", \"logger\": \"{LOGGER}\", \"message\": ", utc(now))
            .into_bytes();
    quote(message.as_bytes(), &mut line);
    line.push(b'}');
    String::from_utf8_lossy(&line).into_owned()
}

fn text_line(now: Duration, message: &str) -> String {
    format!("{} ERROR {LOGGER}: {}", utc(now), message.replace('\n', "\\n"))
}

/// RFC 3339, to the millisecond.
fn utc(since_epoch: Duration) -> String {
    let (days, seconds) = (since_epoch.as_secs() / 86_400, since_epoch.as_secs() % 86_400);
    // Counted in eras of 400 years that begin in March, so that a leap day is the last of its year.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since_epoch.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_read_them() {
        let cases = [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_827_696, "2000-02-29T12:34:56.007Z"),
            (1_709_251_199, "2024-02-29T23:59:59.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(utc(Duration::from_millis(seconds * 1000 + 7)), text);
        }
    }

    #[test]
    fn a_panic_is_one_line() {
        let line = json_line(Duration::ZERO, "a \"b\"\nc");
        let wanted = "{\"time\": \"1970-01-01T00:00:00.000Z\", \"level\": \"ERROR\", \"logger\": \"servable.engine\", \
                      \"message\": \"a \\\"b\\\"\\nc\"}";
        assert_eq!(line, wanted);
        assert_eq!(text_line(Duration::ZERO, "a\nb"), "1970-01-01T00:00:00.000Z ERROR servable.engine: a\\nb");
    }
}
