//! Figures to text.

use std::time::Duration;

use anyhow::Result;

/// Something that is measured.
pub struct Line<'a> {
    pub name: &'static str,
    /// What its median and its 99th percentile should stay below. Unit: microseconds.
    pub aim: Option<(f64, f64)>,
    pub work: Box<dyn FnMut() -> Result<()> + 'a>,
    pub times: Vec<Duration>,
}

impl<'a> Line<'a> {
    pub fn new(name: &'static str, aim: Option<(f64, f64)>, work: impl FnMut() -> Result<()> + 'a) -> Self {
        Self { name, aim, work: Box::new(work), times: Vec::new() }
    }
}

/// Prints a table of all lines, and whether each reached its aim.
pub fn table(lines: &mut [Line<'_>]) {
    println!("{:42} {:>9} {:>9} {:>9} {:>9}  aim", "", "least", "p50", "p99", "runs");
    for line in lines {
        line.times.sort_unstable();
        let [least, p50, p99] = [0.0, 0.5, 0.99].map(|share| percentile(&line.times, share));
        let aim = match line.aim {
            None => String::new(),
            Some((median, tail)) => {
                let reached = p50 <= median && p99 <= tail;
                let tail = if tail.is_finite() { format!(", p99 {tail:.0}") } else { String::new() };
                format!("p50 {median:.0}{tail}: {}", if reached { "reached" } else { "MISSED" })
            }
        };
        println!("{:42} {least:9.1} {p50:9.1} {p99:9.1} {:9}  {aim}", line.name, line.times.len());
    }
}

/// Of sorted times; unit: microseconds.
pub fn percentile(times: &[Duration], share: f64) -> f64 {
    let last = times.len().saturating_sub(1);
    let index = (last as f64 * share).round() as usize;
    times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

/// The machine, as far as it says.
pub fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown processor", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    format!("{model}, {cores} cores, load {load}")
}
