//! The text that Prometheus reads, as TensorFlow Serving writes it or as Prometheus' own libraries do.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use prometheus::IntCounterVec;
use prometheus::core::Collector;
use prometheus::proto::{Metric, MetricFamily, MetricType};
use servable_core::usage::HistogramSum;

/// Who is to read a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// Dashboards made for TensorFlow Serving: types without help, braces always, numbers of six digits.
    Original,
    /// Anybody else.
    Own,
}

/// A page that is being written.
pub(super) struct Text {
    text: String,
    style: Style,
}

/// Names and values, in the order in which they are written.
pub(super) type Labels<'a> = [(&'a str, &'a str)];

impl Text {
    pub(super) fn new(style: Style) -> Self {
        Self { text: String::new(), style }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    /// What comes before the samples of a metric.
    pub(super) fn begin(&mut self, name: &str, kind: &str, help: &str) {
        if self.style == Style::Own {
            let _ = writeln!(self.text, "# HELP {name} {help}");
        }
        let _ = writeln!(self.text, "# TYPE {name} {kind}");
    }

    pub(super) fn sample(&mut self, name: &str, labels: &Labels<'_>, value: impl std::fmt::Display) {
        self.text.push_str(name);
        self.labels(labels, None);
        let _ = writeln!(self.text, " {value}");
    }

    fn labels(&mut self, labels: &Labels<'_>, limit: Option<&str>) {
        let all = labels.iter().copied().chain(limit.map(|limit| ("le", limit)));
        let mut is_first = true;
        for (name, value) in all {
            self.text.push(if is_first { '{' } else { ',' });
            is_first = false;
            let _ = write!(self.text, "{name}=\"{}\"", escaped(value));
        }
        match (is_first, self.style) {
            (false, _) => self.text.push('}'),
            (true, Style::Original) => self.text.push_str("{}"),
            (true, Style::Own) => {}
        }
    }

    /// A histogram with these limits; `count` is of all, beyond the last limit too.
    fn histogram(
        &mut self,
        name: &str,
        labels: &Labels<'_>,
        buckets: impl Iterator<Item = (f64, u64)>,
        count: u64,
        sum: f64,
    ) {
        let bucket = |text: &mut Self, limit: &str, count: u64| {
            let _ = write!(text.text, "{name}_bucket");
            text.labels(labels, Some(limit));
            let _ = writeln!(text.text, " {count}");
        };
        for (limit, below) in buckets {
            bucket(self, &six_digits(limit), below);
        }
        bucket(self, "+Inf", count);
        self.sample(
            &format!("{name}_sum"),
            labels,
            if self.style == Style::Own { sum.to_string() } else { six_digits(sum) },
        );
        self.sample(&format!("{name}_count"), labels, count);
    }

    /// Durations in microseconds, in all their buckets.
    pub(super) fn microseconds(&mut self, name: &str, labels: &Labels<'_>, durations: &HistogramSum) {
        let buckets = HistogramSum::limits().iter().copied().zip(durations.cumulative());
        self.histogram(name, labels, buckets, durations.count(), durations.seconds() * 1e6);
    }

    /// Durations in seconds, in every second bucket: each one is a series to store for every version.
    pub(super) fn seconds(&mut self, name: &str, labels: &Labels<'_>, durations: &HistogramSum) {
        let buckets = HistogramSum::limits().iter().map(|limit| limit / 1e6).zip(durations.cumulative()).step_by(2);
        self.histogram(name, labels, buckets, durations.count(), durations.seconds());
    }

    /// A metric that the library keeps.
    pub(super) fn collected(&mut self, name: &str, collector: &dyn Collector) {
        let families = collector.collect();
        let description = collector.desc();
        let help = description.first().map_or("", |description| &description.help);
        let kind = match families.first().map(MetricFamily::get_field_type) {
            Some(MetricType::HISTOGRAM) => "histogram",
            Some(MetricType::GAUGE) => "gauge",
            _ => "counter",
        };
        self.begin(name, kind, help);
        self.families(name, &families, &[]);
    }

    /// The samples of a metric that the library keeps, with further labels.
    pub(super) fn samples(&mut self, name: &str, collector: &dyn Collector, further: &Labels<'_>) {
        self.families(name, &collector.collect(), further);
    }

    fn families(&mut self, name: &str, families: &[MetricFamily], further: &Labels<'_>) {
        for (kind, metric) in families
            .iter()
            .flat_map(|family| family.get_metric().iter().map(|metric| (family.get_field_type(), metric)))
        {
            let own = metric.get_label().iter().map(|label| (label.name(), label.value()));
            let mut labels: Vec<(&str, &str)> = own.chain(further.iter().copied()).collect();
            labels.sort_by_key(|(name, _)| (*name != "model_name", *name != "model", *name));
            match kind {
                MetricType::HISTOGRAM => {
                    let histogram = metric.get_histogram();
                    let buckets =
                        histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
                    self.histogram(name, &labels, buckets, histogram.get_sample_count(), histogram.get_sample_sum());
                }
                MetricType::GAUGE => self.sample(name, &labels, metric.get_gauge().get_value()),
                _ => self.sample(name, &labels, metric.get_counter().get_value()),
            }
        }
    }
}

/// The counts of a metric by the values of these two labels.
pub(super) fn counts(metric: &IntCounterVec, names: [&str; 2]) -> BTreeMap<[String; 2], u64> {
    let families = metric.collect();
    let series = families.iter().flat_map(MetricFamily::get_metric);
    let value = |series: &Metric, name: &str| {
        let label = series.get_label().iter().find(|label| label.name() == name);
        label.map_or_else(String::new, |label| label.value().to_owned())
    };
    series.map(|series| (names.map(|name| value(series, name)), series.get_counter().get_value() as u64)).collect()
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Six significant digits, as C++ streams print numbers.
fn six_digits(value: f64) -> String {
    let scientific = format!("{value:.5e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trimmed = |text: &str| {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() }
    };
    if (-4..6).contains(&exponent) {
        return trimmed(&format!("{value:.*}", usize::try_from(5 - exponent).unwrap_or(0)));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trimmed(mantissa), exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_six_digits() {
        let cases = [
            (10e-6, "1e-05"),
            (10.0, "10"),
            (188.9568, "188.957"),
            (1_234_567.8, "1.23457e+06"),
            (0.0, "0"),
            (0.5, "0.5"),
        ];
        for (value, text) in cases {
            assert_eq!(six_digits(value), text);
        }
    }
}
