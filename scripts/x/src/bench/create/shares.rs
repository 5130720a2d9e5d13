//! Where the time from the warm pool goes, by the sums that the program's own histograms grew by, divided by the runs. The client's clock
//! gives the whole; what no histogram covers is the difference to the one around it.

use std::time::Duration;

use anyhow::Result;
use omnirun_test_support::http::Client;

use super::Run;
use crate::bench::numbers::print_table;

/// What `/metrics` says.
pub struct Metrics(String);

impl Metrics {
    pub async fn read(client: &Client) -> Result<Self> {
        Ok(Self(client.get("/metrics").await?.text()))
    }

    /// The sum of the series with this name whose labels hold all of these values.
    pub fn value(&self, name: &str, labels: &[&str]) -> f64 {
        let lines = self.0.lines().filter(|line| !line.starts_with('#'));
        let found = lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let rest = series.strip_prefix(name)?;
            let is_it = rest.is_empty() || rest.starts_with('{');
            let holds = labels.iter().all(|label| rest.contains(&format!("=\"{label}\"")));
            (is_it && holds).then(|| value.parse::<f64>().ok())?
        });
        found.sum()
    }

    /// How many values a histogram holds.
    pub fn count(&self, name: &str, labels: &[&str]) -> f64 {
        self.value(&format!("{name}_count"), labels)
    }
}

/// Prints the shares of one sandbox on average.
pub fn print(before: &Metrics, after: &Metrics, runs: &[Run]) {
    let count = runs.len() as f64;
    let mean = |name: &str, labels: &[&str]| {
        let name = format!("{name}_sum");
        (after.value(&name, labels) - before.value(&name, labels)) * 1e3 / count
    };
    let clock =
        |time: fn(&Run) -> Duration| runs.iter().map(time).sum::<Duration>().as_secs_f64() * 1e3 / count;
    let (create, echo) = (clock(|run| run.created), clock(|run| run.echoed));
    let http_create = mean("omnirun_http_seconds", &["POST", "/sandboxes"]);
    let http_echo = mean("omnirun_http_seconds", &["POST", "/sandboxes/{id}/commands"]);
    let command = mean("omnirun_commands_seconds", &["cmd.sandbox.request"]);
    let start = mean("omnirun_worker_start_seconds", &["pool"]);
    let personalise = mean("omnirun_worker_personalise_seconds", &[]);
    let guest_echo = mean("omnirun_worker_guest_seconds", &["POST"]);
    let shares = [
        ("guest and its owner process: personalise", personalise),
        ("guest and its owner process: echo", guest_echo),
        ("worker: takes the guest, outbox on disk (start without personalise)", start - personalise),
        ("commands: decide, sign, append SandboxRequested", command),
        (
            "log and views: claim, publish started, three views (rest of the create)",
            http_create - command - start,
        ),
        ("gateway, TLS and worker's relay: echo", http_echo - guest_echo),
        ("client and its two connections", create + echo - http_create - http_echo),
    ];
    let whole = create + echo;
    let row = |name: &str, time: f64| {
        vec![name.to_owned(), format!("{time:.2}"), format!("{:.0} %", time / whole * 100.0)]
    };
    let mut rows: Vec<_> = shares.iter().map(|(name, time)| row(name, *time)).collect();
    rows.push(row("all", whole));
    let rest = whole - personalise - guest_echo;
    print_table(
        &format!("warm pool: where the time goes, mean of {} in ms", runs.len()),
        &["", "ms", "share"],
        &rows,
    );
    println!("  not the guest's own: {rest:.1} ms (goal: at most 15)");
    println!("  by the program's histograms over these runs, and the client's clock for the whole");
}
