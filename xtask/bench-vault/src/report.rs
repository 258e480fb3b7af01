//! Medians over rounds, shares within rounds, verdicts.

use std::fs;

use crate::contender::{Aim, Contender};

/// Every measurement: per round, how long each contender took. Unit: nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rounds: Vec<Vec<f64>>,
}

impl Report {
    pub(crate) fn add_round(&mut self, times: Vec<f64>) {
        self.rounds.push(times);
    }

    /// One line per contender.
    pub(crate) fn table(&self, contenders: &[Contender]) -> String {
        let mut table = format!("{:<46}{:>14}{:>14}{:>16}\n", "", "time", "MB/s", "times the floor");
        for (index, contender) in contenders.iter().enumerate() {
            let time = self.median_of(index);
            let rate = if contender.bytes == 0 { String::new() } else { format!("{:.0}", rate(contender, time)) };
            let floor = contender.floor.map(|floor| format!("{:.2}", self.share(index, floor))).unwrap_or_default();
            table += &format!("{:<46}{:>14}{rate:>14}{floor:>16}\n", contender.name, shown(time));
        }
        table
    }

    /// One sentence per promise.
    pub(crate) fn verdicts<'a>(&'a self, contenders: &'a [Contender]) -> impl Iterator<Item = String> + 'a {
        contenders.iter().enumerate().filter_map(|(index, contender)| {
            let time = self.median_of(index);
            let (met, aim) = match contender.aim? {
                Aim::Throughput(aim) => (rate(contender, time) >= aim, format!("{aim:.0} MB/s or more")),
                Aim::Time(aim) => (time <= aim, format!("{} or less", shown(aim))),
            };
            let verdict = if met { "reached" } else { "missed" };
            Some(format!("{}: the aim of {aim} is {verdict}.", contender.name))
        })
    }

    /// How many times as long as the floor, by the median over rounds.
    fn share(&self, index: usize, floor: usize) -> f64 {
        median(self.rounds.iter().filter_map(|round| Some(round.get(index)? / round.get(floor)?)))
    }

    fn median_of(&self, index: usize) -> f64 {
        median(self.rounds.iter().filter_map(|round| round.get(index).copied()))
    }
}

/// What the figures were measured on.
pub(crate) fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} cores ({})", cpu.map_or("unknown", |(_, name)| name))
}

/// Unit: megabytes (10⁶ bytes) per second.
fn rate(contender: &Contender, time: f64) -> f64 {
    contender.bytes as f64 * 1e3 / time
}

fn shown(nanoseconds: f64) -> String {
    if nanoseconds < 10_000.0 { format!("{nanoseconds:.0} ns") } else { format!("{:.1} µs", nanoseconds / 1e3) }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { at(middle) } else { f64::midpoint(at(middle.wrapping_sub(1)), at(middle)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contender(floor: Option<usize>, aim: Aim) -> Contender {
        let work = Box::new(|| {});
        Contender { name: "it".to_owned(), bytes: 1_000, batch: 1, floor, aim: Some(aim), work }
    }

    #[test]
    fn verdicts_and_shares_come_from_medians() {
        let contenders = [contender(None, Aim::Time(20.0)), contender(Some(0), Aim::Throughput(25_001.0))];
        let mut report = Report::default();
        for round in [[10.0, 40.0], [20.0, 40.0], [1_000.0, 3_000.0]] {
            report.add_round(round.to_vec());
        }
        let verdicts: Vec<String> = report.verdicts(&contenders).collect();
        assert_eq!(
            verdicts,
            ["it: the aim of 20 ns or less is reached.", "it: the aim of 25001 MB/s or more is missed."]
        );
        let table = report.table(&contenders);
        assert!(table.lines().nth(2).is_some_and(|line| line.contains("40 ns") && line.ends_with("3.00")), "{table}");
        assert!(median([].into_iter()).is_nan());
    }
}
