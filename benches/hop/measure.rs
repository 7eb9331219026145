//! Rounds of calls: each side in turn, so that whatever else the machine does falls on all of them alike.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::Result;
use crate::client::Client;

/// One of the things that are compared.
pub(crate) struct Side {
    pub(crate) name: &'static str,
    pub(crate) clients: Vec<Client>,
    samples: Vec<Sample>,
}

/// What a side did in one round.
struct Sample {
    calls: f64,
    seconds: f64,
    /// Time on a processor, in seconds, of each group of threads.
    processor: BTreeMap<String, f64>,
    latencies: Vec<Duration>,
}

impl Side {
    pub(crate) fn new(name: &'static str, clients: Vec<Client>) -> Self {
        Self { name, clients, samples: Vec::new() }
    }

    /// Calls a second, in the median round.
    pub(crate) fn rate(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.calls / sample.seconds).collect())
    }

    /// This side's rate over another's, in the median of the rounds that both were in.
    pub(crate) fn ratio(&self, other: &Self) -> f64 {
        let rate = |sample: &Sample| sample.calls / sample.seconds;
        median(self.samples.iter().zip(&other.samples).map(|(own, other)| rate(own) / rate(other)).collect())
    }

    /// Microseconds on a processor that one call took of the threads whose name starts with `thread`.
    pub(crate) fn processor(&self, thread: &str) -> f64 {
        let of = |sample: &Sample| {
            let own = sample.processor.iter().filter(|(name, _)| name.starts_with(thread));
            own.map(|(_, seconds)| seconds).sum::<f64>() * 1e6 / sample.calls
        };
        median(self.samples.iter().map(of).collect())
    }

    /// The latency that this part of the calls stayed below.
    pub(crate) fn latency(&self, part: f64) -> Duration {
        let mut all: Vec<Duration> = self.samples.iter().flat_map(|sample| &sample.latencies).copied().collect();
        all.sort_unstable();
        let last = all.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index below a length that fits"
        )]
        let index = (last as f64 * part) as usize;
        all.get(index).copied().unwrap_or_default()
    }
}

/// Measures every side in every round, in alternating order. `clients` limits how many of a side's clients call.
pub(crate) fn rounds(
    runtime: &Runtime,
    sides: &mut [Side],
    rounds: usize,
    length: Duration,
    clients: usize,
) -> Result<()> {
    for side in sides.iter_mut() {
        side.samples.clear();
        // Connections, pools and caches are warm before anything counts.
        run(runtime, side, length / 2, clients)?;
    }
    for round in 0..rounds {
        let forward = round % 2 == 0;
        for turn in 0..sides.len() {
            let index = if forward { turn } else { sides.len() - 1 - turn };
            let side = sides.get_mut(index).ok_or("no such side")?;
            let sample = run(runtime, side, length, clients)?;
            side.samples.push(sample);
        }
    }
    Ok(())
}

fn run(runtime: &Runtime, side: &mut Side, length: Duration, clients: usize) -> Result<Sample> {
    let idle = side.clients.split_off(clients.min(side.clients.len()));
    let working = std::mem::take(&mut side.clients);
    let before = processor_times();
    let started = Instant::now();
    let deadline = started + length;
    let (clients, latencies) = runtime.block_on(async {
        let tasks: Vec<_> = working.into_iter().map(|client| tokio::spawn(until(client, deadline))).collect();
        let (mut clients, mut latencies) = (Vec::new(), Vec::new());
        for task in tasks {
            let (client, own) = task.await??;
            clients.push(client);
            latencies.extend(own);
        }
        Ok::<_, crate::Error>((clients, latencies))
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let mut processor = processor_times();
    for (name, seconds) in before {
        *processor.entry(name).or_default() -= seconds;
    }
    side.clients.extend(clients);
    side.clients.extend(idle);
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let calls = latencies.len() as f64;
    Ok(Sample { calls, seconds, processor, latencies })
}

async fn until(mut client: Client, deadline: Instant) -> Result<(Client, Vec<Duration>)> {
    let mut latencies = Vec::new();
    let mut now = Instant::now();
    while now < deadline {
        client.call().await?;
        let done = Instant::now();
        latencies.push(done - now);
        now = done;
    }
    Ok((client, latencies))
}

/// The time on a processor of this process's threads so far, in seconds, by the threads' names. Linux only: elsewhere,
/// and where the kernel does not say, there are none, and the table says 0.
fn processor_times() -> BTreeMap<String, f64> {
    let mut times = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let nanoseconds = read("schedstat").split(' ').next().and_then(|first| first.parse::<f64>().ok());
        *times.entry(read("comm").trim().to_owned()).or_default() += nanoseconds.unwrap_or_default() / 1e9;
    }
    times
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
