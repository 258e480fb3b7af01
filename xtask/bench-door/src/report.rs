//! Medians over rounds, ratios within rounds, and the table.

use std::collections::BTreeMap;

use bench_base::statistics::{median, percentile};

use crate::{contender::Contender, load::Measured};

/// Every measurement, by contender, one per round.
#[derive(Debug, Default)]
pub(crate) struct Report {
    slices: BTreeMap<Contender, Vec<Slice>>,
}

/// One measurement without its details.
#[derive(Clone, Copy, Debug)]
struct Slice {
    rate: f64,
    p50: u32,
    p99: u32,
}

impl Report {
    /// Adds one measurement.
    pub(crate) fn add(&mut self, contender: Contender, measured: &Measured) {
        let at = |share| percentile(&measured.latencies, share);
        self.slices.entry(contender).or_default().push(Slice { rate: measured.rate, p50: at(50), p99: at(99) });
    }

    /// The floor that is slower, by the median over rounds.
    pub(crate) fn lower_floor(&self) -> Contender {
        let rate = |floor| median(self.of(floor).map(|slice| slice.rate));
        if rate(Contender::BareHttp) < rate(Contender::BareCommits) {
            Contender::BareHttp
        } else {
            Contender::BareCommits
        }
    }

    /// The contender's rate as a share of the lower floor's: the median of the shares within each round.
    pub(crate) fn share(&self, contender: Contender) -> f64 {
        let floors = self.of(self.lower_floor());
        median(self.of(contender).zip(floors).map(|(slice, floor)| slice.rate / floor.rate))
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut table = format!("{:<38}{:>10}{:>13}{:>13}{:>20}\n", "", "req/s", "p50", "p99", "of the lower floor");
        for contender in [Contender::BareHttp, Contender::BareCommits, Contender::Respond, Contender::Code] {
            let rate = median(self.of(contender).map(|slice| slice.rate));
            let p50 = median(self.of(contender).map(|slice| f64::from(slice.p50))) / 1e3;
            let p99 = median(self.of(contender).map(|slice| f64::from(slice.p99))) / 1e3;
            let share = self.share(contender) * 100.0;
            table += &format!("{:<38}{rate:>10.0}{p50:>10.2} ms{p99:>10.2} ms{share:>18.1} %\n", contender.name());
        }
        table
    }

    fn of(&self, contender: Contender) -> impl Iterator<Item = Slice> {
        self.slices.get(&contender).into_iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(rate: f64) -> Measured {
        Measured { rate, latencies: vec![1, 2, 3], runs: vec![] }
    }

    #[test]
    fn shares_are_taken_within_rounds_of_the_slower_floor() {
        let mut report = Report::default();
        for (http, commits, run) in [(100.0, 50.0, 25.0), (10.0, 5.0, 4.0), (100.0, 50.0, 20.0)] {
            report.add(Contender::BareHttp, &measured(http));
            report.add(Contender::BareCommits, &measured(commits));
            report.add(Contender::Respond, &measured(run));
        }
        assert_eq!(report.lower_floor(), Contender::BareCommits);
        assert!((report.share(Contender::Respond) - 0.5).abs() < 1e-9);
        assert!((report.share(Contender::BareCommits) - 1.0).abs() < 1e-9);
    }
}
